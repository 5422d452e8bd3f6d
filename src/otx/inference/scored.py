"""A network that also says how foreign an image is to it, as one graph."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from otx.model.unknown import ENERGY_WEIGHT, TINY, KnownClasses
from otx.networks.head import classifier_input


class UnknownScore(nn.Module):
    """Computes what `KnownClasses.score` computes: scores (N,) of features (N, D) and logits (N, C)."""

    centre: torch.Tensor
    directions: torch.Tensor
    scales: torch.Tensor
    means: torch.Tensor
    outside: torch.Tensor
    usual: torch.Tensor

    def __init__(self, known: KnownClasses) -> None:
        super().__init__()
        for name, value in known.tensors().items():
            self.register_buffer(name, torch.from_numpy(value))

    def forward(self, features: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        (middle, spread), (usual_energy, spread_of_energy) = self.usual.tolist()
        energy = -logits.logsumexp(1)
        distance = (self._distance(features) - middle) / spread
        score: torch.Tensor = distance + ENERGY_WEIGHT * (energy - usual_energy) / spread_of_energy
        return score

    def _distance(self, features: torch.Tensor) -> torch.Tensor:
        lengths = features.square().sum(1, keepdim=True).sqrt()
        rows = features / lengths.clamp_min(TINY) - self.centre
        along = rows @ self.directions
        rest = (rows.square().sum(1) - along.square().sum(1)).clamp_min(0) / self.outside
        whitened = along / self.scales
        products = 2 * whitened @ self.means.T - self.means.square().sum(1)
        return whitened.square().sum(1) - products.amax(1) + rest


class Scored(nn.Module):
    """Returns what a network returns, and its unknown scores (N,) behind that."""

    def __init__(self, network: nn.Module, known: KnownClasses) -> None:
        super().__init__()
        self.network: Any = network
        self.unknown = UnknownScore(known)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        with classifier_input(getattr(self.network, "network", self.network)) as entered:
            answer = self.network(images)
        outputs = answer if isinstance(answer, tuple) else (answer,)
        # saliency maps run the classifier again
        return (*outputs, self.unknown(entered[0], outputs[0]))
