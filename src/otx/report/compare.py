"""Compare several runs on one page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from otx.confusion import MANY_CLASSES
from otx.evaluation.intervals import mcnemar, wilson
from otx.recipe import Recipe
from otx.report import plots
from otx.report.classes import CLASSES_LISTED
from otx.report.figures import num_right
from otx.report.page import render
from otx.report.record import Measurement, Record
from otx.report.sentences import measured_in_words, photos
from otx.schema import all_settings

NOT_COMPARED = ("data_root", "work_dir", "name", "recipe_id", "task")
CHANCE = 0.05


@dataclass(frozen=True)
class Row:
    """A row of the table: its name, a cell for each run, and the index of the best cell, if there is one."""

    name: str
    cells: tuple[str, ...]
    best: int | None = None


def render_comparison(records: Mapping[str, Record]) -> str:
    """The page that compares several runs, given by name."""
    names, runs = list(records), list(records.values())
    return render(
        "compare.html",
        title=f"{len(runs)} runs side by side",
        names=names,
        sentences=_sentences(records),
        rows=_figures(runs),
        settings=_settings(runs),
        curves=_curves(records),
        classes=_classes(runs),
        listed_of=max((n for run in runs if (n := len(run.classes)) > MANY_CLASSES), default=0),
        same=same_images(runs),
        data={},
    )


def same_images(runs: Sequence[Record]) -> bool:
    """Whether all runs were measured on the same images."""
    sets = {frozenset((image.path, image.label) for image in run.measurement.images) for run in runs if run.measurement}
    roots = {run.measurement.result.data_root for run in runs if run.measurement}
    return len(sets) == len(roots) == 1 and all(run.measurement for run in runs)


def _sentences(records: Mapping[str, Record]) -> list[str]:
    """How good each run is, and whether the best two differ by more than chance."""
    said = []
    for name, run in records.items():
        if run.measurement is None:
            said.append(f"“{name}” has not been measured.")
        else:
            said.append(f"“{name}”{measured_in_words(run, run.measurement).removeprefix('It')}.")
    if not same_images(list(records.values())):
        return [*said, "They were not measured on the same photos, so these figures cannot be compared."]
    ranked = sorted(records, key=lambda name: -_measured(records[name]).result.top1)
    first, second = ranked[:2]
    return [*said, _difference(first, _measured(records[first]), second, _measured(records[second]))]


def _measured(run: Record) -> Measurement:
    assert run.measurement is not None
    return run.measurement


def _difference(first: str, better: Measurement, second: str, worse: Measurement) -> str:
    right = {image.path: image.is_right for image in worse.images}
    gained = sum(image.is_right and not right[image.path] for image in better.images)
    lost = sum(not image.is_right and right[image.path] for image in better.images)
    if gained == lost:
        return f"“{first}” and “{second}” are right equally often."
    probability = mcnemar(gained, lost)
    p = "p < 0.001" if probability < 0.001 else f"p = {probability:.2g}"
    verdict = "chance alone would rarely do that" if probability < CHANCE else "the difference may be chance"
    return (
        f"“{first}” is right on {photos(gained)} where “{second}” is wrong, and wrong on {lost:,} where that is right: "
        f"{verdict} ({p})."
    )


def _figures(runs: Sequence[Record]) -> list[Row]:
    measured: list[tuple[str, Callable[[Measurement], float | None], int]] = [
        ("top-1 accuracy", lambda m: m.result.top1, 1),
        ("top-5 accuracy", lambda m: m.result.top5, 1),
        ("macro F1", lambda m: m.result.macro_f1, 1),
        ("loss", lambda m: m.result.loss, -1),
        ("calibration error", lambda m: m.result.calibration_error, -1),
    ]
    rows = []
    for name, figure, sign in measured:
        values = [None if run.measurement is None else figure(run.measurement) for run in runs]
        best = _best([None if value is None else sign * value for value in values]) if same_images(runs) else None
        rows.append(Row(name, tuple("" if value is None else f"{value:.4f}" for value in values), best))
    return [row for row in [*rows, *(Row(*row) for row in _facts(runs))] if any(row.cells)]


def _best(values: Sequence[float | None]) -> int | None:
    known = [value for value in values if value is not None]
    top = max(known, default=None)
    return None if top is None or known.count(top) > 1 else values.index(top)


def _facts(runs: Sequence[Record]) -> list[tuple[str, tuple[str, ...]]]:
    def of(fact: Callable[[Record], Any]) -> tuple[str, ...]:
        return tuple(str(fact(run)) for run in runs)

    return [
        ("95 % interval of top-1", of(_interval)),
        ("measured on", of(lambda r: r.measurement.result.subset if r.measurement else "")),
        ("images", of(lambda r: f"{r.measurement.result.num_images:,}" if r.measurement else "")),
        ("measured with", of(lambda r: r.measurement.result.checkpoint.name if r.measurement else "")),
        ("network", of(lambda r: r.card.network if r.card else "")),
        ("began from", of(lambda r: r.card.origin if r.card else "")),
        ("training images", of(lambda r: f"{sum(n for (_, subset), n in r.sizes.items() if subset == 'train'):,}")),
        ("epochs", of(lambda r: sum(epoch.is_trained for epoch in r.epochs))),
        ("best epoch", of(lambda r: r.best.epoch + 1 if r.best else "")),
        ("training time", of(lambda r: f"{sum(epoch.seconds for epoch in r.epochs):,.0f} s" if r.epochs else "")),
        ("ended", of(lambda r: r.summary["stop_reason"] if r.summary else "")),
    ]  # fmt: skip


def _interval(run: Record) -> str:
    if run.measurement is None:
        return ""
    low, high = wilson(num_right(run.measurement.result), run.measurement.result.num_images)
    return f"{low:.4f} to {high:.4f}"


def _settings(runs: Sequence[Record]) -> list[Row]:
    """The settings that are not the same in all runs."""
    flat = [_flat(run.card.recipe) if run.card else {} for run in runs]
    rows = []
    for info in all_settings(Recipe):
        cells = tuple("" if info.key not in own else str(own[info.key]) for own in flat)
        if info.key not in NOT_COMPARED and len(set(cells)) > 1:
            rows.append(Row(info.key, cells))
    return rows


def _flat(plain: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in plain.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def _curves(records: Mapping[str, Record]) -> dict[str, str]:
    series = {name: run.epochs for name, run in records.items() if run.epochs}
    if all(len(epochs) < 2 for epochs in series.values()):
        return {}
    return {
        "Validation accuracy": plots.curve(series, "val_accuracy", number=".1%"),
        "Training loss": plots.curve(series, "train_loss", number=".4f"),
        "Validation loss": plots.curve(series, "val_loss", number=".4f"),
        "Learning rate": plots.curve(series, "lr", number=".3g", zero=True),
    }


def _classes(runs: Sequence[Record]) -> list[Row]:
    """The recall of each class in each run; of very many classes those whose recall differs most."""
    recalls = [
        {c.name: c for c in run.measurement.result.classes if c.count} if run.measurement else {} for run in runs
    ]
    names = sorted({name for own in recalls for name in own})
    if len(names) > MANY_CLASSES:

        def spread(name: str) -> float:
            values = [own[name].recall for own in recalls if name in own]
            return max(values) - min(values)

        names = sorted(sorted(names, key=spread, reverse=True)[:CLASSES_LISTED])
    return [Row(name, tuple(f"{own[name].recall:.4f}" if name in own else "" for own in recalls)) for name in names]


def names_of(runs: Sequence[Record]) -> list[str]:
    """Names for the runs: their folders, with as many parent folders as make them unique."""
    paths = [run.folder.path.resolve().parts for run in runs]
    for depth in range(1, max(map(len, paths)) + 1):
        names = ["/".join(parts[-depth:]) for parts in paths]
        if max(Counter(names).values()) == 1:
            return names
    return [f"{number}. {run.folder.path.resolve()}" for number, run in enumerate(runs, start=1)]
