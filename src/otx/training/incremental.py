"""Add classes to a trained model without forgetting the old ones."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from otx.networks.build import head_names

# factors on the recipe's learning rate, for the body and the classifier, in a training with distillation
BODY_FACTOR, HEAD_FACTOR = 0.1, 3.0


def carry_over(network: nn.Module, old: nn.Module) -> None:
    """Copy the weights of an old network to one with as many classes or more; the head's rows for new classes stay.

    Args:
        network: freshly built, so that the rows of new classes are small.

    Raises:
        ValueError: they take images of other sizes, and have weights that depend on it (position embeddings).
    """
    state, own, heads = old.state_dict(), network.state_dict(), head_names(network)
    if any(value.shape != own[name].shape for name, value in state.items() if name not in heads):
        raise ValueError("weights of another shape")
    with torch.no_grad():
        for name, value in state.items():
            if name in heads:
                own[name][: len(value)] = value
            else:
                own[name].copy_(value)


class Distillation:
    """Keeps the outputs of a network close to an old one's in a training with images of only some classes.

    Args:
        teacher: the old network; its classes are the first ones of the network in training.
        present: the classes that have images. The loss compares only their logits: otherwise every image would push
            down the logits of classes without images, until the network never predicts them.
        weight: weight of the distillation loss relative to the loss on the labels.
    """

    def __init__(self, teacher: nn.Module, present: Sequence[int], weight: float) -> None:
        self.teacher = teacher.eval().requires_grad_(requires_grad=False)
        self.present, self.weight = tuple(sorted(present)), weight

    def among_present(self, logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits (N, P) of the P present classes, and the labels (N,) as indices into these."""
        present = torch.tensor(self.present, device=labels.device)
        return logits[:, present], torch.searchsorted(present, labels)
