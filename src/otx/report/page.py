"""Write `report.html`, a single self-contained file."""

from __future__ import annotations

import base64
import hashlib
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from otx.errors import UsageError
from otx.evaluation.intervals import wilson
from otx.files import check_output, write_text
from otx.recipe import from_dict
from otx.report import plots
from otx.report.classes import class_rows, linked_cells, matrix_classes
from otx.report.command import command_of
from otx.report.exported import exported_of
from otx.report.figures import (
    ThresholdRow,
    confident_mistakes,
    confusions,
    hesitant_hits,
    interval_in_percent,
    num_right,
    percent,
    percent_of,
    reliability,
    threshold_table,
)
from otx.report.opening import choices, leaks_of, worst_class
from otx.report.pictures import exhibits, explainer, thumbnail, thumbnails
from otx.report.record import Measurement, Record, lr_drops, read_record
from otx.report.sentences import kept_in_words, summarise
from otx.results import StopReason
from otx.workspace import RunFolder
from otx.yaml_text import dump_yaml

if TYPE_CHECKING:
    from jinja2 import Environment

UNUSUAL = ("broken", "empty", "tiny", "small", "huge", "odd")
GENERATOR = b'<meta name="generator" content="otx report">'
GALLERY = 12
HITS = 6
BARS = 40
LISTED = 50
PICTURED = 24
CONFUSIONS_LISTED = 10
GAINS_LISTED = 20
# parts of the page between comments of these names; what users write is escaped, and cannot look like one
EXPORTS = {"smallest export": "report_smallest.html", "exports": "report_exports.html"}
SUBSETS = {"train": "training", "val": "validation", "test": "test"}


def write_report(folder: Path, output: Path | None = None, *, quick: bool = False) -> Path:
    """Write the page of a run folder, or of the folder of one test, from what is in it; returns its path.

    Args:
        output: default: `report.html` in that folder.
        quick: after a test of an exported file, leave out saliency maps that would need PyTorch.

    Raises:
        UsageError: the folder is not a run folder, or the page cannot be written.
        DataError: a file in it is damaged.
    """
    record = read_record(folder)
    path = output or folder / "report.html"
    write_text(path, render_report(record, quick=quick))
    return path


def update_exports(run: RunFolder) -> None:
    """Put what was exported from a run into its page, if it has one, and leave the rest of the page as it is."""
    if not run.report.is_file():
        return
    page, exported = run.report.read_text(encoding="utf-8"), exported_of(run)
    for name, template in EXPORTS.items():
        before, start, rest = page.partition(f"<!--{name}-->")
        _, end, after = rest.partition(f"<!--/{name}-->")
        if end:
            page = before + start + environment().get_template(template).render(exported=exported) + end + after
    write_text(run.report, page)


def check_page(path: Path) -> None:
    """Raise UsageError if a page cannot be written, or would replace a file that is not a report."""
    check_output(path, "reports", (".html", ".htm"), "report.html")
    if path.is_file() and GENERATOR not in path.read_bytes()[:1000]:
        raise UsageError(f"--output {path} exists, and is no report of otx", fix="choose another name")


def render_report(record: Record, *, quick: bool = False) -> str:
    """The page of a run."""
    view = None if record.measurement is None else _measured(record, record.measurement, quick=quick)
    return render(
        "report.html",
        title=f"{record.name}: what it learned",
        record=record,
        summary=summarise(record),
        leaks=leaks_of(record),
        exported=exported_of(record.folder),
        curves=_curves(record),
        forecast=_forecast(record),
        kept=kept_in_words(record),
        measured=view,
        data=view["data"] if view else {},
        sizes=_sizes(record),
        suspicious=_suspicious(record),
        recipe=_recipe(record),
        command=command_of(record),
        subsets=SUBSETS,
    )


def _curves(record: Record) -> dict[str, str]:
    """The curves of a training, by title."""
    epochs, best = record.epochs, record.best
    if len(epochs) < 2:
        return {}
    marks = [] if best is None else [(best.epoch, "best")]
    if record.stop is StopReason.EARLY_STOPPING:
        marks.append((epochs[-1].epoch, "early stop"))
    drops = [(epoch.epoch, f"{epoch.lr:.2g}") for epoch in lr_drops(epochs)]
    return {
        "Loss": plots.losses(epochs, marks),
        "Accuracy": plots.curve({"validation": epochs}, "val_accuracy", number=".1%", marks=marks),
        "Learning rate": plots.curve({"learning rate": epochs}, "lr", number=".3g", marks=drops, falls=True, zero=True),
    }


def _forecast(record: Record) -> dict[str, Any]:
    """What more photos would bring: the curve, and the classes that gain most."""
    found = record.learning_curve
    if found is None:
        return {}
    return {
        "curve": found,
        "plot": plots.learning_curve(found) if found.points else "",
        "classes": found.classes[:GAINS_LISTED],
    }


def _measured(record: Record, measured: Measurement, *, quick: bool) -> dict[str, Any]:
    """What the page shows of a measurement."""
    result, images = measured.result, measured.images
    index = {name: place for place, name in enumerate(measured.classes)}
    images = tuple(sorted(images, key=lambda item: (index[item.label], index[item.predicted], -item.probability)))
    table = threshold_table(images)
    shown, rows = matrix_classes(result.confusion), class_rows(record, measured)
    pairs = [(index[c.label], index[c.predicted], c) for c in confusions(result)[:CONFUSIONS_LISTED]]
    cells = linked_cells(result.confusion, shown, ((i, j) for i, j, _ in pairs))
    linked = [image for image in images if (index[image.label], index[image.predicted]) in cells]
    predictor, note = explainer(measured, record.folder.model, quick=quick)
    root = result.data_root
    return {
        "result": result,
        "held_back": record.held_back,
        "is_own": measured.is_own,
        "right": num_right(result),
        "interval": wilson(num_right(result), result.num_images),
        "percents": interval_in_percent(num_right(result), result.num_images),
        "worst": worst_class(measured),
        "choices": choices(table),
        "rows": rows,
        "not_listed": len(measured.classes) - len(rows),
        "matrix": plots.matrix(measured.classes, result.confusion, shown),
        "left_out": len(measured.classes) - len(shown),
        "confusions": pairs,
        "mistakes": list(exhibits(confident_mistakes(images, GALLERY), root, record.reading, predictor)),
        "hits": list(exhibits(hesitant_hits(images, HITS), root, record.reading, predictor)),
        "saliency": note,
        "has_maps": predictor is not None,
        "reliability": plots.reliability_diagram(reliability(images)),
        "coverage": plots.coverage_curve(table),
        "thresholds": table,
        "data": {
            **_photos(linked, index),
            "classes": _names(measured, cells),
            "root": root.absolute().as_uri(),  # a run from another system names no path of this one
            "thumbs": thumbnails(linked, root, record.reading),
            "thresholds": [threshold_words(row, len(images)) for row in table],
        },
    }


def threshold_words(row: ThresholdRow, total: int) -> list[str]:
    """The texts of a row of the threshold table: threshold, answered, right of these."""
    right = f"{percent(row.right, row.covered)} ({row.right:,} of {row.covered:,})" if row.covered else "none"
    return [percent_of(row.threshold), f"{percent(row.covered, total)} ({row.covered:,} of {total:,})", right]


def _names(measured: Measurement, cells: Iterable[tuple[int, int]]) -> Sequence[str] | dict[int, str]:
    """The names of the classes by index; of very many classes only those of the cells."""
    if not measured.result.confusion.has_many_classes:
        return measured.classes
    return {index: measured.classes[index] for cell in cells for index in cell}


def _photos(images: Sequence[Any], index: Mapping[str, int]) -> dict[str, Any]:
    """The images as (folder, file, confidence), and the range of images of each cell of the matrix."""
    folders: dict[str, int] = {}
    photos: list[tuple[int, str, float]] = []
    cells: dict[str, tuple[int, int]] = {}
    for place, image in enumerate(images):
        folder, _, name = image.path.rpartition("/")
        photos.append((folders.setdefault(folder, len(folders)), name, round(image.probability, 4)))
        cell = f"{index[image.label]}-{index[image.predicted]}"
        cells[cell] = (cells.get(cell, (place, 0))[0], place + 1)
    return {"folders": list(folders), "photos": photos, "cells": cells}


def _sizes(record: Record) -> dict[str, Any]:
    """Numbers of images by class and subset: a plot, and the totals."""
    subsets = {key: title for key, title in SUBSETS.items() if any(subset == key for _, subset in record.sizes)}
    if not subsets:
        return {}
    totals = {
        title: sum(count for (_, own), count in record.sizes.items() if own == key) for key, title in subsets.items()
    }
    names = sorted({name for name, _ in record.sizes}, key=lambda name: -record.sizes[name, "train"])
    shown = names if len(names) <= BARS else names[: BARS // 2] + names[-BARS // 2 :]
    return {
        "totals": totals,
        "plot": plots.class_sizes(record.sizes, shown, subsets),
        "left_out": len(names) - len(shown),
        "num_classes": len(names),
        "guessed": (record.summary or {}).get("pseudo_labels", 0),
    }


def _suspicious(record: Record) -> dict[str, Any]:
    """The findings of `otx check`, each list cut to LISTED, with pictures of some."""
    found = record.suspicions
    if found is None:
        return {}
    root = Path(found["data_root"])
    mislabelled, pairs = found["mislabelled"] or [], [*found["leaks"], *found["conflicts"]]
    places = [item["path"] for item in mislabelled[:PICTURED]]
    places += [pair[side]["path"] for pair in pairs[:PICTURED] for side in ("first", "second")]
    lists = {name: found[name] for name in ("mislabelled", "leaks", "conflicts", "copies")}
    return {
        "num_images": found["num_images"],
        "was_asked": found["mislabelled"] is not None,
        **{name: (items or [])[:LISTED] for name, items in lists.items()},
        "counts": {name: len(items or []) for name, items in lists.items()},
        "others": [item for name in UNUSUAL for item in found.get(name, ())],
        "listed": LISTED,
        "pictures": {
            path: picture for path in places if (picture := thumbnail(root / path, record.reading)) is not None
        },
    }


def _recipe(record: Record) -> str:
    if record.card is not None:
        return dump_yaml(from_dict(record.card.recipe, "the model file"))
    return record.folder.config.read_text(encoding="utf-8") if record.folder.config.is_file() else ""


def render(template: str, **values: Any) -> str:
    """Fill a template; the page may run only its own script, and must not use the network."""
    script = read_part("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    text = (
        environment()
        .get_template(template)
        .render(
            script=script, digest=digest, style=read_part("page.css"), made=time.strftime("%Y-%m-%d %H:%M"), **values
        )
    )
    # file names that are not valid UTF-8 come as surrogates
    return text.encode("utf-8", "replace").decode("utf-8")


def read_part(name: str) -> str:
    return files("otx.report").joinpath("templates", name).read_text(encoding="utf-8")


@cache
def environment() -> Environment:
    """The environment of the templates; it escapes every value."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    made = Environment(
        loader=PackageLoader("otx.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"moment": moment, "code": code}
    made.globals |= {"percent": percent, "percent_of": percent_of}
    made.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "ensure_ascii": False}
    return made


def code(text: str) -> str:
    """A sentence as HTML, what stands between backticks as code."""
    from markupsafe import Markup, escape

    return Markup(re.sub("`([^`]*)`", r"<code>\1</code>", str(escape(text))))


def moment(stamp: str | None) -> str:
    """The time stamp of a run folder as readable text."""
    return "" if not stamp else time.strftime("%Y-%m-%d %H:%M:%S", time.strptime(stamp, "%Y%m%d_%H%M%S"))
