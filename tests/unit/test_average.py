"""The average of the weights over steps: its values, when it is on, and what a checkpoint keeps of it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from otx.training.average import Average, blended


def made(value: float) -> nn.Linear:
    network = nn.Linear(1, 1, bias=False)
    nn.init.constant_(network.weight, value)
    return network


def begun(epochs: float | None = 2.0, *, is_fitted: bool = True) -> tuple[nn.Linear, Average]:
    network = made(0.0)
    average = Average(network, epochs)
    average.begin(5, is_fitted=is_fitted)
    return network, average


def test_it_begins_with_the_start_and_forgets_it_over_the_epochs() -> None:
    network, average = begun()
    nn.init.constant_(network.weight, 1.0)
    for _ in range(2 * 5):
        average.update()
    assert average.weights()["weight"].item() == pytest.approx(1 - 0.9**10)


def test_less_than_a_step_is_the_last_step() -> None:
    network, average = begun(0.1)
    nn.init.constant_(network.weight, 1.0)
    average.update()
    assert average.weights()["weight"].item() == 1


@pytest.mark.parametrize(
    ("epochs", "is_fitted", "is_on"), [(None, True, True), (None, False, False), (0, True, False), (2, False, True)]
)
def test_by_default_it_follows_a_fitted_classifier(epochs: float | None, is_fitted: bool, is_on: bool) -> None:
    network, average = begun(epochs, is_fitted=is_fitted)
    nn.init.constant_(network.weight, 1.0)
    assert (average.weights()["weight"].item() == 0) == is_on


def test_the_network_has_it_while_it_is_measured_and_its_own_weights_afterwards() -> None:
    network, average = begun()
    nn.init.constant_(network.weight, 1.0)
    with average.shown():
        assert network.weight.item() == 0
    assert network.weight.item() == 1


def test_a_checkpoint_brings_it_back() -> None:
    network, average = begun()
    nn.init.constant_(network.weight, 1.0)
    average.update()
    other = Average(made(7.0), 2.0)
    other.load_state_dict(average.state_dict())
    other.begin(5, is_fitted=True)
    nn.init.constant_(other.network.weight, 1.0)
    for each in (average, other):
        each.update()
    assert other.weights()["weight"].item() == average.weights()["weight"].item() == pytest.approx(1 - 0.9**2)


@pytest.mark.parametrize(("epochs", "is_on"), [(None, False), (2.0, True)])
def test_a_run_that_began_without_goes_on_without_unless_asked(epochs: float | None, is_on: bool) -> None:
    average = Average(made(0.0), epochs)
    average.load_state_dict({"epoch": 3})
    average.begin(5, is_fitted=True)
    assert (average.state_dict() != {}) == is_on


def test_a_blend_is_a_line_from_the_start_to_the_end() -> None:
    start, end = ({"weight": torch.tensor(value), "count": torch.tensor(int(value))} for value in (2.0, 4.0))
    assert blended(start, end, 0.25) == {"weight": torch.tensor(2.5), "count": torch.tensor(4)}
