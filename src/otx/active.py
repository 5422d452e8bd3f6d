"""Which images to label next: those whose labels teach a classifier most. Pure: arrays in, numbers out."""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray

from otx.limits import limited_blas
from otx.model.regression import UNSEEN, Regression

UNLABELLED = -1
# labels a class, below which typical images teach more than uncertain ones
FEW = 4
# of 0.01 to 0.2, which are equally accurate on flowers and trash, the one whose probabilities mean what they say
PENALTY = 0.05
STEPS = 50
DIMENSIONS = 64
NEIGHBOURS = 20
# images that are compared at a time, of larger sets a random part
MOST = 10_000
MOST_CLUSTERS = 500

Features = NDArray[np.float32]
Labels = NDArray[np.int64]


def next_to_label(features: Features, labels: Labels, count: int, *, seed: int = 0) -> list[int]:
    """The images to label next, the most instructive first.

    With few labels, those are typical images of parts of the set that have no label yet (TypiClust). With at least
    four labels a class they are images that a logistic regression on the labelled ones is unsure of, and that are
    unlike each other: k-means++ on the gradients that their likeliest labels would give (BADGE). Of more than 10,000
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

    Source: Hacohen et al., Active Learning on a Budget: Opposite Strategies Suit High and Low Budgets, ICML 2022,
    arXiv 2202.02794; Ash et al., Deep Batch Active Learning by Diverse, Uncertain Gradient Lower Bounds, ICLR 2020,
    arXiv 1906.03671.
    """
    if len(features) != len(labels):
        raise ValueError(f"{len(features)} rows of features and {len(labels)} labels")
    rng = np.random.default_rng(seed)
    known, unknown = np.flatnonzero(labels != UNLABELLED), np.flatnonzero(labels == UNLABELLED)
    if len(unknown) > MOST:
        unknown = np.sort(rng.choice(unknown, MOST, replace=False))
    count = min(count, len(unknown))
    if count <= 0:
        return []
    rows = scaled(features[np.concatenate([known, unknown])])
    names, own = np.unique(labels[known], return_inverse=True)
    with limited_blas():
        if len(names) < 2 or len(known) < FEW * len(names):
            chosen = typical(rows, len(known), count, seed=seed)
        else:
            fitted = fit_few(rows[: len(known)], own.astype(np.int64), len(names))
            rest = rows[len(known) :]
            chosen = diverse(probabilities_of(fitted.logits(rest)), rest, count)
    return [int(unknown[place]) for place in chosen]


def fit_few(rows: Features, labels: Labels, num_classes: int) -> Regression:
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


def probabilities_of(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Softmax (N, C) of logits (N, C)."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True), np.float32)


def typical(rows: Features, num_known: int, count: int, *, seed: int) -> list[int]:
    """Indices of typical rows behind the first `num_known`, each in the middle of another cluster.

    As many clusters as there will be labels; those without a label come first, the largest ahead.
    """
    few = principal(rows, seed)
    cluster = clusters_of(few, min(MOST_CLUSTERS, num_known + count, len(rows)), seed=seed)
    covered = np.bincount(cluster[:num_known], minlength=int(cluster.max()) + 1)
    sizes = np.bincount(cluster[num_known:], minlength=len(covered))
    members = {int(each): np.flatnonzero(cluster[num_known:] == each) for each in np.flatnonzero(sizes)}
    ranked = {each: _by_typicality(few[num_known:][places]) for each, places in members.items()}
    order = sorted(members, key=lambda each: (covered[each], -sizes[each], each))
    chosen: list[int] = []
    for turn in range(max(sizes)):
        chosen += [int(members[each][ranked[each][turn]]) for each in order if turn < len(ranked[each])]
        if len(chosen) >= count:
            break
    return chosen[:count]


def _by_typicality(rows: Features) -> NDArray[np.intp]:
    """The order of rows (n, d), those nearest to their neighbours first."""
    squares = (rows * rows).sum(axis=1)
    distances = np.sqrt(np.maximum(squares[:, None] + squares[None] - 2 * rows @ rows.T, 0))
    near = min(NEIGHBOURS + 1, len(rows))
    return np.argsort(np.sort(distances, axis=1)[:, :near].mean(axis=1), kind="stable")


def diverse(probabilities: NDArray[np.float32], rows: Features, count: int) -> list[int]:
    """Indices of rows (N, D) that are uncertain and unlike each other: greedy k-means++ on gradients.

    The gradient of a linear classifier's loss for the likeliest label is the outer product of (p - likeliest) and the
    row. It is long where the classifier is unsure; the next image is the one farthest from all chosen.

    Args:
        probabilities: (N, C).
    """
    errors = probabilities.copy()
    errors[np.arange(len(errors)), errors.argmax(axis=1)] -= 1
    length = (errors * errors).sum(axis=1) * (rows * rows).sum(axis=1)
    nearest = length.copy()
    chosen: list[int] = []
    for _ in range(count):
        best = int(nearest.argmax())
        chosen.append(best)
        products = (errors @ errors[best]) * (rows @ rows[best])
        nearest = np.minimum(nearest, np.maximum(length + length[best] - 2 * products, 0))
        nearest[chosen] = -1
    return chosen


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
    if len(rows) > MOST or distinct > MOST_CLUSTERS // 5:
        found = MiniBatchKMeans(distinct, random_state=seed, n_init=1, batch_size=4096)
    else:
        found = KMeans(distinct, random_state=seed, n_init=1)
    return np.asarray(found.fit_predict(rows), np.int64)
