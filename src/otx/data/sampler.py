"""Samplers: which images an epoch draws, and in which order, as a function of seed and epoch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

SEEN = 0.999


def images_per_class(class_counts: Sequence[int], *, efficient: bool) -> int:
    """How many images a balanced epoch draws from each class.

    N/C for N images in C classes; in efficient mode at most ceil(log 0.001 / log(1 - 1/n)), so that each of the n
    images of the smallest class appears with probability 0.999.

    Args:
        class_counts: images of each class, at least one each.
    """
    even = max(1, sum(class_counts) // len(class_counts))
    smallest = min(class_counts)
    if not efficient:
        return even
    enough = 1 if smallest == 1 else math.ceil(math.log(1 - SEEN) / math.log(1 - 1 / smallest))
    return min(even, enough)


def epochs_per_pass(labels: Sequence[int], *, efficient: bool) -> Fraction:
    """How many balanced epochs draw as many images as one that is not shortened: at least 1, which is no shortening."""
    counts = _counts(labels)
    return Fraction(images_per_class(counts, efficient=False), images_per_class(counts, efficient=efficient))


def _counts(labels: Sequence[int]) -> list[int]:
    """The images of each class that has any."""
    counts: list[int] = np.unique(np.asarray(labels), return_counts=True)[1].tolist()
    return counts


def balanced_epoch(labels: Sequence[int], *, per_class: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """Indices of an epoch that draws `per_class` images of every class, shuffled.

    A class with fewer images repeats whole permutations, so its images are drawn equally often, give or take one. A
    random part is drawn of a class with more images.
    """
    rng = np.random.default_rng((seed, epoch))
    own = np.asarray(labels)
    drawn = []
    ends = np.cumsum(np.unique(own, return_counts=True)[1])
    # a class at a time would look at all labels for each
    for members in np.split(np.argsort(own, kind="stable"), ends[:-1]):
        rounds = math.ceil(per_class / len(members))
        drawn.append(np.concatenate([rng.permutation(members) for _ in range(rounds)])[:per_class])
    return rng.permutation(np.concatenate(drawn))


class EpochSampler(Sampler[int]):
    """Draws each epoch anew and splits it over the processes: parts of the same length, without overlap.

    Args:
        count: indices of an epoch over all processes; the remainder is left out if they do not divide evenly.
        rank: the number of this process, from 0 to `world_size` - 1.
    """

    def __init__(self, count: int, *, rank: int = 0, world_size: int = 1) -> None:
        self.length, self.rank, self.world_size = count // world_size, rank, world_size
        self.epoch = 0

    def draw(self, epoch: int) -> NDArray[np.int64]:
        """The indices of an epoch, the same in every process."""
        raise NotImplementedError

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[int]:
        yield from self.draw(self.epoch)[self.rank :: self.world_size][: self.length].tolist()


class BalancedSampler(EpochSampler):
    """Every class equally often."""

    def __init__(
        self, labels: Sequence[int], *, seed: int, efficient: bool = False, rank: int = 0, world_size: int = 1
    ) -> None:
        counts = _counts(labels)
        self.labels, self.seed = labels, seed
        self.per_class = images_per_class(counts, efficient=efficient)
        super().__init__(self.per_class * len(counts), rank=rank, world_size=world_size)

    def draw(self, epoch: int) -> NDArray[np.int64]:
        return balanced_epoch(self.labels, per_class=self.per_class, seed=self.seed, epoch=epoch)


class RandomSampler(EpochSampler):
    """Every image once, shuffled."""

    def __init__(self, count: int, *, seed: int, rank: int = 0, world_size: int = 1) -> None:
        self.count, self.seed = count, seed
        super().__init__(count, rank=rank, world_size=world_size)

    def draw(self, epoch: int) -> NDArray[np.int64]:
        return np.random.default_rng((self.seed, epoch)).permutation(self.count)
