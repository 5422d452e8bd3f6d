"""Which epoch is the best: by validation accuracy, or by validation loss."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from otx.model.calibration import calibrate
from otx.results import EpochResult
from otx.training.calibrated_loss import CalibratedLoss, calibrated_loss
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


def logits_of(seed: int, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (300, 4), which are right more often than not, and labels."""
    noise = torch.Generator().manual_seed(seed)
    labels = torch.randint(4, (300,), generator=noise)
    return scale * (functional.one_hot(labels, 4) + torch.randn(300, 4, generator=noise)), labels


def test_the_calibrated_loss_does_not_depend_on_how_sure_the_network_is() -> None:
    (unsure, labels), (sure, _) = logits_of(0, 1.0), logits_of(0, 6.0)
    assert functional.cross_entropy(sure, labels) > 2 * functional.cross_entropy(unsure, labels)
    found = [calibrated_loss(each.numpy(), labels.numpy()) for each in (unsure, sure)]
    assert found[0] == pytest.approx(found[1], rel=2e-3)
    temperature = calibrate(sure.numpy(), labels.numpy()).temperature
    assert found[1] == pytest.approx(float(functional.cross_entropy(sure / temperature, labels)), rel=5e-3)


def test_batches_of_it_add_up() -> None:
    logits, labels = logits_of(1, 3.0)
    metric = CalibratedLoss()
    for part in np.array_split(np.arange(300), 7):
        metric.update(logits[part], labels[part])
    assert float(metric.compute()) == pytest.approx(calibrated_loss(logits.numpy(), labels.numpy()))


def test_it_chooses_where_there_is_one() -> None:
    recorder = EpochRecorder(by_loss=True, monitors_loss=True)
    for each, calibrated in zip(EPOCHS, (0.5, 0.4, 0.6, 0.3), strict=True):
        recorder.add(dataclasses.replace(each, val_loss_calibrated=calibrated))
    assert recorder.best is not None and recorder.best.epoch == 3
    assert recorder.score(recorder.best) == pytest.approx(math.exp(-0.3))
