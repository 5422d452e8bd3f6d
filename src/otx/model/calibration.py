"""Whether probabilities mean what they say, and the temperature that makes them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from otx.model.regression import Labels

CALIBRATION_BINS = 15
FOLDS = 5
# fewer give a temperature by chance: of 24 images it raised the loss of the test images in five of five trainings
MIN_IMAGES = 100
# how many images the belief in a temperature of about 1 is worth
PRIOR = 4.0
LARGEST = 20.0
STEPS = 40

Logits = NDArray[np.float32]


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

    It is kept if there are MIN_IMAGES images, and temperatures fitted on four fifths of them lower the mean loss of the
    last fifth, over all five.
    """
    before = _error(logits, labels)
    if len(labels) < MIN_IMAGES:
        return Calibration(
            1.0, before, before, len(labels), f"{len(labels)} validation images are too few, it takes {MIN_IMAGES}"
        )
    crossed = _crossed(logits, labels)
    gain = _losses(logits, labels) - _losses(crossed, labels)
    if not gain.mean() > 0:
        return Calibration(1.0, before, before, len(labels), "no other temperature was better on images left out")
    return Calibration(fit_temperature(logits, labels), before, _error(crossed, labels), len(labels))


def fit_temperature(logits: Logits, labels: Labels) -> float:
    """The temperature T, from 1/20 to 20, that is most probable after these images.

    It minimises the summed cross-entropy of softmax(b * logits), b = 1 / T, plus PRIOR * (b - 1 - log b): a gamma prior
    with its mode at 1, without which a network that is right on all images would become infinitely sure. Both are
    convex in b, so bisection finds the zero of the derivative.

    Source: Guo et al. 2017, arXiv 1706.04599, but for the prior.
    """
    wanted = float(logits[np.arange(len(labels)), labels].mean(dtype=np.float64))
    low, high = -np.log(LARGEST), np.log(LARGEST)
    for _ in range(STEPS):
        middle = (low + high) / 2
        expected = float((_softmax(logits * np.float32(np.exp(middle))) * logits).sum(axis=1).mean(dtype=np.float64))
        slope = len(labels) * (expected - wanted) + PRIOR * (1 - np.exp(-middle))
        low, high = (low, middle) if slope > 0 else (middle, high)
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


def _losses(logits: Logits, labels: Labels) -> NDArray[np.float64]:
    """The cross-entropy (N,) of each image."""
    own = _softmax(logits)[np.arange(len(labels)), labels].astype(np.float64)
    losses: NDArray[np.float64] = -np.log(np.maximum(own, np.finfo(np.float64).tiny))
    return losses


def _error(logits: Logits, labels: Labels) -> float:
    return calibration_error(_softmax(logits).max(axis=1).astype(np.float64), logits.argmax(axis=1) == labels)
