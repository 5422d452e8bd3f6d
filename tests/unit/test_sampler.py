"""The balanced sampler: equal counts, the efficient rule, shards, and determinism."""

from __future__ import annotations

import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otx.data.sampler import BalancedSampler, RandomSampler, balanced_epoch, images_per_class

class_counts = st.lists(st.integers(1, 40), min_size=2, max_size=6)


def labels_of(counts: list[int]) -> list[int]:
    return [label for label, count in enumerate(counts) for _ in range(count)]


@pytest.mark.parametrize(
    ("counts", "efficient", "expected"),
    [
        ([100, 100], False, 100),
        ([10, 190], False, 100),
        ([10, 190], True, math.ceil(math.log(0.001) / math.log(1 - 1 / 10))),
        ([10, 50], True, 30),
        ([1, 199], True, 1),
        ([2, 1998], True, 10),
        ([300, 310], True, 305),
    ],
)
def test_the_number_of_images_a_class_follows_the_rule(counts: list[int], efficient: bool, expected: int) -> None:
    assert images_per_class(counts, efficient=efficient) == expected


@given(class_counts, st.integers(0, 9), st.integers(0, 9), st.booleans())
def test_every_class_is_drawn_equally_often(counts: list[int], seed: int, epoch: int, efficient: bool) -> None:
    labels = labels_of(counts)
    sampler = BalancedSampler(labels, seed=seed, efficient=efficient)
    sampler.set_epoch(epoch)
    drawn = Counter(labels[index] for index in sampler)
    assert set(drawn.values()) == {images_per_class(counts, efficient=efficient)}
    assert len(drawn) == len(counts)


@given(class_counts, st.integers(1, 60))
def test_no_image_is_drawn_twice_more_often_than_another_of_its_class(counts: list[int], per_class: int) -> None:
    labels = labels_of(counts)
    drawn = Counter(balanced_epoch(labels, per_class=per_class, seed=0, epoch=0).tolist())
    for label in range(len(counts)):
        times = [drawn[index] for index, own in enumerate(labels) if own == label]
        assert max(times) - min(times) <= 1


@given(class_counts, st.integers(1, 4), st.booleans())
def test_the_parts_of_several_processes_do_not_overlap(counts: list[int], world: int, balanced: bool) -> None:
    labels = labels_of(counts)

    def part(rank: int, world_size: int) -> list[int]:
        if balanced:
            return list(BalancedSampler(labels, seed=1, efficient=False, rank=rank, world_size=world_size))
        return list(RandomSampler(len(labels), seed=1, rank=rank, world_size=world_size))

    parts = [part(rank, world) for rank in range(world)]
    whole = Counter(part(0, 1))
    assert len({len(each) for each in parts}) == 1
    together = Counter(index for each in parts for index in each)
    assert not together - whole
    assert (whole - together).total() < world


def test_an_epoch_is_repeated_exactly_and_the_next_one_is_another() -> None:
    labels = labels_of([20, 30])
    sampler = BalancedSampler(labels, seed=5)
    first = list(sampler)
    sampler.set_epoch(1)
    second = list(sampler)
    sampler.set_epoch(0)
    assert list(sampler) == first != second
    assert list(BalancedSampler(labels, seed=6)) != first
    assert len(sampler) == len(first) == 50


def test_the_random_sampler_gives_every_image_once() -> None:
    assert sorted(RandomSampler(17, seed=0)) == list(range(17))
