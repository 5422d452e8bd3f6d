"""Print the results of `otx env`, `otx benchmark` and `otx label`."""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Iterator, Sequence

from otx.console import console, table
from otx.results_label import LabelTable
from otx.results_machine import BenchmarkedFile, BenchmarkResult, Environment, Throughput

SCREEN = 80
MOST_CLASSES, MOVES_SHOWN = 50, 20
Figure = tuple[int, str]


def show_environment(found: Environment) -> None:
    """Print names and texts in two columns, 80 characters wide."""
    indent = " " * (max(map(len, found.lines)) + 2)
    for name, text in found.lines.items():
        for number, line in enumerate(text.splitlines()):
            start = f"{name}:" if number == 0 else ""
            print(
                textwrap.fill(
                    line,
                    SCREEN,
                    initial_indent=f"{start:<{len(indent)}}",
                    subsequent_indent=indent,
                    break_long_words=False,
                    break_on_hyphens=False,
                )
            )


def show_benchmark(result: BenchmarkResult) -> None:
    """Print two tables, one image at a time and images a second, and what was measured."""
    first, out = result.files[0], console()
    columns = [("file", "left"), ("runtime", "left"), ("weights", "left"), ("size", "right"), ("memory", "right")]
    columns += [("latency", "right"), ("95 %", "right"), ("times first", "right")]
    rows = (
        (
            file.name,
            file.runtime,
            file.weights,
            f"{file.size_bytes / 1e6:.2f} MB",
            "-" if file.memory_bytes is None else f"{file.memory_bytes / 1e6:.0f} MB",
            f"{file.latency_ms:.2f} ms",
            f"{file.latency_p95_ms:.2f} ms",
            f"{first.latency_ms / file.latency_ms:.2f}",
        )
        for file in result.files
    )
    out.print(table("One image at a time", columns, rows))
    figures = _figures(result)
    columns = [("file", "left"), *((_heading(each, figures), "right") for each in figures)]
    out.print(table("Images a second", columns, ([file.name, *_rates(file, figures)] for file in result.files)))
    print("\n".join(_notes(result)))


def _figures(result: BenchmarkResult) -> list[Figure]:
    """Every batch size with every number of streams; runtimes without streams use the first column of a batch size."""
    measured = list(dict.fromkeys((each.batch, each.streams) for file in result.files for each in file.throughput))
    streams = [streams for _, streams in dict.fromkeys(measured) if streams] or [""]
    batches = dict.fromkeys(batch for batch, _ in measured)
    return [(batch, each) for batch in batches for each in dict.fromkeys(streams)]


def _heading(figure: Figure, figures: Sequence[Figure]) -> str:
    batch, streams = figure
    several = len({each for _, each in figures}) > 1
    return f"batch {batch}, streams {streams}" if several else f"batch {batch}"


def _rates(file: BenchmarkedFile, figures: Sequence[Figure]) -> Iterator[str]:
    known = {(each.batch, each.streams): each for each in file.throughput}
    first_streams = figures[0][1]
    for batch, streams in figures:
        found = known.get((batch, streams)) or (known.get((batch, "")) if streams == first_streams else None)
        yield "-" if found is None or found.images_per_second is None else f"{found.images_per_second:.1f}"


def _notes(result: BenchmarkResult) -> Iterator[str]:
    """What was measured, what could not be and why, and which file is the fastest."""
    fed = f"{result.decoding}, each read, decoded and resized again" if result.decoding else "noise, without decoding"
    cores = f"{result.cores} processor{'s' if result.cores > 1 else ''}"
    yield f"{result.processor}, {cores}; in turns, {result.rounds} rounds, {result.seconds:g} s a figure; {fed}."
    for file in result.files:
        height, width = file.input_size
        threads = f", threads for one image: {file.threads}" if file.threads else ""
        yield f"{file.name}: {height}x{width} on {file.device}, computes in {_computes_in(file)}{threads}."
    for file in result.files:
        yield from (_why_not(file, each) for each in file.throughput if each.why_not)
    first, fastest = result.files[0], min(result.files, key=lambda file: file.latency_ms)
    if fastest is not first:
        ratio = first.latency_ms / fastest.latency_ms
        yield f"The fastest for one image is {fastest.name}: {ratio:.2f} times as fast as the first, {first.name}."
    elif len(result.files) > 1:
        yield f"The fastest for one image is the first, {first.name}."


def _computes_in(file: BenchmarkedFile) -> str:
    return f"8-bit integers and {file.computes_in}" if file.weights == "INT8" else file.computes_in


def _why_not(file: BenchmarkedFile, figure: Throughput) -> str:
    streams = f" and {figure.streams} streams" if figure.streams else ""
    return f"{file.name}, batches of {figure.batch}{streams}: not measured, {figure.why_not}."


def show_labels(result: LabelTable) -> None:
    """Print how many photos have a label, what was or would be done with the files, and what comes next."""
    counts, left_out = result.counts(), sum(bool(row.left_out) for row in result.rows)
    if result.applied:
        _show_applied(result)
        return
    print(f"{result.data_root}: {sum(counts.values())} of {result.num_photos} photos are labelled.")
    if counts:
        rows = [(name, str(count)) for name, count in counts.items()]
        console().print(table("", [("class", "left"), ("photos", "right")], rows[:MOST_CLASSES]))
    if left_out:
        print(f"Left out: {left_out}.")
    root = str(result.data_root)
    if result.path.exists():
        print(f"Decisions are in {result.path}; no photo was moved.")
        print(f"Next: {shlex.join(['otx', 'train', root])}")
        print(f"Or move the photos into class folders: {shlex.join(['otx', 'label', root, '--apply', 'move'])}")


def _show_applied(result: LabelTable) -> None:
    for move in result.moves[:MOVES_SHOWN]:
        print(f"{move.source} -> {move.target or 'removed'}")
    if len(result.moves) > MOVES_SHOWN:
        print(f"... and {len(result.moves) - MOVES_SHOWN} more")
    root, count = str(result.data_root), len(result.moves)
    done = {"move": "moved", "copy": "copied", "link": "linked", "undo": "put back", "table": "listed"}[result.applied]
    if result.applied == "undo" and not all(move.target for move in result.moves):
        done = "removed"
    if result.dry_run:
        what = f"{result.output} would be written" if result.applied == "table" else f"{count} files would be {done}"
        print(f"Dry run: {what}; nothing was done.")
        return
    if result.applied == "table":
        print(f"Written: {result.output}")
        return
    print(f"{count} files {done}." if count else "No file has to be changed.")
    if count and result.applied != "undo":
        print(f"To take it back: {shlex.join(['otx', 'label', root, '--apply', 'undo'])}")
