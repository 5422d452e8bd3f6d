"""Fold batch norm with frozen statistics into the convolution before it.

With frozen statistics, batch norm is a scale and a shift per channel. Folded into the convolution's weights, they cost
nothing per pixel, forward or backward; the parameters stay in the batch norm layer and are trained as before.

Source: Jacob et al., Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference,
CVPR 2018, arXiv 1712.05877, section 3.2.
"""

from __future__ import annotations

from typing import Any

import torch
from timm.layers.norm_act import BatchNormAct2d
from torch import nn

NEAR = 1e-2


def fold_norms(network: nn.Module, size: tuple[int, int]) -> int:
    """Make convolutions compute the batch norm after them while it is in eval mode; returns how many do.

    Parameter names, weights and gradients stay the same. If folding changes the network's output for noise, because
    another layer also reads the output of a convolution, the network is left unchanged.

    Args:
        size: height and width of the noise images.
    """
    was_training = network.training
    network.eval()
    device = next(network.parameters()).device
    noise = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0)).to(device)
    with torch.no_grad():
        pairs = _pairs(network, noise)
        expected = network(noise)
        kinds = [(type(layer), layer) for pair in pairs for layer in pair]
        for conv, norm in pairs:
            object.__setattr__(conv, "norm", (norm,))
            conv.__class__, norm.__class__ = FoldedConv, FOLDED[type(norm)]
        # `not <=` and not `>`: NaN outputs count as changed
        if not (network(noise) - expected).abs().max() <= NEAR * expected.abs().max():
            for kind, layer in kinds:
                layer.__class__ = kind
            pairs = []
    network.train(was_training)
    return len(pairs)


class FoldedConv(nn.Conv2d):
    """A convolution that also computes the batch norm after it, while that is in eval mode."""

    norm: tuple[Any]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        (norm,) = self.norm
        if norm.training:
            return super().forward(images)
        scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
        own = 0 if self.bias is None else self.bias
        output: torch.Tensor = self._conv_forward(
            images, self.weight * scale.view(-1, 1, 1, 1), norm.bias + (own - norm.running_mean) * scale
        )
        return output


class FoldedNorm(nn.BatchNorm2d):
    """A batch norm that does nothing in eval mode: the convolution has computed it."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(images) if self.training else images


class FoldedNormAct(BatchNormAct2d):
    """timm's batch norm with an activation; in eval mode only the activation is left."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = super().forward(images) if self.training else self.act(self.drop(images))  # type: ignore[no-untyped-call]
        return output


FOLDED: dict[type[nn.Module], type[nn.Module]] = {nn.BatchNorm2d: FoldedNorm, BatchNormAct2d: FoldedNormAct}


def _pairs(network: nn.Module, images: torch.Tensor) -> list[tuple[nn.Module, nn.Module]]:
    """Pairs of a convolution and the batch norm that reads its output."""
    given: dict[int, tuple[nn.Module, torch.Tensor]] = {}
    pairs: list[tuple[nn.Module, nn.Module]] = []

    def after_conv(layer: nn.Module, _: Any, output: torch.Tensor) -> None:
        given[id(output)] = layer, output

    def before_norm(layer: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        conv, _ = given.get(id(inputs[0]), (None, None))
        if conv is not None and layer.affine and layer.track_running_stats:
            pairs.append((conv, layer))

    hooks = [
        layer.register_forward_hook(after_conv)
        if type(layer) is nn.Conv2d
        else layer.register_forward_pre_hook(before_norm)
        for layer in network.modules()
        if type(layer) is nn.Conv2d or type(layer) in FOLDED
    ]
    try:
        network(images)
    finally:
        for hook in hooks:
            hook.remove()
    return pairs
