"""Compute the figures of a report from the answers for single images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from otx.evaluation.intervals import wilson
from otx.model.calibration import CalibrationBin, calibration_bins
from otx.results import ImageResult, TestResult

THRESHOLDS = 100
MIN_ERRORS = 2
MIN_COVERED = 0.5


@dataclass(frozen=True)
class Confusion:
    """`count` of the `total` images of class `label` were predicted as `predicted`."""

    label: str
    predicted: str
    count: int
    total: int


@dataclass(frozen=True)
class ThresholdRow:
    """`covered` images have at least the confidence `threshold`; the model is right on `right` of these."""

    threshold: float
    covered: int
    right: int


def percent(part: float, total: float) -> str:
    """`86 %`: a share in whole percents; `<1 %` and `>99 %` where it would round to none or all and is not."""
    whole = math.floor(100 * part / total + 0.5)
    if whole == 0 and part:
        return "<1 %"
    return ">99 %" if whole == 100 and part < total else f"{whole} %"


def percent_of(share: float) -> str:
    """The same for a share from 0 to 1."""
    return percent(share, 1)


def interval_in_percent(right: int, total: int) -> tuple[int, int]:
    """The 95 % interval of a share in whole percents, rounded outwards."""
    low, high = wilson(right, total)
    return math.floor(100 * low), math.ceil(100 * high)


def confusions(result: TestResult) -> tuple[Confusion, ...]:
    """The pairs of classes that are confused, most frequent first; among equals, the rarer true class first."""
    names = [item.name for item in result.classes]
    found = [
        Confusion(names[row], names[column], count, result.confusion.totals[row])
        for row, column, count in result.confusion.entries
        if row != column
    ]
    return tuple(sorted(found, key=lambda item: (-item.count, item.total)))


def num_right(result: TestResult) -> int:
    return sum(result.confusion.hits)


def threshold_table(images: Sequence[ImageResult]) -> tuple[ThresholdRow, ...]:
    """Coverage and accuracy if the model answers only from a confidence on, for the thresholds 0, 0.01, ... 1."""
    confidence = np.asarray([image.probability for image in images])
    right = np.asarray([image.is_right for image in images], bool)
    rows = []
    for step in range(THRESHOLDS + 1):
        covered = confidence >= step / THRESHOLDS
        rows.append(ThresholdRow(step / THRESHOLDS, int(covered.sum()), int(right[covered].sum())))
    return tuple(rows)


def halving_row(table: Sequence[ThresholdRow]) -> ThresholdRow | None:
    """The lowest threshold at which the share of wrong answers is half of that without one; None if none is of use.

    Of use: there are MIN_ERRORS to halve, and MIN_COVERED of the images are answered.
    """
    total, errors = table[0].covered, table[0].covered - table[0].right
    useful = (row for row in table if row.covered and row.covered >= MIN_COVERED * total)
    halves = (row for row in useful if 2 * (row.covered - row.right) * total <= errors * row.covered)
    return next(halves, None) if errors >= MIN_ERRORS else None


def reliability(images: Sequence[ImageResult]) -> tuple[CalibrationBin, ...]:
    """The bins of the reliability diagram, see `otx.model.calibration.calibration_bins`."""
    confidence = np.asarray([image.probability for image in images])
    return calibration_bins(confidence, np.asarray([image.is_right for image in images], bool))


def confident_mistakes(images: Sequence[ImageResult], count: int) -> list[ImageResult]:
    """The wrong answers that the model is most sure of, surest first."""
    return sorted((image for image in images if not image.is_right), key=lambda image: -image.probability)[:count]


def hesitant_hits(images: Sequence[ImageResult], count: int) -> list[ImageResult]:
    """The right answers that the model is least sure of, least sure first."""
    return sorted((image for image in images if image.is_right), key=lambda image: image.probability)[:count]
