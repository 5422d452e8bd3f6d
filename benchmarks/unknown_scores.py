"""Scores of how foreign an image is to a classifier: each is fitted to training features, and higher is more foreign.

All take the classifier's input (N, D) and know no file; what they need of a classifier is in `Known`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from otx.model.unknown import summarise

Features = NDArray[np.float32]
Scores = NDArray[np.float64]
Score = Callable[[Features], Scores]

SHRINKAGE = 0.1
NEIGHBOURS = 10
# as many rows of 1,280 numbers of 16 bits as 2 MB hold
SAMPLE = 780


@dataclass(frozen=True)
class Known:
    """A classifier and what it was fitted to: features (N, D), labels (N,), weights (C, D), biases (C,).

    `val` are the features of validation images.
    """

    features: Features
    labels: NDArray[np.int64]
    weight: Features
    bias: Features
    val: Features

    def logits(self, features: Features) -> Features:
        return features @ self.weight.T + self.bias

    @property
    def means(self) -> NDArray[np.float64]:
        """The mean features of each class (C, D)."""
        return np.stack([self.features[self.labels == label].mean(0) for label in range(len(self.bias))]).astype(float)


def largest_probability(known: Known) -> Score:
    """One minus the largest probability. Source: Hendrycks and Gimpel, arXiv 1610.02136."""

    def score(features: Features) -> Scores:
        logits = known.logits(features)
        return 1 - 1 / np.exp(logits - logits.max(1, keepdims=True)).sum(1)

    return score


def energy(known: Known) -> Score:
    """Minus the logarithm of the sum of the exponents of the logits. Source: Liu et al., arXiv 2010.03759."""
    return lambda features: -log_sum_exp(known.logits(features))


def log_sum_exp(logits: Features) -> Scores:
    largest = logits.max(1, keepdims=True)
    return np.log(np.exp(logits - largest).sum(1)) + largest[:, 0]


def mahalanobis(known: Known) -> Score:
    """Squared distance to the nearest class mean under one covariance. Source: Lee et al., arXiv 1807.03888."""
    means = known.means
    whiten = whitening(known.features - means[known.labels])
    return lambda features: squared_distances(features @ whiten, means @ whiten).min(1)


def relative_mahalanobis(known: Known) -> Score:
    """Mahalanobis distance less that to the mean of all images. Source: Ren et al., arXiv 2106.09022."""
    own, middle = mahalanobis(known), known.features.mean(0).astype(float)
    whiten = whitening(known.features - middle)
    return lambda features: own(features) - np.square((features - middle) @ whiten).sum(1)


def normalised_mahalanobis(known: Known) -> Score:
    """Mahalanobis distance of features of length 1. Source: Mueller and Hein, arXiv 2505.18032."""
    own = mahalanobis(replace(known, features=normalised(known.features)))
    return lambda features: own(normalised(features))


def nearest_neighbours(known: Known) -> Score:
    """Distance to the tenth nearest of 780 images, features of length 1. Source: Sun et al., arXiv 2204.06507."""
    chosen = np.random.default_rng(0).permutation(len(known.features))[:SAMPLE]
    sample = normalised(known.features[chosen]).astype(float)
    return lambda features: np.sort(squared_distances(normalised(features), sample), 1)[:, NEIGHBOURS - 1]


def virtual_logit(known: Known) -> Score:
    """ViM: the length outside the principal subspace, less the energy. Source: Wang et al., arXiv 2203.10807."""
    origin = -np.linalg.pinv(known.weight) @ known.bias
    moved = (known.features - origin).astype(float)
    kept = 1000 if moved.shape[1] >= 2048 else 512 if moved.shape[1] >= 768 else moved.shape[1] // 2
    _, directions = np.linalg.eigh(moved.T @ moved)
    outside = directions[:, :-kept]
    factor = known.logits(known.features).max(1).mean() / np.linalg.norm(moved @ outside, axis=1).mean()

    def score(features: Features) -> Scores:
        lengths = np.linalg.norm((features - origin) @ outside, axis=1)
        return factor * lengths - log_sum_exp(known.logits(features))

    return score


def distance_and_energy(known: Known) -> Score:
    """What `otx train` learns: `otx.model.unknown`. The deviations are those of the images in `known.val`."""
    own = summarise(known.features, known.labels, len(known.bias)).judged_by(known.val, known.logits(known.val))
    return lambda features: own.score(features, known.logits(features))


def normalised(features: Features) -> Features:
    """Features of length 1."""
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)


def whitening(centred: NDArray[np.floating]) -> NDArray[np.float64]:
    """The matrix (D, D) that gives the rows (N, D) unit covariance; a tenth of it is the mean variance (shrinkage)."""
    covariance = centred.T.astype(float) @ centred / len(centred)
    width = len(covariance)
    shrunk = (1 - SHRINKAGE) * covariance + SHRINKAGE * np.trace(covariance) / width * np.eye(width)
    values, directions = np.linalg.eigh(shrunk)
    return np.asarray(directions / np.sqrt(values))


def squared_distances(rows: NDArray[np.floating], points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Squared distances (N, K) of rows (N, D) to points (K, D)."""
    lengths = np.square(rows).sum(1)[:, None] + np.square(points).sum(1)
    return np.maximum(lengths - 2 * rows @ points.T, 0)


SCORES: dict[str, Callable[[Known], Score]] = {
    "largest probability": largest_probability,
    "energy": energy,
    "Mahalanobis": mahalanobis,
    "relative Mahalanobis": relative_mahalanobis,
    "normalised Mahalanobis": normalised_mahalanobis,
    "nearest neighbours": nearest_neighbours,
    "ViM": virtual_logit,
    "distance and energy": distance_and_energy,
}
