"""Which classes a report shows, and what it says about each."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from otx.confusion import MANY_CLASSES, ConfusionMatrix
from otx.report.figures import confusions, interval_in_percent
from otx.report.record import Measurement, Record
from otx.results import ClassResult

MATRIX_CLASSES = 40
CLASSES_LISTED = 200


@dataclass(frozen=True)
class ClassRow:
    """A row of the table of classes.

    `interval` is that of the recall, and `mistaken_for` the class it is confused with most, if any.
    """

    name: str
    training: int
    count: int
    precision: float
    recall: float
    interval: str
    f1: float
    mistaken_for: str


def class_rows(record: Record, measured: Measurement) -> list[ClassRow]:
    """The table of classes: all of them, or of very many the worst."""
    most: dict[str, str] = {}
    for pair in confusions(measured.result):
        most.setdefault(pair.label, f"{pair.predicted} ({pair.count})")
    return [
        ClassRow(
            item.name,
            record.sizes[item.name, "train"],
            item.count,
            item.precision,
            item.recall,
            interval_of(item),
            item.f1,
            most.get(item.name, ""),
        )
        for item in listed(measured.result.classes)
    ]


def interval_of(item: ClassResult) -> str:
    """The 95 % interval of a recall in percent, `81 to 96`; empty without images. Old results hold none."""
    if not item.count:
        return ""
    low, high = interval_in_percent(round(item.recall * item.count), item.count)
    return f"{low} to {high}"


def listed(classes: tuple[ClassResult, ...]) -> tuple[ClassResult, ...]:
    """All classes; of more than MANY_CLASSES the CLASSES_LISTED with the lowest F1, those with most images first."""
    if len(classes) <= MANY_CLASSES:
        return classes
    worst = sorted((item for item in classes if item.count), key=lambda item: (item.f1, -item.count))
    return tuple(worst[:CLASSES_LISTED])


def matrix_classes(confusion: ConfusionMatrix) -> list[int]:
    """The classes that the matrix has room for: all, or those with the most mistakes."""
    classes = range(len(confusion))
    if len(confusion) <= MATRIX_CLASSES:
        return list(classes)
    hits, totals, taken = confusion.hits, confusion.totals, confusion.taken
    mistakes = [totals[i] + taken[i] - 2 * hits[i] for i in classes]
    return sorted(sorted(classes, key=lambda i: -mistakes[i])[:MATRIX_CLASSES])


def linked_cells(
    confusion: ConfusionMatrix, shown: Iterable[int], pairs: Iterable[tuple[int, int]]
) -> set[tuple[int, int]]:
    """The cells whose images the page can show: all; of very many classes those of the matrix and of the list.

    Args:
        shown: the classes of the matrix.
        pairs: the confusions in the list.
    """
    if not confusion.has_many_classes:
        return {(i, j) for i, j, _ in confusion.entries}
    return {(i, j) for i, j, _ in confusion.among(list(shown))} | set(pairs)
