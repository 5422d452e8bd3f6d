"""Which images to label next: those whose labels teach a classifier most. Pure: arrays in, numbers out."""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray

from otx.limits import one_blas_thread
from otx.model.regression import UNSEEN, Regression

UNLABELLED = -1
# labels a class, from which on a classifier says what is uncertain
FEW = 2
# of 0.01 to 0.2, which are equally accurate on flowers and trash, the one whose probabilities mean what they say
PENALTY = 0.05
STEPS = 50
# images that are compared at a time, of larger sets a random part: their likeness takes 64 MB
MOST = 4000
# how far an image speaks for others, as a share of the median distance
REACH = 0.5
SAMPLE = 500
CHUNK = 1024

Features = NDArray[np.float32]
Labels = NDArray[np.int64]


def next_to_label(features: Features, labels: Labels, count: int, *, seed: int = 0) -> list[int]:
    """The images to label next, the most instructive first: uncertain, typical, and unlike each other.

    Each image in turn is the one that covers most uncertainty that is not covered yet: the sum, over all unlabelled
    images, of how uncertain an image is times how much more alike it is to this one than to any that has a label or was
    chosen. Alike is a Gaussian of the distance, uncertain one minus the margin of a logistic regression on the labelled
    images; with fewer than two labels a class all images are equally uncertain (MaxHerding). Of more than 4,000
    unlabelled images a random part is looked at.

    Args:
        features: (N, D), the input of a network's classifier.
        labels: (N,), the index of each image's class; -1 where it is not known.
        count: how many images at most.
        seed: the same seed chooses the same images.

    Returns:
        Different indices of unlabelled images; fewer than `count` if there are no more.

    Raises:
        ValueError: `features` and `labels` differ in length.

    Source: Bae, Oliveira and Sutherland, Uncertainty Herding: One Active Learning Method for All Label Budgets, ICLR
    2025, arXiv 2412.20644; Bae, Noh and Sutherland, Generalized Coverage for More Robust Low-Budget Active Learning,
    ECCV 2024, arXiv 2407.12212 (MaxHerding). The width of the Gaussian was chosen by `benchmarks/active.py`.
    """
    if len(features) != len(labels):
        raise ValueError(f"{len(features)} rows of features and {len(labels)} labels")
    known, unknown = np.flatnonzero(labels != UNLABELLED), np.flatnonzero(labels == UNLABELLED)
    if len(unknown) > MOST:
        unknown = np.sort(np.random.default_rng(seed).choice(unknown, MOST, replace=False))
    count = min(count, len(unknown))
    if count <= 0:
        return []
    rows, own = scaled(features[unknown]), scaled(features[known])
    with one_blas_thread():
        chosen = herded(rows, uncertainty_of(rows, own, labels[known]), own, count)
    return [int(unknown[place]) for place in chosen]


def uncertainty_of(rows: Features, known: Features, labels: Labels) -> NDArray[np.float32]:
    """How unsure (N,) a classifier fitted to the known rows is of each row: 1 minus the margin, 0 to 1.

    Args:
        labels: of the known rows; with fewer than two a class every row counts as unsure.
    """
    names, own = np.unique(labels, return_inverse=True)
    if len(names) < 2 or len(known) < FEW * len(names):
        return np.ones(len(rows), np.float32)
    probabilities = np.sort(fit(known, own.astype(np.int64), len(names)).probabilities(rows), axis=1)
    return np.asarray(1 - probabilities[:, -1] + probabilities[:, -2], np.float32)


def herded(rows: Features, weight: NDArray[np.float32], known: Features, count: int) -> list[int]:
    """The rows that cover the most weight, each after those before it; `weight` (N,) is that of each row (N, D).

    Args:
        known: rows that cover already what is alike.
    """
    some = rows[np.random.default_rng(0).permutation(len(rows))[:SAMPLE]]
    width = (REACH * max(float(np.median(_distances(some, rows))), 1e-6)) ** 2
    alike = np.exp(-(_distances(rows, rows) ** 2) / width)
    covered = np.zeros(len(rows), np.float32)
    for start in range(0, len(known), CHUNK):
        near = _distances(rows, known[start : start + CHUNK]).min(axis=1)
        covered = np.maximum(covered, np.exp(-(near**2) / width))
    chosen: list[int] = []
    for _ in range(count):
        gain = weight @ np.maximum(alike - covered[:, None], 0)
        gain[chosen] = -1
        chosen.append(int(gain.argmax()))
        covered = np.maximum(covered, alike[:, chosen[-1]])
    return chosen


def _distances(rows: Features, others: Features) -> Features:
    """Euclidean distances (N, M) of rows (N, D) and others (M, D)."""
    squares = (rows * rows).sum(axis=1)[:, None] + (others * others).sum(axis=1)[None] - 2 * rows @ others.T
    return np.asarray(np.sqrt(np.maximum(squares, 0)), np.float32)


def fit(rows: Features, labels: Labels, num_classes: int) -> Regression:
    """A multinomial logistic regression on rows (n, D), in a second for some hundred rows.

    Fewer rows than columns are fitted in the space that they span, which gives the same answer: the best weights lie in
    it (Kimeldorf and Wahba 1971, Some results on Tchebycheffian spline functions). A class without rows is never
    the answer.
    """
    from sklearn.linear_model import LogisticRegression

    basis, places = np.linalg.qr(rows.T) if len(rows) < rows.shape[1] else (None, rows.T)
    scale = max(float(np.sqrt(np.square(rows).mean())), 1e-9)
    names = np.unique(labels)
    weight, bias = np.zeros((num_classes, rows.shape[1]), np.float32), np.full(num_classes, -UNSEEN, np.float32)
    if len(names) > 1:
        # two classes share one row of weights, whose square is then twice that of two
        strength = (2 if len(names) == 2 else 1) / (PENALTY * len(rows))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the last digits of the weights change no answer
            found = LogisticRegression(C=strength, max_iter=STEPS, tol=1e-3).fit(places.T / scale, labels)
        own = found.coef_ / scale
        own = own if basis is None else own @ basis.T
        weight[names] = np.concatenate([-own, own]) / 2 if len(names) == 2 else own
        offset = found.intercept_
        bias[names] = [-offset[0] / 2, offset[0] / 2] if len(names) == 2 else offset
        bias[np.isin(np.arange(num_classes), names, invert=True)] = bias[names].min() - UNSEEN
    else:
        bias[names] = 0
    return Regression(weight, bias)


def scaled(features: Features) -> Features:
    """Rows (N, D) of length 1, with single strong features dampened by a square root (Perronnin et al., ECCV 2010)."""
    rows = np.sign(features) * np.sqrt(np.abs(features))
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9), np.float32)
