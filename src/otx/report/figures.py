"""Compute the figures of a report from the answers for single images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from otx.model.calibration import CalibrationBin, calibration_bins
from otx.results import ImageResult, TestResult

THRESHOLDS = 100


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
