"""What stands at the top of a report: leaks, the worst class, and what answering only when sure would bring."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from otx.report.figures import ThresholdRow, halving_row, percent
from otx.report.record import Measurement, Record
from otx.results import ClassResult

STEPS = (0, 50, 60, 70, 80, 90, 95, 99)
NEAR = 5


@dataclass(frozen=True)
class Leaks:
    """Measured photos that are in training as well, and how often the model is right (`right` of `total`) without."""

    count: int
    right: int
    total: int

    @property
    def without(self) -> str:
        return (
            f"{percent(self.right, self.total)} ({self.right:,} of {self.total:,})" if self.total else "no photo left"
        )


@dataclass(frozen=True)
class Choice:
    """Answering only from a confidence on, in percent: the share answered, and the share of these that is right.

    `halves`: the first choice that halves the share of wrong answers.
    """

    threshold: int
    answered: str
    right: str
    mistakes: int
    handed_over: int
    halves: bool


def leaks_of(record: Record) -> Leaks | None:
    """The leaks between the measured images and the training images, if the data was checked and there are any."""
    measured = record.measurement
    if measured is None or not measured.is_own or record.suspicions is None:
        return None
    pairs = [(pair["first"], pair["second"]) for pair in record.suspicions["leaks"]]
    copies = {one["path"] for pair in pairs for one, other in (pair, pair[::-1]) if other["subset"] == "train"}
    kept = [image for image in measured.images if image.path not in copies]
    count = len(measured.images) - len(kept)
    return Leaks(count, sum(image.is_right for image in kept), len(kept)) if count else None


def worst_class(measured: Measurement) -> ClassResult | None:
    """The class with the lowest recall, of several the one with the most images; None with fewer than two classes."""
    found = [item for item in measured.result.classes if item.count]
    return min(found, key=lambda item: (item.recall, -item.count)) if len(found) > 1 else None


def choices(table: Sequence[ThresholdRow]) -> list[Choice]:
    """A few rows of the table of thresholds, with that of `halving_row`; those that answer no fewer are left out."""
    total, half = table[0].covered, halving_row(table)
    steps: Iterable[int] = STEPS
    if half is not None:
        own = round(100 * half.threshold)
        steps = sorted({own, *(step for step in STEPS if step == 0 or abs(step - own) >= NEAR)})
    rows: list[Choice] = []
    for row in (table[step] for step in steps):
        handed_over = total - row.covered
        if row.covered and (row is half or not rows or rows[-1].handed_over < handed_over):
            right, mistakes = percent(row.right, row.covered), row.covered - row.right
            step = round(100 * row.threshold)
            rows.append(Choice(step, percent(row.covered, total), right, mistakes, handed_over, row is half))
    return rows
