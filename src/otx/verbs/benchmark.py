"""`otx benchmark FILE...`: compare the speed of model files on this machine, measured in turns."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from otx.data.decode import decode_image
from otx.data.reading import Reading
from otx.errors import DataError, ImageError, RunError, UsageError
from otx.events import Progress, Reporter
from otx.files import check_output, write_json
from otx.inference.footprint import memory_growth
from otx.inference.measure import Feed, Latency, Meter, Noise, Photos, measure_latency, measure_rates
from otx.inference.predict import find_images
from otx.inference.runners import AUTO, Runner, check_device, has_streams, runtime_of, weights_of
from otx.inference.timing import ROUNDS
from otx.machine import available_cores
from otx.model.modelfile import read_card
from otx.model.trained import TrainedModel
from otx.results_machine import BenchmarkedFile, BenchmarkResult, Throughput
from otx.verbs.env import processor_name
from otx.verbs.predict import Sources, as_list
from otx.verbs.probe import Crashed, NoAnswer, ask
from otx.verbs.session import Session
from otx.workspace import model_of

NUM_PHOTOS = 64
MEMORY_SECONDS = 300.0
MOST_STREAMS, LARGEST_BATCH, LONGEST = 1024, 4096, 3600


@dataclass(frozen=True)
class Plan:
    """What to measure for each file: always one image at a time, then every batch size with every number of streams.

    Args:
        device: a device name for `runners.check_device`.
        batches: batch sizes.
        streams: `auto` or a number, for runtimes that have streams.
        seconds: how long each figure of each file is measured.
        memory: also load each file in a process of its own, to measure the memory it takes.
    """

    device: str = "CPU"
    batches: tuple[int, ...] = (1, 8)
    streams: tuple[str, ...] = (AUTO,)
    seconds: float = 2.0
    memory: bool = True

    def check(self) -> None:
        """Raise UsageError if a value is out of range."""
        if not self.batches or not all(1 <= batch <= LARGEST_BATCH for batch in self.batches):
            raise UsageError(f"--batch {_list(self.batches)}: must be from 1 to {LARGEST_BATCH}", fix="--batch 1,8,32")
        if not self.streams or not all(each == AUTO or _is_count(each) for each in self.streams):
            raise UsageError(
                f"--streams {_list(self.streams)}: must be {AUTO} or a number", fix=f"--streams {AUTO},1,2"
            )
        if not 0 < self.seconds <= LONGEST:
            raise UsageError(f"--seconds {self.seconds:g}: must be more than 0, and at most {LONGEST}")


def _is_count(text: str) -> bool:
    return text.isascii() and text.isdigit() and 1 <= int(text) <= MOST_STREAMS


def _list(values: Iterable[object]) -> str:
    return ",".join(map(str, values))


def run(
    session: Session,
    files: Sources,
    *,
    device: str,
    batch: Iterable[int],
    streams: Iterable[int | str],
    seconds: float,
    decode: bool,
    images: Sources | None,
    memory: bool,
    output: Path | None,
) -> BenchmarkResult:
    """Check the options, find the photos to decode, measure, and write the figures."""
    plan = Plan(device, tuple(dict.fromkeys(batch)), tuple(dict.fromkeys(map(str, streams))), seconds, memory)
    plan.check()
    if output is not None:
        check_output(output, "benchmarks", (".json",), "benchmark.json")
    if images is not None and not decode:
        raise UsageError("--images is of use with --decode true only", fix="--decode true")
    paths = [model_of(file) for file in as_list(files)]
    check_files(paths, device)
    photos: list[Path] = []
    if decode and images is not None:
        photos = [Path(name) for name in find_images(as_list(images))]
    elif decode:
        photos = list(TrainedModel.open(paths[0]).test_images(session.data_request(), session.reporter).files())
    result = benchmark(paths, plan, photos, session.max_pixels, session.reporter)
    if output is not None:
        write_json(output, result.to_dict())
    return result


def check_files(paths: Sequence[Path], device: str) -> None:
    """Raise InputError if a file is given twice or is not a model file, or if its runtime does not see the device."""
    if not paths:
        raise UsageError("there is no file to measure", fix="otx benchmark model.safetensors exported_model.xml")
    for number, path in enumerate(paths):
        if path.resolve() in {other.resolve() for other in paths[:number]}:
            raise UsageError(f"{path} is given twice", fix="give each file once")
        if path.is_dir():
            raise UsageError(f"{path} is a folder without model.safetensors", fix="give model files or run folders")
        read_card(path)
    for path in paths:
        check_device(path, device)


def benchmark(
    paths: Sequence[Path], plan: Plan, photos: Sequence[Path], max_pixels: int, reporter: Reporter
) -> BenchmarkResult:
    """Measure files in turns: first their memory, then latency, then each batch size with each number of streams.

    Only what one figure needs is loaded at a time.

    Args:
        paths: files that `check_files` has passed.
        photos: images whose decoding is part of the measured time; none: noise prepared in advance.

    Raises:
        ModelError, UsageError: a file cannot be measured at all.
        DataError: none of the photos can be decoded.
        RunError: a runtime fails, or a file kills the process that loads it.
    """
    files = dict(zip(names_apart(paths), paths, strict=True))
    reading = read_card(paths[0]).preprocessing.reading(max_pixels)
    kept, decoding = _decodable(photos, reading) if photos else ([], "")
    figures = list(itertools.product(plan.batches, plan.streams))
    reporter.note(
        f"Measuring {len(files)} {'files' if len(files) > 1 else 'file'} in turns: at least "
        f"{len(files) * (1 + len(figures)) * plan.seconds:.0f} s, and the time to load what is measured."
    )
    memory = _memory_of(files, plan.device) if plan.memory else dict.fromkeys(files)

    def feed(runner: Runner) -> Feed:
        return Photos(runner, kept, max_pixels) if kept else Noise(runner)

    def on_round(figure: int, number: int) -> None:
        reporter.progress(Progress("measuring", figure * ROUNDS + number, (1 + len(figures)) * ROUNDS))

    def meter(figure: int) -> Meter:
        return Meter(plan.device, feed, plan.seconds, partial(on_round, figure))

    latencies = measure_latency(files, meter(0))
    rates: dict[str, list[Throughput]] = {name: [] for name in files}
    for number, (batch, streams) in enumerate(figures, start=1):
        # a runtime without streams is measured once for each batch size
        some = {name: path for name, path in files.items() if has_streams(path) or streams == plan.streams[0]}
        for name, rate in measure_rates(some, meter(number), batch=batch, streams=streams).items():
            asked = streams if has_streams(files[name]) else ""
            rates[name].append(Throughput(batch, asked, rate.images_per_second, rate.requests, rate.why_not))
    measured = tuple(_row(name, path, latencies[name], rates[name], memory[name]) for name, path in files.items())
    return BenchmarkResult(processor_name(), available_cores(), plan.seconds, ROUNDS, decoding, measured)


def _row(name: str, path: Path, latency: Latency, rates: Sequence[Throughput], memory: int | None) -> BenchmarkedFile:
    size, parts = latency.runner.card.preprocessing, [path, *([path.with_suffix(".bin")] * (path.suffix == ".xml"))]
    return BenchmarkedFile(
        name=name,
        path=path,
        runtime=runtime_of(path),
        device=latency.runner.device,
        weights=weights_of(path),
        computes_in=latency.runner.computes_in,
        input_size=(size.height, size.width),
        size_bytes=sum(part.stat().st_size for part in parts),
        threads=latency.runner.threads,
        latency_ms=latency.median_ms,
        latency_p95_ms=latency.p95_ms,
        num_timed=latency.count,
        throughput=tuple(rates),
        memory_bytes=memory,
    )


def names_apart(paths: Sequence[Path]) -> list[str]:
    """The shortest ends of paths that tell them apart: `model.xml`, or `a/model.xml` and `b/model.xml`."""
    whole = [path.absolute().parts for path in paths]

    def shortest(parts: tuple[str, ...]) -> str:
        lengths = range(1, len(parts) + 1)
        return "/".join(next(parts[-n:] for n in lengths if sum(each[-n:] == parts[-n:] for each in whole) == 1))

    return [shortest(parts) for parts in whole]


def _decodable(photos: Sequence[Path], reading: Reading) -> tuple[list[Path], str]:
    """A sample of photos that can be decoded, spread over all of them, and its description."""
    kept, sizes, reason = [], [], ""
    for path in photos[:: max(1, len(photos) // NUM_PHOTOS)][:NUM_PHOTOS]:
        try:
            height, width, _ = decode_image(path, reading).shape
        except ImageError as error:
            reason = f"{path}: {error.what}"
            continue
        kept.append(path)
        sizes.append(height * width)
    if not kept:
        raise DataError(f"none of the images can be decoded: {reason}", fix="--images FOLDER with other images")
    return kept, f"{len(kept)} images of {np.mean(sizes) / 1e6:.2g} megapixels on average"


def _memory_of(files: Mapping[str, Path], device: str) -> dict[str, int | None]:
    """The memory of each file, in a process of its own; a file that crashes there would crash this process, too."""
    with ThreadPoolExecutor(min(4, available_cores())) as pool:
        return dict(zip(files, pool.map(lambda path: _memory(path, device), files.values()), strict=True))


def _memory(path: Path, device: str) -> int | None:
    try:
        answer: int | None = ask(memory_growth, str(path), device, seconds=MEMORY_SECONDS)
        return answer
    except Crashed as error:
        raise RunError(
            f"{path} was not measured: {runtime_of(path)} kills the process that runs it ({error})",
            fix="ONEDNN_MAX_CPU_ISA=AVX512_CORE_VNNI otx benchmark ... avoids what newer instructions do; "
            "`otx env` shows what to report",
        ) from error
    except NoAnswer:
        # the measurement in this process raises what is wrong with the file
        return None
