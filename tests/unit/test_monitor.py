"""Which epoch is the best: by validation accuracy, or by validation loss."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch

from otx.model.regression import Regression
from otx.results import EpochResult
from otx.training.recorder import EpochRecorder


def result(epoch: int, accuracy: float, loss: float) -> EpochResult:
    return EpochResult(epoch, 0.5, loss, accuracy, 0.01, 10.0, 1.0, is_best=False)


EPOCHS = (result(0, 0.8, 0.9), result(1, 0.9, 0.7), result(2, 0.85, 0.6), result(3, 0.9, 0.65))


@pytest.mark.parametrize(("best_by", "best"), [("accuracy", 3), ("loss", 2)])
def test_the_best_epoch_has_the_highest_accuracy_or_the_lowest_loss(best_by: str, best: int) -> None:
    recorder = EpochRecorder(best_by=best_by)
    added = [recorder.add(each) for each in EPOCHS]
    assert recorder.best is not None and recorder.best.epoch == best
    assert max(each.epoch for each in added if each.is_best) == best


def test_the_score_by_loss_is_the_geometric_mean_of_the_probabilities() -> None:
    recorder = EpochRecorder(monitor="loss")
    loss = -(math.log(0.9) + math.log(0.4)) / 2
    assert recorder.score(result(0, 0.5, loss)) == pytest.approx((0.9 * 0.4) ** 0.5)


@pytest.mark.parametrize("best_by", ["accuracy", "loss", "probability"])
def test_an_epoch_without_a_finite_loss_is_never_the_best(best_by: str) -> None:
    recorder = EpochRecorder(best_by=best_by)
    for each in (result(0, 0.5, 1.0), result(1, 0.9, math.nan), result(2, 0.9, math.inf)):
        recorder.add(each)
    assert recorder.best is not None and recorder.best.epoch == 0


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (EpochRecorder(best_by="probability", monitor="loss").state_dict(), ("probability", "loss")),
        ({"epochs": [], "by_loss": True, "monitors_loss": False}, ("loss", "accuracy")),
        ({"epochs": []}, ("accuracy", "accuracy")),
    ],
)
def test_a_run_goes_on_with_the_figure_that_it_began_with(state: dict[str, Any], expected: tuple[str, str]) -> None:
    resumed = EpochRecorder(best_by="probability")
    resumed.load_state_dict(state)
    assert (resumed.best_by, resumed.monitor) == expected


def test_the_probability_of_the_true_class_chooses_where_it_is_the_figure() -> None:
    recorder = EpochRecorder(best_by="probability", monitor="probability")
    for each, probability in zip(EPOCHS, (0.5, 0.4, 0.6, 0.6), strict=True):
        recorder.add(dataclasses.replace(each, val_probability=probability))
    assert recorder.best is not None and recorder.best.epoch == 3
    assert recorder.score(recorder.best) == 0.6


def test_it_is_measured_for_features_as_for_a_network() -> None:
    rng = np.random.default_rng(0)
    features, labels = rng.normal(size=(30, 5)).astype(np.float32), rng.integers(3, size=30)
    classifier = Regression(rng.normal(size=(3, 5)).astype(np.float32), np.zeros(3, np.float32))
    chances = torch.from_numpy(classifier.logits(features)).softmax(1).numpy()
    assert classifier.mean_probability(features, labels) == pytest.approx(chances[np.arange(30), labels].mean())
