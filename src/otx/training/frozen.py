"""Freeze parts of a network: the batch norm statistics, and the weights of the first stages."""

from __future__ import annotations

from typing import Any

from timm.models import group_parameters
from torch import nn

from otx.errors import UsageError


def freeze_statistics(network: nn.Module, *, whole: bool = True) -> None:
    """Freeze the running statistics of batch norm; call it after each `network.train()`.

    Args:
        whole: freeze those of all layers; False: only of layers whose weights are frozen too.
    """
    for layer in network.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) and (whole or _is_frozen(layer)):
            layer.eval()


def freeze_stages(network: Any, count: int) -> None:
    """Freeze the weights of the first stages of a timm network; the layers before its first block count as a stage.

    Raises:
        UsageError: timm does not define stages for the network, or no stage before the classifier would be trained.
    """
    if count == 0:
        return
    try:
        stages = list(group_parameters(network, network.group_matcher(coarse=True)).values())
    except (AttributeError, AssertionError) as error:
        raise UsageError(
            f"--training.freeze_stages {count}: timm does not say what the stages of this network are",
            fix="leave it out, or choose another network",
        ) from error
    most = len(stages) - 2
    if count > most:
        raise UsageError(
            f"--training.freeze_stages {count}: the network has {most + 1} stages before its classifier",
            fix=f"{most} at most; --max_epochs 0 fits the classifier alone",
        )
    frozen = {name for stage in stages[:count] for name in stage}
    for name, parameter in network.named_parameters():
        if name in frozen:
            parameter.requires_grad_(requires_grad=False)


def _is_frozen(layer: nn.Module) -> bool:
    own = list(layer.parameters())
    return bool(own) and not any(parameter.requires_grad for parameter in own)
