"""Which images to label next: those whose labels teach a classifier most. Pure: arrays in, numbers out."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from otx.limits import limited_blas
from otx.model.regression import Regression, fit_regression

UNLABELLED = -1
# labels a class, from which on a classifier says what is uncertain
FEW = 2
# of 0.01 to 0.2, which are equally accurate on flowers and trash, the one whose probabilities mean what they say
PENALTY = 0.05
DIMENSIONS = 64
NEIGHBOURS = 20
# images that are compared at a time, of larger sets a random part
MOST = 10_000
MOST_CLUSTERS = 150

Features = NDArray[np.float32]
Labels = NDArray[np.int64]


def next_to_label(features: Features, labels: Labels, count: int, *, seed: int = 0) -> list[int]:
    """The images to label next, the most instructive first: unlike each other, typical, and uncertain.

    The images are put into as many clusters as there will be labels. From the clusters with the most uncertainty in
    all, divided by the square of one and the labels that they have, comes the image that is the most typical and the
    most uncertain. The uncertainty is one minus the margin of a logistic regression on the labelled images; with fewer
    than two labels a class all images are equally uncertain, and this is TypiClust. Of more than 10,000 unlabelled
    images a random part is looked at.

    Args:
        features: (N, D), the input of a network's classifier.
        labels: (N,), the index of each image's class; -1 where it is not known.
        count: how many images at most.
        seed: the same seed chooses the same images.

    Returns:
        Different indices of unlabelled images; fewer than `count` if there are no more.

    Raises:
        ValueError: `features` and `labels` differ in length.

    Source: Hacohen et al., Active Learning on a Budget: Opposite Strategies Suit High and Low Budgets, ICML 2022,
    arXiv 2202.02794 (TypiClust); Scheffer et al., Active Hidden Markov Models for Information Extraction, IDA 2001 (the
    margin). Their product was chosen by `benchmarks/active.py`.
    """
    if len(features) != len(labels):
        raise ValueError(f"{len(features)} rows of features and {len(labels)} labels")
    known, unknown = np.flatnonzero(labels != UNLABELLED), np.flatnonzero(labels == UNLABELLED)
    if len(unknown) > MOST:
        unknown = np.sort(np.random.default_rng(seed).choice(unknown, MOST, replace=False))
    count = min(count, len(unknown))
    if count <= 0:
        return []
    rows = scaled(features[np.concatenate([known, unknown])])
    with limited_blas():
        uncertainty = uncertainty_of(rows[len(known) :], rows[: len(known)], labels[known])
        places = principal(rows, seed)
        cluster = clusters_of(places, min(MOST_CLUSTERS, len(known) + count, len(rows)), seed=seed)
        chosen = typical(places[len(known) :], uncertainty, cluster[len(known) :], cluster[: len(known)])
    return [int(unknown[place]) for place in chosen[:count]]


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


def typical(places: Features, uncertainty: NDArray[np.float32], cluster: Labels, known_clusters: Labels) -> list[int]:
    """The order of rows, those first that are typical of a large, uncertain cluster without labels.

    Args:
        places: (N, d), few dimensions; `uncertainty` and `cluster` (N,) are theirs.
        known_clusters: the clusters of the labelled rows.
    """
    num_clusters = 1 + max(int(cluster.max()), int(known_clusters.max(initial=0)))
    covered = np.bincount(known_clusters, minlength=num_clusters)
    weight = np.bincount(cluster, weights=uncertainty, minlength=num_clusters) / (1 + covered) ** 2
    ranked = []
    for each in np.argsort(-weight, kind="stable"):
        members = np.flatnonzero(cluster == each)
        if len(members):
            ranked.append(members[np.argsort(-uncertainty[members] * _typicality(places[members]), kind="stable")])
    turns = max(map(len, ranked))
    return [int(order[turn]) for turn in range(turns) for order in ranked if turn < len(order)]


def _typicality(rows: Features) -> Features:
    """One over the mean distance of each row (n, d) to its nearest neighbours."""
    squares = (rows * rows).sum(axis=1)
    distances = np.sqrt(np.maximum(squares[:, None] + squares[None] - 2 * rows @ rows.T, 0))
    near = min(NEIGHBOURS + 1, len(rows))
    return np.asarray(1 / np.maximum(np.sort(distances, axis=1)[:, :near].mean(axis=1), 1e-6), np.float32)


def fit(rows: Features, labels: Labels, num_classes: int) -> Regression:
    """A multinomial logistic regression on scaled rows (n, D), in a second for some hundred rows."""
    return fit_regression(rows, labels, num_classes, penalty=PENALTY)


def scaled(features: Features) -> Features:
    """Rows (N, D) of length 1, with single strong features dampened by a square root (Perronnin et al., ECCV 2010)."""
    rows = np.sign(features) * np.sqrt(np.abs(features))
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9), np.float32)


def principal(rows: Features, seed: int) -> Features:
    """The rows (N, D) in their 64 principal directions at most."""
    from sklearn.decomposition import PCA

    most = min(DIMENSIONS, *rows.shape)
    if most == rows.shape[1] or len(rows) < 3:
        return rows
    return np.asarray(PCA(most, svd_solver="randomized", random_state=seed).fit_transform(rows), np.float32)


def clusters_of(rows: Features, count: int, *, seed: int) -> NDArray[np.int64]:
    """The number (N,) of the cluster of each row (N, D), by k-means with at most `count` clusters."""
    from sklearn.cluster import KMeans, MiniBatchKMeans

    distinct = min(count, len(np.unique(rows, axis=0)))
    if len(rows) > MOST or distinct > MOST_CLUSTERS // 2:
        found = MiniBatchKMeans(distinct, random_state=seed, n_init=1, batch_size=4096)
    else:
        found = KMeans(distinct, random_state=seed, n_init=1)
    return np.asarray(found.fit_predict(rows), np.int64)
