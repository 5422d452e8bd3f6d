"""Suggest labels from those given so far, and say how good the suggestions are. Pure: arrays in, figures out."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from otx import active
from otx.active import scaled
from otx.evaluation.intervals import wilson
from otx.limits import limited_blas
from otx.model.regression import Regression

FOLDS = 5
# labels that a classifier is fitted to, and that its accuracy is measured on: a second on two cores
MOST_FITTED, MOST_MEASURED = 2000, 500
FEWER_MISTAKES = 0.25
# below this exponent it would take five times as many labels
LEAST_SLOPE = 0.16

Features = NDArray[np.float32]
Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Accuracy:
    """How good suggestions are, by cross-validation on the labelled photos.

    Args:
        right, total: photos that a classifier not fitted to them labels as the person did, and all that were tried.
        low, high: the 95 % interval of right / total.
        more: how many more labels would take away a quarter of the mistakes, from half as many labels against all;
            None: more labels are not seen to help.
    """

    right: int
    total: int
    low: float
    high: float
    more: int | None


def fit(features: Features, labels: Labels, num_classes: int, *, seed: int = 0) -> Regression:
    """A logistic regression on the labelled photos; of more than 2,000 on a random part.

    Args:
        features: (n, D).
        labels: (n,), from 0 to num_classes - 1.
    """
    if len(labels) > MOST_FITTED:
        some = np.random.default_rng(seed).choice(len(labels), MOST_FITTED, replace=False)
        features, labels = features[some], labels[some]
    with limited_blas():
        return active.fit(scaled(features), labels, num_classes)


def suggest(regression: Regression, features: Features) -> tuple[Labels, NDArray[np.float32]]:
    """The likeliest class (N,) of each photo, and its probability (N,)."""
    with limited_blas():
        probabilities = regression.probabilities(scaled(features))
    return probabilities.argmax(axis=1), probabilities.max(axis=1).astype(np.float32)


def cross_validate(features: Features, labels: Labels, *, seed: int = 0) -> Accuracy | None:
    """The accuracy of suggestions; None unless two classes have five labels.

    Photos of classes with fewer labels do not count. At most 500 labels are used.
    """
    counts = np.bincount(labels)
    enough = np.flatnonzero(counts >= FOLDS)
    if len(enough) < 2:
        return None
    judged = np.flatnonzero(np.isin(labels, enough))
    rng = np.random.default_rng(seed)
    judged = rng.permutation(judged)[:MOST_MEASURED]
    names, own = np.unique(labels[judged], return_inverse=True)
    rows, fold = scaled(features[judged]), _folds(own)
    own = own.astype(np.int64)
    right = half_right = 0
    with limited_blas():
        for number in range(FOLDS):
            inside, held = np.flatnonzero(fold != number), fold == number
            for some in (inside, inside[::2]):
                fitted = active.fit(rows[some], own[some], len(names))
                found = int((fitted.logits(rows[held]).argmax(axis=1) == own[held]).sum())
                right, half_right = (right + found, half_right) if some is inside else (right, half_right + found)
    low, high = wilson(right, len(own))
    return Accuracy(right, len(own), low, high, labels_more(len(own), len(own) - half_right, len(own) - right))


def _folds(labels: Labels) -> Labels:
    """The fold (n,) of each photo, in turns within each class."""
    fold = np.zeros(len(labels), np.int64)
    for label in np.unique(labels):
        places = np.flatnonzero(labels == label)
        fold[places] = np.arange(len(places)) % FOLDS
    return fold


def labels_more(count: int, wrong_with_half: int, wrong_with_all: int) -> int | None:
    """How many more labels would take away a quarter of the mistakes, if they fall as a power of the labels.

    Args:
        count: the labels so far.

    Returns:
        None if there are no mistakes, or half as many labels made hardly more of them.

    Source: Hestness et al. 2017, Deep Learning Scaling is Predictable, Empirically, arXiv 1712.00409.
    """
    if wrong_with_all == 0 or wrong_with_half <= wrong_with_all:
        return None
    slope = math.log2(wrong_with_half / wrong_with_all)
    if slope < LEAST_SLOPE:
        return None
    return math.ceil(count * (math.pow(1 - FEWER_MISTAKES, -1 / slope) - 1))
