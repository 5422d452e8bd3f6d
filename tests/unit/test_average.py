"""The average of the weights over steps: its values, when it is on, and what a checkpoint keeps of it."""

from __future__ import annotations

import pytest
from torch import nn

from otx.training.average import Average


def made(value: float) -> nn.Linear:
    network = nn.Linear(1, 1, bias=False)
    nn.init.constant_(network.weight, value)
    return network


def begun(epochs: float = 2.0) -> tuple[nn.Linear, Average]:
    network = made(0.0)
    average = Average(network, epochs)
    average.begin(5)
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


def test_without_it_the_weights_are_those_of_the_last_step() -> None:
    network, average = begun(0)
    nn.init.constant_(network.weight, 1.0)
    average.update()
    assert average.weights()["weight"].item() == 1
    assert average.state_dict() == {}


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
    other.begin(5)
    nn.init.constant_(other.network.weight, 1.0)
    for each in (average, other):
        each.update()
    assert other.weights()["weight"].item() == average.weights()["weight"].item() == pytest.approx(1 - 0.9**2)


def test_a_checkpoint_without_it_is_where_it_begins() -> None:
    average = Average(made(3.0), 2.0)
    average.load_state_dict({"epoch": 3})
    average.begin(5)
    assert average.weights()["weight"].item() == 3
