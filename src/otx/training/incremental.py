"""Classes are added to a trained model: how the old ones are kept."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from otx.networks.build import head_names

# learning rates of network and classifier against the recipe's, where old answers are kept
BODY_FACTOR, HEAD_FACTOR = 0.1, 3.0


def carry_over(network: nn.Module, old: nn.Module) -> None:
    """Give a network the weights of another one of fewer classes; the rows of its head for new classes stay.

    Args:
        network: freshly built, so that the rows of new classes are small.
    """
    state, own, heads = old.state_dict(), network.state_dict(), head_names(network)
    with torch.no_grad():
        for name, value in state.items():
            if name in heads:
                own[name][: len(value)] = value
            else:
                own[name].copy_(value)


class Distillation:
    """An older network whose answers are kept while a grown one learns from images of some classes only.

    Args:
        teacher: gives the logits of the old classes, which are the first ones of the grown network.
        present: the classes that have images. Only they compete in the loss: an image says nothing about classes of
            which there is none, and would push them down until nothing is taken for them.
        weight: of the old answers against the new images.
    """

    def __init__(self, teacher: nn.Module, present: Sequence[int], weight: float) -> None:
        self.teacher = teacher.eval().requires_grad_(requires_grad=False)
        self.present, self.weight = tuple(sorted(present)), weight

    def among_present(self, logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits (N, P) of the P present classes, and the places of the labels (N,) among them."""
        present = torch.tensor(self.present, device=labels.device)
        return logits[:, present], torch.searchsorted(present, labels)
