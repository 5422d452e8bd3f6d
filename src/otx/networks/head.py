"""The features that enter the classifier of a network."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


@contextlib.contextmanager
def classifier_input(network: Any) -> Iterator[list[torch.Tensor]]:
    """A list to which every batch that the network runs within the block adds its classifier's input (N, D).

    If the network has several classifiers (distilled transformers), it is the input of the first.
    """
    head = network.get_classifier()
    head = head[0] if isinstance(head, (tuple, list)) else head
    entered: list[torch.Tensor] = []
    hook = head.register_forward_pre_hook(lambda _, given: entered.append(given[0].flatten(1)))
    try:
        yield entered
    finally:
        hook.remove()


def pooled(network: Any, features: torch.Tensor) -> torch.Tensor:
    """The classifier's input (N, D) from the output of `network.forward_features`, without a hook, for export."""
    entering: torch.Tensor = network.forward_head(features, pre_logits=True)
    return entering


def scale_logits(network: Any, factor: float) -> bool:
    """Multiply the logits of a network by a factor, in the weights of its classifier; the order of labels stays.

    All classifiers of a network are scaled (distilled transformers have two). False, and no change, if one of them is
    not a single linear layer.
    """
    from torch import nn, no_grad

    head = network.get_classifier()
    layers = list(head) if isinstance(head, (tuple, list)) else [head]
    if not all(isinstance(layer, (nn.Linear, nn.Conv2d)) for layer in layers):
        return False
    with no_grad():
        for layer in layers:
            layer.weight.mul_(factor)
            if layer.bias is not None:
                layer.bias.mul_(factor)
    return True
