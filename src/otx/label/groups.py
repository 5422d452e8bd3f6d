"""Groups of photos that look alike, to be named at once. Pure: arrays in, numbers out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from otx.active import scaled
from otx.limits import limited_blas

HAND = 24
PER_CLUSTER = 15
MOST_CLUSTERS = 200
# principal directions and centres are those of so many photos
MOST, DIMENSIONS = 10_000, 64
SMALLEST, SMALL = 3, 6
SURE = 0.7
CHUNK = 4096

Features = NDArray[np.float32]
Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Group:
    """Photos by number, the most alike (or the surest) first. `label` is the index of the suggested class, or -1."""

    numbers: tuple[int, ...]
    label: int = -1


@dataclass(frozen=True)
class Clusters:
    """The cluster of each photo (N,), -1 where there are no features, and its distance to the cluster's centre (N,)."""

    number: Labels
    distance: NDArray[np.float32]


def cluster(features: NDArray[np.float16], ready: NDArray[np.bool_], *, seed: int = 0) -> Clusters:
    """k-means of the photos that are `ready`, about 15 a cluster but at most 200 clusters.

    Principal directions and centres are those of 10,000 photos at most; rows are worked on in parts, to save memory.
    """
    from sklearn.cluster import MiniBatchKMeans
    from sklearn.decomposition import PCA

    number, distance = np.full(len(ready), -1), np.zeros(len(ready), np.float32)
    places = np.flatnonzero(ready)
    some = places if len(places) <= MOST else np.random.default_rng(seed).choice(places, MOST, replace=False)
    if len(some) < 2:
        number[places] = 0
        return Clusters(number, distance)
    with limited_blas():
        rows = scaled(features[some].astype(np.float32))
        few = PCA(min(DIMENSIONS, *rows.shape), svd_solver="randomized", random_state=seed).fit(rows)
        count = int(np.clip(len(places) // PER_CLUSTER, 2, MOST_CLUSTERS))
        # initialised several times: a bad start joins what is unlike
        means = MiniBatchKMeans(min(count, len(some)), random_state=seed, n_init=3, batch_size=2048)
        means.fit(few.transform(rows))
        for start in range(0, len(places), CHUNK):
            part = places[start : start + CHUNK]
            far = means.transform(few.transform(scaled(features[part].astype(np.float32))))
            number[part], distance[part] = far.argmin(axis=1), far.min(axis=1)
    return Clusters(number, distance)


def suggested_groups(label: Labels, confidence: NDArray[np.float32], left: NDArray[np.bool_]) -> list[Group]:
    """Hands of 24 photos with the same suggested class, the surest hand first.

    Args:
        label, confidence: (N,) the suggested class, -1 without one, and its probability.
        left: (N,) the photos that have no label yet.
    """
    groups = []
    for each in np.unique(label[left & (label >= 0)]):
        places = np.flatnonzero(left & (label == each) & (confidence >= SURE))
        order = places[np.argsort(-confidence[places], kind="stable")]
        hands = [order[start : start + HAND] for start in range(0, len(order), HAND)]
        groups += [(float(confidence[hand].mean()), int(each), hand) for hand in hands if len(hand)]
    groups.sort(key=lambda group: (-group[0], group[1]))
    return [Group(tuple(map(int, hand)), each) for _, each, hand in groups]


def alike_groups(clusters: Clusters, left: NDArray[np.bool_]) -> list[Group]:
    """Hands of 24 photos of a cluster without labels, the nearest to its centre first; tight and large hands first."""
    found = []
    for each in np.unique(clusters.number[left & (clusters.number >= 0)]):
        places = np.flatnonzero(left & (clusters.number == each))
        if len(places) >= SMALLEST:
            order = places[np.argsort(clusters.distance[places], kind="stable")]
            hand = order[:HAND]
            # a few copies are tighter than all else, but naming them does not get far
            found.append((float(clusters.distance[hand].mean()) * (1 + SMALL / len(hand)), hand))
    found.sort(key=lambda group: (group[0], int(group[1][0])))
    return [Group(tuple(map(int, hand))) for _, hand in found]
