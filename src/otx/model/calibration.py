"""Whether probabilities mean what they say, and the temperature that makes them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CALIBRATION_BINS = 15
FOLDS = 5
# with fewer images a temperature is mostly chance
MIN_IMAGES = 20
LARGEST = 20.0
STEPS = 40

Logits = NDArray[np.float32]
Labels = NDArray[np.int64]


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


def calibration_error(confidence: NDArray[np.float64], right: NDArray[np.bool_]) -> float:
    """Expected calibration error: |accuracy - mean confidence| over 15 bins of confidence, weighted by their images.

    Source: Guo et al. 2017, arXiv 1706.04599.
    """
    bins = calibration_bins(confidence, right)
    return sum(item.count * abs(item.accuracy - item.confidence) for item in bins) / len(right)


@dataclass(frozen=True)
class Calibration:
    """A temperature, and the calibration error of the images it was fitted on.

    Args:
        temperature: what logits are divided by; 1 if no other one was shown to be better.
        error_before: at temperature 1.
        error_after: with temperatures that were fitted without the images they are applied to.
        why_not: why the temperature is 1; empty if it was fitted.
    """

    temperature: float
    error_before: float
    error_after: float
    num_images: int
    why_not: str = ""


def calibrate(logits: Logits, labels: Labels) -> Calibration:
    """Fit a temperature to logits (N, C) with labels (N,), N above 0, of images that were not trained on.

    It is kept if temperatures fitted on four fifths of the images lower the loss of the last fifth, over all five.
    """
    before = _error(logits, labels)
    if len(labels) < MIN_IMAGES:
        return Calibration(1.0, before, before, len(labels), f"{len(labels)} images are too few, {MIN_IMAGES} are not")
    crossed = _crossed(logits, labels)
    if _loss(crossed, labels) >= _loss(logits, labels):
        return Calibration(1.0, before, before, len(labels), "no other temperature was better on images left out")
    return Calibration(fit_temperature(logits, labels), before, _error(crossed, labels), len(labels))


def fit_temperature(logits: Logits, labels: Labels) -> float:
    """The temperature, from 1/20 to 20, with the lowest cross-entropy of softmax(logits / temperature).

    Labels are smoothed by 1 / (N + 2), since a network that is right on all images would else be infinitely sure. The
    loss is convex in the inverse of the temperature, so bisection finds the zero of its derivative.

    Source: Guo et al. 2017, arXiv 1706.04599; the smoothing is that of Platt 1999, "Probabilistic outputs for support
    vector machines".
    """
    smoothing = 1 / (len(labels) + 2)
    own = logits[np.arange(len(labels)), labels].astype(np.float64)
    wanted = float(((1 - smoothing) * own + smoothing * logits.mean(axis=1, dtype=np.float64)).mean())
    low, high = -np.log(LARGEST), np.log(LARGEST)
    for _ in range(STEPS):
        middle = (low + high) / 2
        expected = float((_softmax(logits * np.float32(np.exp(middle))) * logits).sum(axis=1).mean())
        low, high = (low, middle) if expected > wanted else (middle, high)
    return float(np.exp(-(low + high) / 2))


def _crossed(logits: Logits, labels: Labels) -> Logits:
    """The logits, each divided by a temperature that was fitted without its fold."""
    fold = np.random.default_rng(0).permutation(len(labels)) % FOLDS
    scaled = logits.copy()
    for number in range(FOLDS):
        inside = fold == number
        scaled[inside] /= np.float32(fit_temperature(logits[~inside], labels[~inside]))
    return scaled


def _softmax(logits: Logits) -> Logits:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares: Logits = powers / powers.sum(axis=1, keepdims=True)
    return shares


def _loss(logits: Logits, labels: Labels) -> float:
    own = _softmax(logits)[np.arange(len(labels)), labels].astype(np.float64)
    return float(-np.log(np.maximum(own, np.finfo(np.float64).tiny)).mean())


def _error(logits: Logits, labels: Labels) -> float:
    return calibration_error(_softmax(logits).max(axis=1).astype(np.float64), logits.argmax(axis=1) == labels)
