"""`otx.active.next_to_label`: what it asks for is unlabelled, different, typical at first and uncertain later."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from otx.active import UNLABELLED, next_to_label, scaled
from otx.model.regression import fit_regression


def clouds(sizes: tuple[int, ...], *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Points around far centres, as many of each as asked for, and the number of each one's centre."""
    rng = np.random.default_rng(seed)
    owner = np.repeat(np.arange(len(sizes)), sizes)
    centres = 10 * rng.normal(size=(len(sizes), 12))
    return (centres[owner] + rng.normal(size=(len(owner), 12))).astype(np.float32), owner


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 60), st.integers(0, 40), st.integers(0, 3))
def test_only_unlabelled_images_are_chosen_and_none_twice(known: int, count: int, seed: int) -> None:
    features, owner = clouds((20, 20, 20), seed=seed)
    labels = np.full(60, UNLABELLED)
    labels[:known] = owner[:known]
    chosen = next_to_label(features, labels, count, seed=seed)
    assert len(chosen) == len(set(chosen)) == min(count, 60 - known)
    assert all(labels[each] == UNLABELLED for each in chosen)


def test_the_first_images_are_of_all_parts_of_the_set_however_small() -> None:
    features, owner = clouds((100, 30, 12, 8))
    chosen = next_to_label(features, np.full(150, UNLABELLED), 8)
    assert {int(owner[each]) for each in chosen} == {0, 1, 2, 3}


def test_with_labels_the_images_between_two_classes_come_first() -> None:
    rng = np.random.default_rng(0)
    side = np.linspace(-1, 1, 201)
    features = np.stack([1 + side, 1 - side, np.ones(201)], axis=1).astype(np.float32)
    features += rng.normal(0, 0.01, features.shape).astype(np.float32)
    labels = np.full(201, UNLABELLED)
    labels[[*range(10), *range(191, 201)]] = [0] * 10 + [1] * 10
    assert abs(side[next_to_label(features, labels, 1)[0]]) < 0.2


def test_copies_of_an_image_are_not_asked_for_together() -> None:
    features, owner = clouds((30, 30))
    labels = np.full(60, UNLABELLED)
    labels[[0, 1, 2, 3, 30, 31, 32, 33]] = owner[[0, 1, 2, 3, 30, 31, 32, 33]]
    middle = features[:1] / 2 + features[30:31] / 2
    features[[10, 11, 12]] = middle
    chosen = next_to_label(features, labels, 5)
    assert len({10, 11, 12} & set(chosen)) == 1


def test_the_same_seed_asks_for_the_same_images() -> None:
    features, _ = clouds((50, 50))
    labels = np.full(100, UNLABELLED)
    assert next_to_label(features, labels, 10, seed=3) == next_to_label(features, labels, 10, seed=3)


def test_chosen_digits_teach_more_than_random_ones() -> None:
    digits = load_digits()
    features, truth = digits.data.astype(np.float32), digits.target.astype(np.int64)

    def accuracy(known: list[int]) -> float:
        fitted = fit_regression(scaled(features[known]), truth[known], 10, penalty=0.01)
        return float((fitted.logits(scaled(features)).argmax(axis=1) == truth).mean())

    labels = np.full(len(truth), UNLABELLED)
    while (labels != UNLABELLED).sum() < 60:
        chosen = next_to_label(features, labels, 10)
        labels[chosen] = truth[chosen]
    random = [accuracy(list(np.random.default_rng(seed).permutation(len(truth))[:60])) for seed in range(3)]
    assert accuracy(list(np.flatnonzero(labels != UNLABELLED))) > max(random)


def test_rows_that_do_not_match_are_refused() -> None:
    with pytest.raises(ValueError, match="3 rows of features and 2 labels"):
        next_to_label(np.zeros((3, 2), np.float32), np.zeros(2, np.int64), 1)
