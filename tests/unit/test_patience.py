"""Patience of early stopping and of the learning rate: as many images, however short the epochs are."""

from __future__ import annotations

from fractions import Fraction

import torch
from hypothesis import example, given
from hypothesis import strategies as st

from otx.data.sampler import BalancedSampler, epochs_per_pass
from otx.recipe import EarlyStoppingSettings, SchedulerSettings
from otx.training.state import Schedule
from otx.training.stopping import EarlyStopping

class_counts = st.lists(st.integers(1, 400), min_size=2, max_size=6)


def labels_of(counts: list[int]) -> list[int]:
    return [label for label, count in enumerate(counts) for _ in range(count)]


def whole_epoch(counts: list[int]) -> int:
    """The images of a balanced epoch that is not shortened: all of them, but for a remainder."""
    return sum(counts) // len(counts) * len(counts)


def schedule(per_pass: Fraction, patience: int) -> Schedule:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    return Schedule(optimizer, SchedulerSettings(patience=patience), per_pass)


@given(class_counts, st.integers(1, 5), st.booleans())
@example([300, 300, 300, 300, 4], 3, True)
def test_a_training_sees_the_images_of_its_patience_before_it_stops(
    counts: list[int], patience: int, efficient: bool
) -> None:
    labels = labels_of(counts)
    stopping = EarlyStopping(EarlyStoppingSettings(patience=patience), epochs_per_pass(labels, efficient=efficient))
    stopping.update(0, 0.9)
    epochs = 0
    while not stopping.is_over:
        epochs += 1
        stopping.update(epochs, 0.9)
    drawn = len(BalancedSampler(labels, seed=0, efficient=efficient))
    assert (epochs - 1) * drawn < patience * whole_epoch(counts) <= epochs * drawn


@given(class_counts, st.integers(0, 3), st.booleans())
def test_the_learning_rate_falls_after_the_images_of_its_patience(
    counts: list[int], patience: int, efficient: bool
) -> None:
    labels = labels_of(counts)
    rate = schedule(epochs_per_pass(labels, efficient=efficient), patience)
    rate.update(0.9)
    epochs = 0
    while rate.lr == 1.0:
        epochs += 1
        rate.update(0.9)
    drawn = len(BalancedSampler(labels, seed=0, efficient=efficient))
    assert (epochs - 1) * drawn < (patience + 1) * whole_epoch(counts) <= epochs * drawn


def test_epochs_of_the_warm_up_are_longer_in_number_where_they_are_shorter() -> None:
    stopping = EarlyStopping(EarlyStoppingSettings(patience=1, warmup_epochs=2), Fraction(3))
    for epoch in range(6):
        stopping.update(epoch, 0.5)
        assert (stopping.waited, float(stopping.best)) == (0, -torch.inf)
    stopping.update(6, 0.4)
    assert float(stopping.best) == torch.tensor(0.4)


def test_whole_epochs_are_counted_as_they_are() -> None:
    assert epochs_per_pass(labels_of([300, 310]), efficient=True) == 1
    assert epochs_per_pass(labels_of([1, 400]), efficient=False) == 1
    assert EarlyStopping(EarlyStoppingSettings(patience=4)).epochs == 4
    assert schedule(Fraction(1), 1).plateau.patience == 1


def test_the_checkpoint_of_an_earlier_version_takes_the_patience_of_the_images() -> None:
    older, resumed = schedule(Fraction(1), 1), schedule(Fraction(7), 1)
    older.update(0.5)
    resumed.load_state_dicts(older.state_dicts())
    assert (resumed.plateau.patience, resumed.plateau.best) == (13, 0.5)
