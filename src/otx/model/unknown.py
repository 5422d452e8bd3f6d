"""How foreign an image is to a classifier, from what enters and what leaves it: fitted to images after a training.

Two things are added up, each in standard deviations of validation images:

- the squared Mahalanobis distance of the features, at length 1, to the nearest class mean, under one covariance of all
  classes. It is computed in the directions in which the training images vary most; what lies outside of them counts
  with one variance. It finds what looks unlike the training images.
- the energy of the logits, minus the logarithm of the sum of their exponents. It finds what looks like no class.

Higher is more foreign. `benchmarks/unknown.py` compares it with other scores.

Source: Lee et al., arXiv 1807.03888 (the distance); Mueller and Hein, arXiv 2505.18032 (features at length 1);
Moghaddam and Pentland, "Probabilistic Visual Learning for Object Representation", PAMI 1997 (few directions); Liu et
al., arXiv 2010.03759 (the energy).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Features = NDArray[np.float32]
Logits = NDArray[np.float32]
Scores = NDArray[np.float32]

# 2 MB of 32-bit numbers
MAX_NUMBERS = 500_000
MAX_DIRECTIONS = 256
MAX_SAMPLE = 500
# the share of the mean variance in each variance
SHRINKAGE = 0.1
# a standard deviation of the energy counts as many of the distance
ENERGY_WEIGHT = 2.0
ROUNDING = 0.01
TINY = 1e-12


@dataclass(frozen=True)
class KnownClasses:
    """The training images, summarised: what `unknown_score` compares an image with.

    Args:
        centre: the mean of the features at length 1 (D,).
        directions: orthonormal columns (D, R).
        scales: the standard deviation within a class along each direction (R,), times the root of D.
        means: the mean of each class along the directions, less the centre, divided by `scales` (C or 1, R).
        outside: the variance along any other direction, times D (1,).
        usual: mean and standard deviation of the distance and of the energy of validation images (2, 2).
    """

    centre: Features
    directions: Features
    scales: Features
    means: Features
    outside: Features
    usual: Features

    @classmethod
    def of(cls, tensors: Mapping[str, Features]) -> KnownClasses:
        """Put together what `tensors` gave.

        Raises:
            TypeError, ValueError: a tensor is missing or strange, or their shapes do not fit.
        """
        known = cls(**tensors)
        (width, kept), classes = known.directions.shape, len(known.means)
        shapes = {name: value.shape for name, value in tensors.items()}
        expected = {"centre": (width,), "scales": (kept,), "means": (classes, kept), "outside": (1,), "usual": (2, 2)}
        if shapes | expected != shapes:
            raise ValueError(f"the shapes {shapes} do not fit")
        return known

    def tensors(self) -> dict[str, Features]:
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def score(self, features: Features, logits: Logits) -> Scores:
        """The scores (N,) of features (N, D) and logits (N, C); those of known images spread around 0."""
        (middle, spread), (usual_energy, spread_of_energy) = self.usual
        distance = (self.distance(features) - middle) / spread
        return np.asarray(distance + ENERGY_WEIGHT * (energy(logits) - usual_energy) / spread_of_energy, np.float32)

    def distance(self, features: Features) -> Scores:
        """The squared distances (N,) of features (N, D), divided by D."""
        rows = at_length_1(features) - self.centre
        along = rows @ self.directions
        rest = np.maximum(np.square(rows).sum(1) - np.square(along).sum(1), 0) / self.outside
        whitened = along / self.scales
        return np.asarray(np.square(whitened).sum(1) - self._products(whitened).max(1) + rest, np.float32)

    def whitened(self, features: Features) -> Features:
        """Features (N, D) along the directions (N, R), divided by `scales`."""
        return np.asarray((at_length_1(features) - self.centre) @ self.directions / self.scales, np.float32)

    def nearest(self, whitened: Features) -> NDArray[np.int64]:
        """The number of the class whose mean is nearest (N,) to whitened features (N, R)."""
        return np.asarray(self._products(whitened).argmax(1))

    def _products(self, whitened: NDArray[np.floating]) -> Features:
        """What is taken from the squared length of a row to get its squared distance to each class mean (N, C)."""
        return np.asarray(2 * whitened @ self.means.T - np.square(self.means).sum(1), np.float32)

    def judged_by(self, features: Features, logits: Logits) -> KnownClasses:
        """A copy whose standard deviations are those of these validation images, (N, D) and (N, C)."""
        parts = (self.distance(features), energy(logits))
        usual = [(part.mean(), max(float(part.std()), TINY + 1e-3 * abs(float(part.mean())))) for part in parts]
        return replace(self, usual=np.asarray(usual, np.float32))


def energy(logits: Logits) -> Scores:
    """The energies (N,) of logits (N, C)."""
    largest = logits.max(1)
    return np.asarray(-largest - np.log(np.exp(logits - largest[:, None]).sum(1)), np.float32)


def at_length_1(features: Features) -> Features:
    return np.asarray(features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), TINY), np.float32)


def summarise(features: Features, labels: NDArray[np.int64], num_classes: int) -> KnownClasses:
    """Fit the distance to training images; `judged_by` adds what is usual.

    Args:
        features: the classifier's input (N, D).
        labels: (N,), every class at least once. Classes that have fewer than two images in the mean count as one.
        num_classes: C. With very many, or a very large D, fewer directions are kept: it is never above 2 MB.
    """
    if len(labels) < 2 * num_classes:
        labels, num_classes = np.zeros_like(labels), 1
    rows = at_length_1(features).astype(np.float64)
    centre = rows.mean(0)
    rows -= centre
    width = rows.shape[1]
    kept = max(1, min(MAX_DIRECTIONS, width, (MAX_NUMBERS - 2 * width) // (width + num_classes)))
    directions = np.linalg.eigh(rows.T @ rows)[1][:, -kept:]
    means = np.zeros((num_classes, width))
    np.add.at(means, labels, rows)
    means /= np.bincount(labels, minlength=num_classes)[:, None]
    rows -= means[labels]
    along = rows @ directions
    within, turned = np.linalg.eigh(along.T @ along / len(rows))
    directions = directions @ turned
    total = np.square(rows).sum() / len(rows)
    rest = max(0.0, total - within.sum()) / max(1, width - kept)
    floor = SHRINKAGE * total / width
    scales = np.sqrt(width * np.maximum((1 - SHRINKAGE) * within + floor, TINY))
    outside = width * max((1 - SHRINKAGE) * rest + floor, TINY)
    parts = (centre, directions, scales, means @ directions / scales, np.array([outside]), np.array([[0, 1], [0, 1]]))
    return KnownClasses(*(np.ascontiguousarray(each, np.float32) for each in parts))


def draw_sample(whitened: Features, seed: int) -> NDArray[np.float16]:
    """Of whitened features (N, R) at most MAX_SAMPLE at random, in their order: 256 KB for 256 directions."""
    drawn = np.sort(np.random.default_rng(seed).permutation(len(whitened))[:MAX_SAMPLE])
    return whitened[drawn].astype(np.float16)


def limit_of(scores: NDArray[np.floating], share: float) -> float:
    """The limit that keeps at least `share` of images like those with these scores (N,), in the mean over samples.

    Of too few images for that (fewer than 19 for a share of 0.95) it is the largest score, or the limit that is right
    for a normal distribution if that is higher. It lies ROUNDING standard deviations above, so that an image with just
    that score is kept in every runtime.

    Source: split conformal prediction, Lei et al., arXiv 1604.04173; Hill 1970, "Algorithm 396: Student's t-quantiles".
    """
    count, rounding = len(scores), ROUNDING * float(np.std(scores))
    kept = math.ceil((count + 1) * share)
    if kept <= count:
        return float(np.sort(scores)[kept - 1]) + rounding
    largest = float(np.max(scores))
    if share >= 1 or count < 2:
        return largest + rounding
    normal = NormalDist().inv_cdf(share)
    student = normal + (normal**3 + normal) / (4 * (count - 1))
    spread = float(np.std(scores, ddof=1)) * math.sqrt(1 + 1 / count)
    return max(largest, float(np.mean(scores)) + student * spread) + rounding
