"""The plots of a report: Vega-Lite's, turned into SVG when the report is written.

Colours are the page's own (`var(--accent)`), so that a plot follows light and dark. Every mark has a description, which
a screen reader reads and the page shows under the pointer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from otx.deploy.metrics import CalibrationBin
from otx.errors import RunError
from otx.report.figures import ThresholdRow
from otx.results import EpochResult

WIDTH = 300
HEIGHT = 170
INK, SOFT, LINE = "var(--ink)", "var(--soft)", "var(--line)"
ACCENT, PLAIN = "var(--accent)", "var(--plain)"
SERIES = ("var(--accent)", "var(--plain)", *(f"var(--series-{number})" for number in range(3, 9)))
FONT = "system-ui, sans-serif"
CONFIG = {
    "background": None,
    "font": FONT,
    "view": {"stroke": None},
    "axis": {
        "labelColor": SOFT,
        "titleColor": SOFT,
        "titleFontWeight": "normal",
        "labelFontSize": 11,
        "titleFontSize": 11,
        "gridColor": LINE,
        "domainColor": LINE,
        "tickColor": LINE,
        "labelLimit": 140,
    },
    "legend": {"labelColor": SOFT, "labelFontSize": 11, "title": None, "orient": "bottom", "symbolStrokeWidth": 2},
    "text": {"color": INK, "fontSize": 11},
}
# what vl-convert puts before a link within the page
BASE = 'xlink:href="https://vega.github.io/vega-datasets/#'
MATRIX_SIDE = 560
MAX_CELL, MIN_CELL, CELL_WITH_TEXT = 46, 12, 22
EPOCH_AXIS = {"tickMinStep": 1, "format": "d", "grid": False, "title": "epoch"}

Rows = list[dict[str, Any]]


def svg(spec: Mapping[str, Any]) -> str:
    """Draw a Vega-Lite specification.

    Raises:
        RunError: vl-convert cannot draw it.
    """
    import vl_convert

    try:
        drawn = vl_convert.vegalite_to_svg({**spec, "config": CONFIG})
    except ValueError as error:
        raise RunError(f"a plot cannot be drawn: {str(error).splitlines()[0]}") from error
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
    """A figure of the epochs, a line for each series.

    Args:
        field: an attribute of `EpochResult`.
        number: format of a value, for instance `.4f`.
        marks: epochs (from 0) to mark with an upright line, and what to write beside it.
        falls: the values fall, so that there is room for words in the upper right corner, else in the lower.
        zero: begin the axis at 0.
    """
    rows = [
        {"series": name, "epoch": epoch.epoch + 1, "value": getattr(epoch, field)}
        for name, epochs in series.items()
        for epoch in epochs
    ]
    return svg(_lines(rows, list(series), number, _marked(marks, _last(rows), falls=falls), SERIES, zero=zero))


def losses(epochs: Sequence[EpochResult], marks: Sequence[tuple[int, str]]) -> str:
    """The loss on training and on validation images."""
    rows = [
        {"series": name, "epoch": epoch.epoch + 1, "value": value}
        for epoch in epochs
        for name, value in (("training", epoch.train_loss), ("validation", epoch.val_loss))
    ]
    names = ["training", "validation"]
    return svg(_lines(rows, names, ".4f", _marked(marks, _last(rows), falls=True), (PLAIN, ACCENT), zero=False))


def _lines(
    rows: Rows, names: list[str], number: str, marked: list[dict[str, Any]], colors: Sequence[str], *, zero: bool
) -> dict[str, Any]:
    shown = [
        {**row, "text": f"{row['series']}, epoch {row['epoch']}: {row['value']:{number}}"}
        for row in rows
        if math.isfinite(row["value"])
    ]
    scale = {"domain": names, "range": [colors[index % len(colors)] for index in range(len(names))]}
    shared = {
        "x": {"field": "epoch", "type": "quantitative", "axis": EPOCH_AXIS, "scale": {"zero": False, "nice": False}},
        "y": {
            "field": "value",
            "type": "quantitative",
            "axis": {"title": None, "tickCount": 5, "format": "~g"},
            "scale": {"zero": zero},
        },
        "color": {
            "field": "series",
            "type": "nominal",
            "scale": scale,
            "legend": None if len(names) == 1 else {"columns": 1 if max(map(len, names)) > 12 else 2},
        },
    }
    layers = [
        *marked,
        {"data": {"values": shown}, "mark": {"type": "line", "strokeWidth": 2}, "encoding": shared},
        {
            "data": {"values": shown},
            "mark": {"type": "point", "filled": True, "size": 30, "opacity": 1},
            "encoding": {**shared, "description": {"field": "text"}},
        },
    ]
    return {"width": WIDTH, "height": HEIGHT, "layer": layers}


def _last(rows: Rows) -> int:
    return max(int(row["epoch"]) for row in rows) - 1


def _marked(marks: Sequence[tuple[int, str]], last: int, *, falls: bool) -> list[dict[str, Any]]:
    """Upright lines with words beside them, each a row below or above the one before; `last` is the last epoch."""
    x = {"field": "epoch", "type": "quantitative"}
    layers: list[dict[str, Any]] = []
    for place, (epoch, text) in enumerate(marks):
        y = 8 + 13 * place if falls else HEIGHT - 8 - 13 * place
        side, offset = ("left", 4) if epoch < 0.7 * last else ("right", -4)
        values = {"values": [{"epoch": epoch + 1, "text": text}]}
        layers += [
            {
                "data": values,
                "mark": {"type": "rule", "color": SOFT, "strokeDash": [3, 3]},
                "encoding": {"x": x, "description": {"field": "text"}},
            },
            {
                "data": values,
                "mark": {"type": "text", "align": side, "dx": offset, "color": SOFT, "y": y, "aria": False},
                "encoding": {"x": x, "text": {"field": "text"}},
            },
        ]
    return layers


def matrix(classes: Sequence[str], counts: Sequence[Sequence[int]], shown: Sequence[int]) -> str:
    """A confusion matrix; each cell links to `#cell-TRUE-PREDICTED`, the indices of its classes.

    Args:
        shown: the indices of the classes to show.
    """
    names = [f"{place} {classes[index]}" for place, index in enumerate(shown)]
    most = max((counts[i][j] / sum(counts[i]) for i in shown for j in shown if i != j and counts[i][j]), default=1.0)
    rows = [
        {
            "true": names[row],
            "predicted": names[column],
            "count": counts[i][j],
            "kind": "right" if i == j else "wrong",
            "weight": counts[i][j] / sum(counts[i]) * (1 if i == j else 1 / most),
            "link": f"#cell-{i}-{j}",
            "text": _cell_in_words(classes[i], classes[j], counts[i][j], sum(counts[i])),
        }
        for row, i in enumerate(shown)
        for column, j in enumerate(shown)
        if counts[i][j]
    ]
    cell = max(MIN_CELL, min(MAX_CELL, MATRIX_SIDE // max(1, len(shown))))
    # the number before a name keeps apart two names that differ in nothing Vega shows
    axis = {"labelExpr": "substring(datum.label, indexof(datum.label, ' ') + 1)", "grid": True, "tickBand": "extent"}
    angle = 0 if max(map(len, classes)) <= 4 else -40
    shared = {
        "x": {
            "field": "predicted",
            "type": "nominal",
            "scale": {"domain": names},
            "axis": {
                **axis,
                "title": "taken for",
                "orient": "top",
                "labelAngle": angle,
                "labelAlign": "center" if angle == 0 else "left",
            },
        },
        "y": {"field": "true", "type": "nominal", "scale": {"domain": names}, "axis": {**axis, "title": "true class"}},
    }
    layers: list[dict[str, Any]] = [
        {
            "mark": {"type": "rect", "cornerRadius": 2},
            "encoding": {
                **shared,
                "color": {
                    "field": "kind",
                    "type": "nominal",
                    "scale": {"domain": ["right", "wrong"], "range": [PLAIN, ACCENT]},
                    "legend": None,
                },
                "fillOpacity": {
                    "field": "weight",
                    "type": "quantitative",
                    "scale": {"domain": [0, 1], "range": [0.15, 0.7]},
                    "legend": None,
                },
                "href": {"field": "link"},
                "description": {"field": "text"},
            },
        }
    ]
    if cell >= CELL_WITH_TEXT:
        layers.append(
            {
                "mark": {"type": "text", "aria": False},
                "encoding": {**shared, "text": {"field": "count", "type": "quantitative"}},
            }
        )
    return svg({"width": {"step": cell}, "height": {"step": cell}, "data": {"values": rows}, "layer": layers})


def _cell_in_words(label: str, predicted: str, count: int, total: int) -> str:
    if label == predicted:
        return f"{label}: {count:,} of {total:,} recognised"
    return f"{label} taken for {predicted}: {count:,} of {total:,}"


def reliability_diagram(bins: Sequence[CalibrationBin]) -> str:
    """Accuracy by confidence, and the diagonal on which both are the same."""
    rows = [
        {
            "low": item.low,
            "high": item.high,
            "accuracy": item.accuracy,
            "confidence": item.confidence,
            "text": f"confidence {item.low:.2f} to {item.high:.2f}: {item.count:,} images, mean confidence "
            f"{item.confidence:.4f}, accuracy {item.accuracy:.4f}",
        }
        for item in bins
    ]
    unit = {"domain": [0, 1]}
    y = {"field": "accuracy", "type": "quantitative", "scale": unit, "title": "accuracy"}
    layers: list[dict[str, Any]] = [
        {
            "mark": {"type": "rect", "color": PLAIN, "fillOpacity": 0.35, "stroke": PLAIN, "strokeWidth": 1},
            "encoding": {
                "x": {"field": "low", "type": "quantitative", "scale": unit, "title": "confidence"},
                "x2": {"field": "high"},
                "y": y,
                "y2": {"datum": 0},
                "description": {"field": "text"},
            },
        },
        {
            "data": {"values": [{"at": 0}, {"at": 1}]},
            "mark": {"type": "line", "color": SOFT, "strokeDash": [4, 4], "aria": False},
            "encoding": {"x": {"field": "at", "type": "quantitative"}, "y": {"field": "at", "type": "quantitative"}},
        },
        {
            "mark": {"type": "point", "filled": True, "size": 45, "color": ACCENT, "opacity": 1},
            "encoding": {
                "x": {"field": "confidence", "type": "quantitative"},
                "y": y,
                "description": {"field": "text"},
            },
        },
    ]
    return svg({"width": WIDTH, "height": WIDTH, "data": {"values": rows}, "layer": layers})


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
    shared = {
        "x": {
            "field": "coverage",
            "type": "quantitative",
            "scale": {"domain": [0, 1]},
            "axis": {"format": "%", "title": "answered"},
        },
        "y": {
            "field": "accuracy",
            "type": "quantitative",
            "scale": {"zero": False},
            "axis": {"format": ".1%", "title": "of these right", "tickCount": 5},
        },
    }
    order = {"field": "order", "type": "quantitative"}
    layers: list[dict[str, Any]] = [
        {"mark": {"type": "line", "strokeWidth": 2, "color": ACCENT}, "encoding": {**shared, "order": order}},
        {
            "mark": {"type": "point", "filled": True, "size": 14, "color": ACCENT, "opacity": 1},
            "encoding": {**shared, "description": {"field": "text"}},
        },
    ]
    return svg({"width": WIDTH, "height": WIDTH, "data": {"values": rows}, "layer": layers})


def class_sizes(sizes: Mapping[tuple[str, str], int], classes: Sequence[str], subsets: Mapping[str, str]) -> str:
    """How many images each class has in each subset.

    Args:
        sizes: number of images by (class, subset).
        subsets: the subsets, and what to call them.
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
    encoding = {
        "y": {
            "field": "class",
            "type": "nominal",
            "scale": {"domain": names},
            "axis": {
                "title": None,
                "labelExpr": "substring(datum.label, indexof(datum.label, ' ') + 1)",
                "ticks": False,
            },
        },
        "x": {
            "field": "count",
            "type": "quantitative",
            "title": "images",
            "stack": True,
            "axis": {"tickMinStep": 1, "tickCount": 6},
        },
        "color": {
            "field": "subset",
            "type": "nominal",
            "scale": {"domain": list(subsets.values()), "range": colors[: len(subsets)]},
        },
        "order": {"field": "place", "type": "quantitative"},
        "description": {"field": "text"},
    }
    mark = {"type": "bar", "height": {"band": 0.72}}
    return svg({"width": 520, "height": {"step": 22}, "data": {"values": rows}, "mark": mark, "encoding": encoding})
