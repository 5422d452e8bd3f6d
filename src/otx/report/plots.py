"""The plots of a report: drawn by Vega-Lite as SVG when the report is written.

The fixed part of a plot is a Vega-Lite specification in `templates/*.vl.json`, in which "$name" stands for a value.
Colours are the page's own (`var(--accent)`), so that plots follow light and dark mode. Every mark has a description,
which a screen reader reads and the page shows under the pointer.
"""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from otx.confusion import ConfusionMatrix
from otx.errors import RunError, first_line
from otx.findings import CurvePoint, LearningCurve
from otx.model.calibration import CalibrationBin
from otx.report.figures import ThresholdRow, percent
from otx.results import EpochResult

HEIGHT = 170
ACCENT, PLAIN = "var(--accent)", "var(--plain)"
SERIES = (ACCENT, PLAIN, *(f"var(--series-{number})" for number in range(3, 9)))
# the prefix that vl-convert gives a link within the page
BASE = 'xlink:href="https://vega.github.io/vega-datasets/#'
MATRIX_SIDE = 560
MAX_CELL, MIN_CELL, CELL_WITH_SHARE, CELL_WITH_COUNT = 64, 12, 42, 22
LINE_OF_TEXT = 13
MAX_TICKS = 6
# no SVG can hold them, and vl-convert ends the process at one
NO_XML = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

Rows = list[dict[str, Any]]


@functools.cache
def _template(name: str) -> Any:
    return json.loads(files("otx.report").joinpath("templates", f"{name}.vl.json").read_text(encoding="utf-8"))


def fill(name: str, **values: Any) -> Any:
    """Put values in place of the names in a template; a list in place of a text item of a list is spliced in."""
    return _filled(_template(name), _drawable(values))


def _drawable(value: Any) -> Any:
    """Plain data with a replacement character in place of each that no SVG can hold."""
    if isinstance(value, str):
        return NO_XML.sub("\ufffd", value)
    if isinstance(value, dict):
        return {key: _drawable(item) for key, item in value.items()}
    return [_drawable(item) for item in value] if isinstance(value, (list, tuple)) else value


def _filled(part: Any, values: Mapping[str, Any]) -> Any:
    if isinstance(part, str) and part.startswith("$"):
        return values[part[1:]]
    if isinstance(part, dict):
        return {key: _filled(value, values) for key, value in part.items()}
    if not isinstance(part, list):
        return part
    items: list[Any] = []
    for item in part:
        filled = _filled(item, values)
        items += filled if isinstance(item, str) and isinstance(filled, list) else [filled]
    return items


def draw(name: str, **values: Any) -> str:
    """Fill a template and draw it as SVG.

    Raises:
        RunError: vl-convert cannot draw it.
    """
    import vl_convert

    try:
        drawn = vl_convert.vegalite_to_svg({**fill(name, **values), "config": _template("config")})
    except ValueError as error:
        raise RunError(f"a plot cannot be drawn: {first_line(error)}") from error
    return str(drawn).replace(BASE, 'href="#')


def curve(
    series: Mapping[str, Sequence[EpochResult]],
    field: str,
    *,
    number: str,
    marks: Sequence[tuple[int, str]] = (),
    falls: bool = False,
    zero: bool = False,
) -> str:
    """A plot over the epochs, one line for each series.

    Args:
        field: an attribute of `EpochResult`.
        number: format of a value, for instance `.4f`.
        marks: epochs (from 0) to mark with a vertical line, and the label beside it.
        falls: the values fall, so put the labels at the top, where there is room; else at the bottom.
        zero: start the axis at 0.
    """
    rows = [
        {"series": name, "epoch": epoch.epoch + 1, "value": getattr(epoch, field)}
        for name, epochs in series.items()
        for epoch in epochs
    ]
    colors = [SERIES[index % len(SERIES)] for index in range(len(series))]
    return _lines(rows, number, _marked(marks, _last(rows), falls=falls), dict(zip(series, colors, strict=True)), zero)


def losses(epochs: Sequence[EpochResult], marks: Sequence[tuple[int, str]]) -> str:
    """The loss on training and on validation images."""
    rows = [
        {"series": name, "epoch": epoch.epoch + 1, "value": value}
        for epoch in epochs
        for name, value in (("training", epoch.train_loss), ("validation", epoch.val_loss))
    ]
    colors = {"training": PLAIN, "validation": ACCENT}
    return _lines(rows, ".4f", _marked(marks, _last(rows), falls=True), colors, zero=False)


def _lines(rows: Rows, number: str, marks: Rows, colors: Mapping[str, str], zero: bool) -> str:
    """Draw lines in the colours of their series."""
    shown = [
        {**row, "text": f"{row['series']}, epoch {row['epoch']}: {row['value']:{number}}"}
        for row in rows
        if math.isfinite(row["value"])
    ]
    legend = None if len(colors) == 1 else {"columns": 1 if max(map(len, colors)) > 12 else 2}
    return draw(
        "lines",
        rows=shown,
        marks=marks,
        names=list(colors),
        colors=list(colors.values()),
        legend=legend,
        zero=zero,
        # more would fall between two epochs, and be named like one of them
        ticks=min(MAX_TICKS, max(1, _last(rows) + 1 - min(int(row["epoch"]) for row in rows))),
    )


def _last(rows: Rows) -> int:
    return max(int(row["epoch"]) for row in rows) - 1


def _marked(marks: Sequence[tuple[int, str]], last: int, *, falls: bool) -> Rows:
    """Vertical lines with labels, each label a row below or above the one before; `last` is the last epoch."""
    layers: Rows = []
    for place, (epoch, text) in enumerate(marks):
        below = 8 + LINE_OF_TEXT * place
        side, offset = ("left", 4) if epoch < 0.7 * last else ("right", -4)
        y = below if falls else HEIGHT - below
        layers += fill("mark", rows=[{"epoch": epoch + 1, "text": text}], side=side, offset=offset, y=y)
    return layers


def matrix(classes: Sequence[str], counts: ConfusionMatrix, shown: Sequence[int]) -> str:
    """A confusion matrix; each cell links to `#cell-TRUE-PREDICTED`, the indices of its classes.

    Args:
        shown: the indices of the classes to show.
    """
    # the number before a name keeps apart names that look the same in Vega
    names = [f"{place} {classes[index]}" for place, index in enumerate(shown)]
    cell = max(MIN_CELL, min(MAX_CELL, MATRIX_SIDE // max(1, len(shown))))
    upright = max(len(classes[index]) for index in shown) <= 4
    name = "matrix_with_counts" if cell >= CELL_WITH_COUNT else "matrix_without_numbers"
    return draw(
        "matrix" if cell >= CELL_WITH_SHARE else name,
        rows=_cells(classes, counts, shown, names),
        names=names,
        cell=cell,
        angle=0 if upright else -40,
        align="center" if upright else "left",
    )


def _cells(classes: Sequence[str], counts: ConfusionMatrix, shown: Sequence[int], names: Sequence[str]) -> Rows:
    entries, totals = counts.among(shown), counts.totals
    name_of = dict(zip(shown, names, strict=True))
    most = max((count / totals[i] for i, j, count in entries if i != j), default=1.0)
    return [
        {
            "true": name_of[i],
            "predicted": name_of[j],
            "count": count,
            "share": percent(count, totals[i]),
            "kind": "right" if i == j else "wrong",
            "weight": count / totals[i] * (1 if i == j else 1 / most),
            "link": f"#cell-{i}-{j}",
            "text": _cell_in_words(classes[i], classes[j], count, totals[i]),
        }
        for i, j, count in entries
    ]


def _cell_in_words(label: str, predicted: str, count: int, total: int) -> str:
    if label == predicted:
        return f"{label}: {count:,} of {total:,} recognised ({percent(count, total)})"
    return f"{label} taken for {predicted}: {count:,} of {total:,} ({percent(count, total)})"


def reliability_diagram(bins: Sequence[CalibrationBin]) -> str:
    """Accuracy by confidence with the diagonal on which both are equal, and below it how many images each bin has."""
    rows = [
        {
            "low": item.low,
            "high": item.high,
            "accuracy": item.accuracy,
            "confidence": item.confidence,
            "count": item.count,
            "middle": (item.low + item.high) / 2,
            "number": f"{item.count:,}" if item.count < 10_000 else f"{item.count / 1000:.0f}k",
            "text": f"confidence {item.low:.2f} to {item.high:.2f}: {item.count:,} images, mean confidence "
            f"{item.confidence:.4f}, accuracy {item.accuracy:.4f}",
        }
        for item in bins
    ]
    return draw("reliability", rows=rows)


def coverage_curve(table: Sequence[ThresholdRow]) -> str:
    """Accuracy against coverage, a point for each threshold, in the order of the table."""
    total = table[0].covered
    rows = [
        {
            "coverage": row.covered / total,
            "accuracy": row.right / row.covered,
            "order": row.threshold,
            "text": f"from confidence {row.threshold:.2f}: {row.covered / total:.1%} answered, "
            f"{row.right / row.covered:.1%} of these right",
        }
        for row in table
        if row.covered
    ]
    return draw("coverage", rows=rows)


def learning_curve(curve: LearningCurve) -> str:
    """Accuracy by the number of training images: what was measured, and the power law through it, to twice as many."""

    def rows(points: Sequence[CurvePoint]) -> Rows:
        return [
            {
                "images": each.num_images,
                "accuracy": each.accuracy,
                "text": f"{each.num_images:,} images: {each.accuracy:.1%}",
            }
            for each in points
        ]

    return draw("learning_curve", points=rows(curve.points), line=rows(curve.line))


def class_sizes(sizes: Mapping[tuple[str, str], int], classes: Sequence[str], subsets: Mapping[str, str]) -> str:
    """How many images each class has in each subset.

    Args:
        sizes: number of images by (class, subset).
        subsets: the subsets and their titles.
    """
    names = [f"{place} {name}" for place, name in enumerate(classes)]
    rows = [
        {
            "class": names[place],
            "subset": title,
            "place": order,
            "count": sizes.get((name, subset), 0),
            "text": f"{name}, {title}: {sizes.get((name, subset), 0):,}",
        }
        for place, name in enumerate(classes)
        for order, (subset, title) in enumerate(subsets.items())
    ]
    colors = [PLAIN, "var(--series-3)", ACCENT]
    return draw("sizes", rows=rows, names=names, subsets=list(subsets.values()), colors=colors[: len(subsets)])
