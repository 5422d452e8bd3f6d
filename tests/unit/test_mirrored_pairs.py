"""Classes that are mirror images of each other: which pairs are found, and which images are flipped for it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from otx.training.mirrored import MirroredPair, hold_out, mirrored_pairs


def answers(*rows: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Labels and predictions with these counts: a row for each class, a column for each prediction."""
    labels = [label for label, row in enumerate(rows) for _ in range(sum(row))]
    predicted = [other for row in rows for other, count in enumerate(row) for _ in range(count)]
    return np.array(labels), np.array(predicted)


def test_a_pair_that_changes_places_is_found_beside_others() -> None:
    labels, plain = answers([19, 1, 0], [0, 20, 0], [2, 0, 18])
    _, flipped = answers([1, 1, 18], [0, 20, 0], [17, 0, 3])
    assert mirrored_pairs(labels, plain, flipped) == [MirroredPair((0, 2), (18, 17), (20, 20))]


@pytest.mark.parametrize(
    ("plain", "flipped"),
    [
        pytest.param([[19, 1], [2, 18]], [[18, 2], [2, 18]], id="flipping changes nothing"),
        pytest.param([[20, 0], [0, 20]], [[1, 19], [0, 20]], id="only one is taken for the other"),
        pytest.param([[8, 12], [1, 19]], [[1, 19], [19, 1]], id="one is not recognised as it is"),
        pytest.param([[12, 8], [8, 12]], [[8, 12], [11, 9]], id="as a coin would have it"),
        pytest.param([[4, 0], [0, 4]], [[0, 4], [4, 0]], id="too few"),
    ],
)
def test_other_pairs_are_not(plain: list[list[int]], flipped: list[list[int]]) -> None:
    labels, answered = answers(*plain)
    assert mirrored_pairs(labels, answered, answers(*flipped)[1]) == []


def test_no_images_are_no_pairs() -> None:
    none = np.array([], np.int64)
    assert mirrored_pairs(none, none, none) == []


@given(st.lists(st.integers(1, 400), min_size=2, max_size=60), st.integers(0, 3))
def test_few_images_of_each_class_are_held_out(counts: list[int], seed: int) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    held = hold_out(labels, seed)
    assert len(set(held)) == len(held) <= min(500, max(80, len(labels) // 20))
    assert all(np.bincount(labels[held], minlength=len(counts)) <= np.array(counts) // 3)
    assert held == hold_out(labels, seed)
