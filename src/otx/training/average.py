"""The weights that are measured and kept: averaged over steps, and blended with those of the start.

A fitted classifier on pretrained features is good already, and fine tuning begins from it. An average that begins there
and forgets it over the epochs keeps some of what it knows, and varies less from epoch to epoch.

Source: Polyak and Juditsky, Acceleration of Stochastic Approximation by Averaging, SIAM J. Control Optim. 30(4), 1992;
Wortsman et al., Robust Fine-Tuning of Zero-Shot Models, CVPR 2022, arXiv 2109.01903.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from timm.utils.model_ema import ModelEmaV3
from torch import nn

Weights = dict[str, torch.Tensor]
WHOLE = 1.0
DEFAULT_EPOCHS = 1.0


class Average:
    """A moving average of the weights of a network over the steps of its training.

    Args:
        network: on the device of the training.
        epochs: how many epochs the average looks back: weights of that many epochs ago count 1/e of those of now; 0: no
            average; None: DEFAULT_EPOCHS if the classifier was fitted before, else 0.
        shares: shares of the average to measure, the rest being the weights of the start; 1 is the average alone.
    """

    def __init__(self, network: nn.Module, epochs: float | None, shares: tuple[float, ...] = (WHOLE,)) -> None:
        self.network, self.epochs, self.shares = network, epochs, shares
        self.moving: ModelEmaV3 | None = None
        self.start: Weights = {}
        self._default = DEFAULT_EPOCHS

    def begin(self, steps: int, *, is_fitted: bool) -> None:
        """Begin with the weights that the network has now, unless a checkpoint with an average was loaded.

        Args:
            steps: optimizer steps in an epoch.
            is_fitted: the classifier was fitted before, so the start is worth to be kept.
        """
        default = self._default if is_fitted else 0.0
        epochs = default if self.epochs is None else self.epochs
        if epochs == 0:
            self.moving = None
            return
        if self.moving is None:
            self.moving, self.start = ModelEmaV3(self.network), copied(self.network.state_dict())
        self.moving.decay = max(0.0, 1 - 1 / (epochs * steps))

    def update(self) -> None:
        """Add the weights after a step."""
        if self.moving is not None:
            self.moving.update(self.network)

    def weights(self, share: float = WHOLE) -> Weights:
        """The weights to measure and keep: `share` of the average, the rest of the start; or those of the last step."""
        if self.moving is None:
            return self.network.state_dict()
        average: Weights = self.moving.module.state_dict()
        return average if share == WHOLE else blended(self.start, average, share)

    @contextlib.contextmanager
    def shown(self, share: float = WHOLE) -> Iterator[None]:
        """Within the block the network has these weights; after it its own again."""
        if self.moving is None:
            yield
            return
        own = copied(self.network.state_dict())
        self.network.load_state_dict(self.weights(share))
        try:
            yield
        finally:
            self.network.load_state_dict(own)

    def state_dict(self) -> dict[str, Any]:
        if self.moving is None:
            return {}
        return {"average": {"moving": self.moving.module.state_dict(), "start": self.start}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint; a run that began without an average goes on without, unless one is asked for."""
        if "average" not in state:
            self._default = 0.0
            return
        self.moving = ModelEmaV3(self.network)
        self.moving.module.load_state_dict(state["average"]["moving"])
        own = self.network.state_dict()
        self.start = {name: value.to(own[name].device) for name, value in state["average"]["start"].items()}


def copied(weights: Mapping[str, torch.Tensor]) -> Weights:
    """A copy that later steps do not change."""
    return {name: value.detach().clone() for name, value in weights.items()}


def blended(start: Weights, end: Weights, share: float) -> Weights:
    """`share` of the weights at the end and the rest of those at the start; what is no float is that of the end."""
    return {
        name: torch.lerp(start[name], value, share) if value.is_floating_point() else value
        for name, value in end.items()
    }
