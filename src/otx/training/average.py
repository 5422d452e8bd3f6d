"""The weights that are measured and kept: those of the last step, or their average over steps.

Source: Polyak and Juditsky, Acceleration of Stochastic Approximation by Averaging, SIAM J. Control Optim. 30(4), 1992.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from timm.utils.model_ema import ModelEmaV3
from torch import nn

Weights = dict[str, torch.Tensor]


class Average:
    """A moving average of the weights of a network over the steps of its training.

    Args:
        network: on the device of the training.
        epochs: how many epochs the average looks back: weights of that many epochs ago count 1/e of those of now; 0:
            there is no average.
    """

    def __init__(self, network: nn.Module, epochs: float) -> None:
        self.network, self.epochs = network, epochs
        self.moving: ModelEmaV3 | None = None

    def begin(self, steps: int) -> None:
        """Begin with the weights that the network has now, unless a checkpoint with an average was loaded.

        Args:
            steps: optimizer steps in an epoch.
        """
        if self.epochs == 0:
            self.moving = None
            return
        if self.moving is None:
            self.moving = ModelEmaV3(self.network)
        self.moving.decay = max(0.0, 1 - 1 / (self.epochs * steps))

    def update(self) -> None:
        """Add the weights after a step."""
        if self.moving is not None:
            self.moving.update(self.network)

    def weights(self) -> Weights:
        """The weights to measure and keep."""
        own: Weights = (self.network if self.moving is None else self.moving.module).state_dict()
        return own

    @contextlib.contextmanager
    def shown(self) -> Iterator[None]:
        """Within the block the network has the weights to measure; after it its own again."""
        if self.moving is None:
            yield
            return
        own = {name: value.clone() for name, value in self.network.state_dict().items()}
        self.network.load_state_dict(self.weights())
        try:
            yield
        finally:
            self.network.load_state_dict(own)

    def state_dict(self) -> dict[str, Any]:
        return {} if self.moving is None else {"average": self.moving.module.state_dict()}

    def load_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Go on from a checkpoint; one without an average leaves the network's weights to begin from."""
        if "average" in checkpoint:
            self.moving = ModelEmaV3(self.network)
            self.moving.module.load_state_dict(checkpoint["average"])
