"""Which epoch is the best: by validation accuracy, or by validation loss."""

from __future__ import annotations

import math

import pytest

from otx.results import EpochResult
from otx.training.recorder import EpochRecorder


def result(epoch: int, accuracy: float, loss: float) -> EpochResult:
    return EpochResult(epoch, 0.5, loss, accuracy, 0.01, 10.0, 1.0, is_best=False)


EPOCHS = (result(0, 0.8, 0.9), result(1, 0.9, 0.7), result(2, 0.85, 0.6), result(3, 0.9, 0.65))


@pytest.mark.parametrize(("by_loss", "best"), [(False, 3), (True, 2)])
def test_the_best_epoch_has_the_highest_accuracy_or_the_lowest_loss(by_loss: bool, best: int) -> None:
    recorder = EpochRecorder(by_loss=by_loss)
    added = [recorder.add(each) for each in EPOCHS]
    assert recorder.best is not None and recorder.best.epoch == best
    assert max(each.epoch for each in added if each.is_best) == best


def test_the_score_by_loss_is_the_geometric_mean_of_the_probabilities() -> None:
    recorder = EpochRecorder(monitors_loss=True)
    loss = -(math.log(0.9) + math.log(0.4)) / 2
    assert recorder.score(result(0, 0.5, loss)) == pytest.approx((0.9 * 0.4) ** 0.5)


@pytest.mark.parametrize("by_loss", [False, True])
def test_an_epoch_without_a_finite_loss_is_never_the_best(by_loss: bool) -> None:
    recorder = EpochRecorder(by_loss=by_loss)
    for each in (result(0, 0.5, 1.0), result(1, 0.9, math.nan), result(2, 0.9, math.inf)):
        recorder.add(each)
    assert recorder.best is not None and recorder.best.epoch == 0


def test_a_run_goes_on_with_the_figure_that_it_began_with() -> None:
    first, old = EpochRecorder(by_loss=True), EpochRecorder(by_loss=True)
    resumed = EpochRecorder()
    resumed.load_state_dict(first.state_dict())
    old.load_state_dict({"epochs": []})
    assert (resumed.by_loss, old.by_loss) == (True, False)
