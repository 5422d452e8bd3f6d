"""Print results on standard output, and errors on standard error."""

from __future__ import annotations

import math
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

from otx.browser import open_in_browser
from otx.console_progress import clear_line
from otx.findings import CheckResult, ImageRef, ShiftResult
from otx.results import (
    BEFORE_TRAINING,
    ExplainResult,
    ExportResult,
    ModelEntry,
    OldAndNew,
    OptimizeResult,
    Prediction,
    TestResult,
    TrainResult,
)
from otx.workspace import RunFolder

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

Row = TypeVar("Row")

WIDE = 150
MAX_MATRIX = 20
ROWS_SHOWN = 50
MAX_CLASSES = 200
FINDINGS_SHOWN = 10


def console() -> Console:
    """A rich console on standard output, WIDE characters wide if that is no terminal; names are not read as markup."""
    from rich.console import Console

    clear_line()
    return Console(width=None if sys.stdout.isatty() else WIDE, markup=False, highlight=False, soft_wrap=False)


def table(title: str, columns: Sequence[tuple[str, str]], rows: Iterable[Sequence[str]]) -> Table:
    """A table of (heading, justification) columns."""
    from rich.table import Table
    from rich.text import Text

    grid = Table(title=Text(title) if title else None, title_justify="left")
    for heading, justify in columns:
        grid.add_column(Text(heading), justify=justify, overflow="fold")  # type: ignore[arg-type]
    for row in rows:
        grid.add_row(*(Text(cell) for cell in row))
    return grid


def show_check(result: CheckResult) -> None:
    out = console()
    classes = f"{len(result.classes)} classes, " if result.classes else ""
    print(f"{result.data_root}: {classes}{result.num_images} images ({result.layout}).")
    for note in result.notes:
        print(note)
    if result.classes:
        _show_counts(out, result)
    found = result.by_kind()
    if any(found.values()):
        findings = [(kind, *row) for kind, all_rows in found.items() for row in _first(all_rows)]
        out.print(table("Findings", [("finding", "left"), ("image", "left"), ("why", "left")], findings))
        model = "" if result.mislabelled is None else " --checkpoint MODEL"
        print(f"To go through them on a page: {shlex.join(['otx', 'label', str(result.data_root)])}{model}")
    else:
        print("Nothing suspicious was found.")
    if result.shift is not None:
        _show_shift(out, result.shift)


def _show_shift(out: Console, shift: ShiftResult) -> None:
    rows = [(item.path, f"{item.score:.2f}", "yes" if item.known else "no") for item in shift.strangest]
    columns = [("image", "left"), ("unknown score", "right"), ("known", "left")]
    out.print(table(f"The strangest to the model, which knows images up to {shift.limit:.2f}", columns, rows))
    print("\n".join(shift.sentences))


def _show_counts(out: Console, result: CheckResult) -> None:
    columns = [("class", "left"), ("train", "right"), ("val", "right"), ("test", "right"), ("images", "right")]
    counts = [(item.name, item.train, item.val, item.test) for item in result.classes]
    total = ("all", *(sum(column) for column in list(zip(*counts, strict=True))[1:]))
    shown = _lowest(counts, lambda row: sum(row[1:]))
    rows = ((name, *map(str, numbers), str(sum(numbers))) for name, *numbers in [*shown, total])
    out.print(table("", columns, rows))
    if len(shown) < len(counts):
        print(f"The {len(shown)} classes with the fewest images; --output FILE.json lists all {len(counts)}.")


def _lowest(classes: Sequence[Row], figure: Callable[[Row], float]) -> Sequence[Row]:
    """All classes; of more than MAX_CLASSES the ROWS_SHOWN with the lowest figure, in their order."""
    if len(classes) <= MAX_CLASSES:
        return classes
    lowest = sorted(range(len(classes)), key=lambda place: figure(classes[place]))[:ROWS_SHOWN]
    return [classes[place] for place in sorted(lowest)]


def _first(rows: Sequence[tuple[ImageRef, str]]) -> Iterable[tuple[str, str]]:
    """The first findings of a kind, and how many more there are."""
    yield from ((place.path, why) for place, why in rows[:FINDINGS_SHOWN])
    if len(rows) > FINDINGS_SHOWN:
        yield f"... and {len(rows) - FINDINGS_SHOWN} more", "--output FILE lists all of them"


def show_models(entries: Sequence[ModelEntry]) -> None:
    """Print two lines for each recipe, at most 80 columns wide: its name and cost, and its ID."""
    width = max(len(entry.name) for entry in entries)
    print(f"  {'name':<{width}}  GFLOPs  params  good for")
    for entry in entries:
        mark = "*" if entry.is_default else " "
        print(f"{mark} {entry.name:<{width}}  {entry.gflops:>6.2f} {entry.params_m:>6.2f}M  {entry.good_for}")
        print(f"    {entry.recipe_id}")
    if any(entry.is_default for entry in entries):
        print("* the default; `otx train FOLDER --config NAME` takes another.")
        print("`--model timm/NAME` takes any network of timm.")


def show_training(result: TrainResult) -> None:
    origin = result.origin.partition(" (")[0]
    lines = [
        f"The training ended: {result.stop_reason}.",
        f"Best: {_epoch(result.best_epoch)}, top-1 {result.best_accuracy:.4f} on the validation images.",
        f"Model: {result.model_path} (from {origin})",
    ]
    if result.learning_curve is not None:
        lines.append(result.learning_curve.sentence)
    if result.interrupted:
        lines.append(f"To go on: {RunFolder(result.run_dir).resume_command}")
    else:
        lines.append(f"Next: {shlex.join(['otx', 'test', '--checkpoint', str(result.model_path)])}")
    print("\n".join(lines))


def _epoch(number: int) -> str:
    return "the fitted classifier, before the first epoch" if number == BEFORE_TRAINING else f"epoch {number + 1}"


def show_test(result: TestResult) -> None:
    out = console()
    _show_classes(out, result)
    out.print(table("", [("figure", "left"), ("value", "right")], _figures(result)))
    if (other := result.unknown) is not None:
        print(
            f"The {other.num_images} images in {other.folder} are told apart with an AUROC of {other.auroc:.3f}; "
            f"{other.let_through:.1%} of them are taken for known, {other.known_lost:.1%} of the test images are not."
        )
    if result.old_and_new is not None:
        _show_old_and_new(out, result.old_and_new)
    print(f"Model: {result.checkpoint}")
    if result.num_known:
        print(f"Left out: {result.num_known} images of {result.data_root} that it was trained or validated on.")
    if result.verdict is not None:
        print(result.verdict.sentence)
    for image in result.bad_images:
        print(f"not counted, cannot be decoded: {image.path}: {image.reason}", file=sys.stderr)


def _show_classes(out: Console, result: TestResult) -> None:
    """Print a row for each class, and the confusion matrix; of very many classes, only the worst."""
    columns = [("class", "left"), *((name, "right") for name in ("precision", "recall", "95 %", "F1", "images"))]
    tested = [item for item in result.classes if item.count]
    shown = result.classes if len(result.classes) <= MAX_CLASSES else _lowest(tested, lambda item: item.f1)
    rows = (
        (
            c.name,
            f"{c.precision:.4f}",
            f"{c.recall:.4f}",
            _span(c.recall_low, c.recall_high),
            f"{c.f1:.4f}",
            str(c.count),
        )
        for c in shown
    )
    out.print(table("", columns, rows))
    if len(shown) < len(result.classes):
        print(f"The {len(shown)} classes with the lowest F1; classes.csv lists all {len(result.classes)}.")
    if len(result.classes) <= MAX_MATRIX:
        names = [item.name for item in result.classes]
        heads = [("true \\ predicted", "left"), *((name, "right") for name in names)]
        matrix = ([name, *map(str, counts)] for name, counts in zip(names, result.confusion, strict=True))
        out.print(table("Confusion matrix", heads, matrix))


def _figures(result: TestResult) -> list[tuple[str, str]]:
    top5 = [("top-5 accuracy", f"{result.top5:.4f}")] if result.top5 is not None else []
    return [
        ("top-1 accuracy", f"{result.top1:.4f}"),
        ("its 95 % interval", _span(result.top1_low, result.top1_high)),
        *top5,
        ("macro F1", f"{result.macro_f1:.4f}"),
        ("loss", f"{result.loss:.4f}"),
        ("expected calibration error", f"{result.calibration_error:.4f}"),
        ("images", f"{result.num_images} ({result.subset})"),
        ("images/s", f"{result.images_per_second:.1f}"),
    ]


def _span(low: float | None, high: float | None) -> str:
    """An interval, rounded outwards as in the report."""
    if low is None or high is None:
        return ""
    return f"{math.floor(100 * low) / 100:.2f} to {math.ceil(100 * high) / 100:.2f}"


def _show_old_and_new(out: Console, figures: OldAndNew) -> None:
    def share(value: float | None) -> str:
        return "-" if value is None else f"{value:.4f}"

    rows = [
        (f"old classes ({figures.num_old})", share(figures.old_before), share(figures.old_after)),
        ("new classes", "", share(figures.new_after)),
        ("forgetting", "", share(figures.forgetting)),
    ]
    out.print(table("Top-1", [("", "left"), ("before", "right"), ("after", "right")], rows))


def show_predictions(predictions: Iterator[Prediction], limit: int | None) -> bool:
    """Print a table of predictions, and how many there are beyond `limit`. False if every image failed."""
    first = list(islice(predictions, limit))
    more = 0
    worked = not first or any(p.error is None for p in first)
    for more, prediction in enumerate(predictions, start=1):  # noqa: B007 - its last value is the number
        worked = worked or prediction.error is None
    columns: list[tuple[str, str, list[str]]] = [
        ("image", "left", [p.path for p in first]),
        ("label", "left", [p.label or "" for p in first]),
        ("probability", "right", ["" if p.probability is None else f"{p.probability:.4f}" for p in first]),
        ("known", "left", [{None: "", True: "yes", False: "no"}[p.known] for p in first]),
        ("error", "left", [p.error or "" for p in first]),
    ]
    # the last two only where there is something to say
    shown = columns[:3] + [column for column in columns[3:] if any(column[2])]
    rows = zip(*(cells for _, _, cells in shown), strict=True)
    console().print(table("", [(name, side) for name, side, _ in shown], rows))
    if more:
        print(f"... and {more} more.")
    return worked


def show_export(result: ExportResult) -> None:
    print(
        f"{result.path} ({result.size_bytes / 1e6:.1f} MB, {result.export_format} {result.export_precision}, "
        f"preprocessing {result.preprocessing})\n"
        f"Checked on {result.num_checked} images against PyTorch: top-1 equal, largest difference of a logit "
        f"{result.max_difference:.2g} (allowed {result.tolerance:g})."
    )


def show_optimized(result: OptimizeResult) -> None:
    first = result.variants[0]
    columns = [("precision", "left"), ("top-1", "right"), ("size", "right"), ("of " + first.precision, "right")]
    columns += [("latency", "right"), ("95 %", "right"), ("images/s", "right"), ("times " + first.precision, "right")]
    rows = (
        (
            v.precision,
            f"{v.top1:.4f}",
            f"{v.size_bytes / 1e6:.2f} MB",
            f"{v.size_bytes / first.size_bytes:.2f}",
            f"{v.latency_ms:.2f} ms",
            f"{v.latency_p95_ms:.2f} ms",
            f"{v.images_per_second:.0f}",
            f"{first.latency_ms / v.latency_ms:.2f}",
        )
        for v in result.variants
    )
    console().print(table("", columns, rows))
    print(
        f"Top-1 on {result.num_validation} validation images; latency of one image, images/s with all cores, "
        f"measured in turns on this machine.\n{result.path}"
    )


def show_explanations(result: ExplainResult) -> None:
    done = [explanation for explanation in result.explanations if explanation.error is None]
    for explanation in result.explanations:
        if explanation.error is not None:
            print(f"left out, cannot be decoded: {explanation.path}: {explanation.error}", file=sys.stderr)
    maps = "1 saliency map" if len(done) == 1 else f"{len(done)} saliency maps"
    print(f"{maps} in {result.folder}: *.overlay.png, *.map.png, explanations.csv")


def show_demo(url: str, *, browser: bool) -> None:
    """Print a demo's address, and open it."""
    print(f"The demo is at {url} - Ctrl-C ends it.", flush=True)
    if browser:
        open_in_browser(url)


def show_error(text: str) -> None:
    clear_line()
    print(f"error: {text}", file=sys.stderr)


def _short(path: str) -> str:
    """A path relative to the current folder, if that is shorter."""
    import os

    relative = os.path.relpath(path)
    return relative if len(relative) < len(path) else path
