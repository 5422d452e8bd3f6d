"""The end of a network: what enters its classifier."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


@contextlib.contextmanager
def classifier_input(network: Any) -> Iterator[list[torch.Tensor]]:
    """Within the block, every image batch that goes through a network adds what enters its classifier: (N, D).

    Of a network with several classifiers (distilled transformers) it is the first one's.
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
    """The same (N, D), of what `network.forward_features` gives: as a part of an exported graph."""
    entering: torch.Tensor = network.forward_head(features, pre_logits=True)
    return entering
