"""Measure the latency and throughput of model files in turns, on noise or on photos."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from otx.data.decode import decode_image, ordered
from otx.errors import OtxError, RunError, last_line
from otx.inference.runners import Batch, Runner, load_runner, runtime_of
from otx.inference.timing import Work, measure_in_turns

OnRound = Callable[[int], None]


class Feed(Protocol):
    """Where batches come from."""

    def take(self) -> Batch:
        """The next batch, made by this thread."""

    def batches(self, count: int) -> Iterator[Batch]:
        """The next `count` batches, which several threads may make in parallel."""


class Noise:
    """One batch of noise again and again, so that only the network is measured."""

    def __init__(self, runner: Runner) -> None:
        self._batch = runner.noise()

    def take(self) -> Batch:
        return self._batch

    def batches(self, count: int) -> Iterator[Batch]:
        return itertools.repeat(self._batch, count)


class Photos:
    """Photos in a cycle, each read, decoded, resized and normalised when it is needed."""

    def __init__(self, runner: Runner, paths: Sequence[Path], max_pixels: int) -> None:
        self._runner, self._max_pixels = runner, max_pixels
        self._paths = itertools.cycle(paths)

    def take(self) -> Batch:
        return self._stacked([self._load(next(self._paths)) for _ in range(self._runner.batch)])

    def batches(self, count: int) -> Iterator[Batch]:
        size = self._runner.batch
        images = ordered(self._load, itertools.islice(self._paths, count * size))
        return (self._stacked(list(itertools.islice(images, size))) for _ in range(count))

    def _load(self, path: Path) -> Batch:
        preprocessing = self._runner.card.preprocessing
        pixels = preprocessing.resize(decode_image(path, preprocessing.reading(self._max_pixels)))[None]
        return pixels if self._runner.embedded else preprocessing.normalise(pixels)

    def _stacked(self, images: list[Batch]) -> Batch:
        return images[0] if len(images) == 1 else np.concatenate(images)


@dataclass(frozen=True)
class Meter:
    """How files are measured.

    Args:
        feed: makes the feed of a runner.
        seconds: how long each figure of each file is measured.
        on_round: gets the number of rounds done.
    """

    device: str
    feed: Callable[[Runner], Feed]
    seconds: float
    on_round: OnRound


@dataclass(frozen=True)
class Latency:
    """Latency of one image at a time, over `count` images."""

    median_ms: float
    p95_ms: float
    count: int
    runner: Runner


@dataclass(frozen=True)
class Rate:
    """Images a second, with `requests` batches at a time; None and a reason if the file cannot be measured."""

    images_per_second: float | None
    requests: int = 1
    why_not: str = ""


def measure_latency(files: Mapping[str, Path], meter: Meter) -> dict[str, Latency]:
    """Measure how long each file takes for one image at a time.

    Raises:
        ModelError, UsageError: a file cannot be used, or takes no batch of one.
        RunError: a runtime cannot compute it.
    """
    runners = {name: _ready(path, meter.device, 1, None) for name, path in files.items()}
    works = {name: _timed_one_by_one(runner, meter.feed(runner)) for name, runner in runners.items()}
    measured = measure_in_turns(works, meter.seconds, on_round=meter.on_round)
    return {
        name: Latency(float(np.median(times) * 1e3), float(np.percentile(times, 95) * 1e3), len(times), runners[name])
        for name, times in measured.items()
    }


def measure_rates(files: Mapping[str, Path], meter: Meter, *, batch: int, streams: str) -> dict[str, Rate]:
    """Measure how many images a second each file computes in batches of `batch`: the median of the turns."""
    runners: dict[str, Runner] = {}
    rates: dict[str, Rate] = {}
    for name, path in files.items():
        try:
            runners[name] = _ready(path, meter.device, batch, streams)
        except OtxError as error:
            rates[name] = Rate(None, why_not=error.what)
    works = {name: _timed_together(runner, meter.feed(runner)) for name, runner in runners.items()}
    for name, turns in measure_in_turns(works, meter.seconds, on_round=meter.on_round).items():
        rates[name] = Rate(float(np.median(turns)), runners[name].requests)
    return rates


def _ready(path: Path, device: str, batch: int, streams: str | None) -> Runner:
    """Load a runner, and warm it up with a batch."""
    try:
        runner = load_runner(path, device, batch, streams)
        runner.infer(runner.noise())
    except OtxError:
        raise
    except Exception as error:  # each runtime has its own errors, which change from version to version
        raise RunError(
            f"{runtime_of(path)} cannot compute {path} in batches of {batch} on {device}: {last_line(error)}",
            fix="a smaller --batch, or --device CPU",
        ) from error
    return runner


def _timed_one_by_one(runner: Runner, feed: Feed) -> Work:
    def work(times: int) -> list[float]:
        lasted = []
        for _ in range(times):
            started = time.perf_counter()
            runner.infer(feed.take())
            lasted.append(time.perf_counter() - started)
        return lasted

    return work


def _timed_together(runner: Runner, feed: Feed) -> Work:
    def work(times: int) -> list[float]:
        count = times * runner.requests
        started = time.perf_counter()
        runner.infer_all(feed.batches(count))
        return [count * runner.batch / (time.perf_counter() - started)]

    return work
