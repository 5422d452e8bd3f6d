"""The figures of a test, from logits and labels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from otx.errors import DataError
from otx.inference.classify import softmax
from otx.results import ClassResult

CALIBRATION_BINS = 15


@dataclass(frozen=True)
class Figures:
    """See `otx.results.TestResult`, which holds the same figures."""

    top1: float
    top5: float | None
    macro_f1: float
    loss: float
    calibration_error: float
    classes: tuple[ClassResult, ...]
    confusion: tuple[tuple[int, ...], ...]


def measure(logits: NDArray[np.float32], labels: NDArray[np.int64], classes: tuple[str, ...]) -> Figures:
    """Measure predictions.

    Args:
        logits: (N, C), N at least 1.
        labels: (N,), from 0 to C - 1.

    Raises:
        DataError: there is no image.
    """
    if len(labels) == 0:
        raise DataError("there is no image to measure")
    probabilities = softmax(logits)
    predicted = logits.argmax(axis=1)
    confusion = np.zeros((len(classes), len(classes)), np.int64)
    np.add.at(confusion, (labels, predicted), 1)
    per_class = tuple(_class_result(name, index, confusion) for index, name in enumerate(classes))
    true = probabilities[np.arange(len(labels)), labels]
    return Figures(
        top1=float((predicted == labels).mean()),
        top5=_top5(logits, labels) if len(classes) > 5 else None,
        macro_f1=float(np.mean([item.f1 for item in per_class if item.count])),
        loss=float(-np.log(np.maximum(true, np.finfo(np.float64).tiny)).mean()),
        calibration_error=calibration_error(probabilities.max(axis=1), predicted == labels),
        classes=per_class,
        confusion=tuple(tuple(row) for row in confusion.tolist()),
    )


def calibration_error(confidence: NDArray[np.float64], right: NDArray[np.bool_]) -> float:
    """Expected calibration error: |accuracy - mean confidence| over 15 bins of confidence, weighted by their images.

    Source: Guo et al. 2017, arXiv 1706.04599.
    """
    bins = calibration_bins(confidence, right)
    return sum(item.count * abs(item.accuracy - item.confidence) for item in bins) / len(right)


@dataclass(frozen=True)
class CalibrationBin:
    """The images whose confidence is from `low` to `high`: how many, their mean confidence, their accuracy."""

    low: float
    high: float
    count: int
    confidence: float
    accuracy: float


def calibration_bins(confidence: NDArray[np.float64], right: NDArray[np.bool_]) -> tuple[CalibrationBin, ...]:
    """The bins of a reliability diagram, 15 of equal width; those without an image are left out.

    Args:
        confidence: (N,), the probability of the predicted class.
        right: (N,), whether it is the true one.
    """
    bins = np.minimum((confidence * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    return tuple(
        CalibrationBin(
            low=number / CALIBRATION_BINS,
            high=(number + 1) / CALIBRATION_BINS,
            count=int((bins == number).sum()),
            confidence=float(confidence[bins == number].mean()),
            accuracy=float(right[bins == number].mean()),
        )
        for number in np.unique(bins).tolist()
    )


def _top5(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    best = np.argpartition(-logits, 4, axis=1)[:, :5]
    return float((best == labels[:, None]).any(axis=1).mean())


def _class_result(name: str, index: int, confusion: NDArray[np.int64]) -> ClassResult:
    hits, count, taken = int(confusion[index, index]), int(confusion[index].sum()), int(confusion[:, index].sum())
    precision = hits / taken if taken else 0.0
    recall = hits / count if count else 0.0
    f1 = 2 * hits / (count + taken) if count + taken else 0.0
    return ClassResult(name, precision, recall, f1, count)
