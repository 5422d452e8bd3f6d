"""The figures of a test, from what is kept of the logits of each image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from otx.confusion import ConfusionMatrix
from otx.errors import DataError
from otx.evaluation.intervals import wilson
from otx.inference.classify import softmax
from otx.model.calibration import calibration_error
from otx.results import ClassResult


@dataclass(frozen=True)
class Figures:
    """See `otx.results.TestResult`, which holds the same figures."""

    top1: float
    top5: float | None
    macro_f1: float
    loss: float
    calibration_error: float
    classes: tuple[ClassResult, ...]
    confusion: ConfusionMatrix
    top1_low: float
    top1_high: float


@dataclass(frozen=True)
class Answers:
    """What is kept of the answers for N images: six numbers each, however many classes there are.

    Args:
        labels, predicted: indices of the true and of the predicted classes.
        probability, true_probability: those of the predicted and of the true class.
        true_rank: rank of the true class, from 1.
        in_top5: whether the true class is one of the best five; always with five classes or fewer.
    """

    labels: NDArray[np.int64]
    predicted: NDArray[np.int64]
    probability: NDArray[np.float64]
    true_probability: NDArray[np.float64]
    true_rank: NDArray[np.int64]
    in_top5: NDArray[np.bool_]

    @classmethod
    def of(cls, logits: NDArray[np.float32], labels: NDArray[np.int64]) -> Answers:
        """The answers in logits (N, C) for images with labels (N,), from 0 to C - 1."""
        own, predicted, probabilities = np.arange(len(labels)), logits.argmax(axis=1), softmax(logits)
        return cls(
            labels=labels,
            predicted=predicted,
            probability=probabilities[own, predicted],
            true_probability=probabilities[own, labels],
            true_rank=1 + (logits > logits[own, labels][:, None]).sum(axis=1),
            in_top5=_in_top5(logits, labels),
        )

    @classmethod
    def join(cls, parts: Sequence[Answers]) -> Answers:
        """The answers of several parts, at least one, one after another."""
        return cls(*(np.concatenate([getattr(part, item.name) for part in parts]) for item in fields(cls)))


def measure(answers: Answers, classes: tuple[str, ...]) -> Figures:
    """Measure predictions.

    Raises:
        DataError: there is no image.
    """
    if len(answers.labels) == 0:
        raise DataError("there is no image to measure")
    right = answers.predicted == answers.labels
    confusion = ConfusionMatrix.of(answers.labels.tolist(), answers.predicted.tolist(), len(classes))
    per_class = tuple(map(_class_result, classes, confusion.hits, confusion.totals, confusion.taken))
    low, high = wilson(int(right.sum()), len(right))
    return Figures(
        top1=float(right.mean()),
        top5=float(answers.in_top5.mean()) if len(classes) > 5 else None,
        macro_f1=float(np.mean([item.f1 for item in per_class if item.count])),
        loss=float(-np.log(np.maximum(answers.true_probability, np.finfo(np.float64).tiny)).mean()),
        calibration_error=calibration_error(answers.probability, right),
        classes=per_class,
        confusion=confusion,
        top1_low=low,
        top1_high=high,
    )


def _in_top5(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> NDArray[np.bool_]:
    if logits.shape[1] <= 5:
        return np.ones(len(labels), bool)
    best = np.argpartition(-logits, 4, axis=1)[:, :5]
    return np.asarray((best == labels[:, None]).any(axis=1))


def _class_result(name: str, hits: int, count: int, taken: int) -> ClassResult:
    precision = hits / taken if taken else 0.0
    recall = hits / count if count else 0.0
    f1 = 2 * hits / (count + taken) if count + taken else 0.0
    low, high = wilson(hits, count) if count else (None, None)
    return ClassResult(name, precision, recall, f1, count, low, high)
