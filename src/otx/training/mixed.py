"""Mixed precision on a processor, operator by operator."""

from __future__ import annotations

import torch
from torch import nn


def keep_depthwise_in_float32(network: nn.Module) -> int:
    """Let the depthwise convolutions of a network compute in float32 under bf16 autocast on a CPU.

    They are limited by memory, not by arithmetic: the bf16 kernels of oneDNN are slower for them, and less exact.
    Their outputs go on in bf16. Returns the number of convolutions changed; names and weights stay.
    """
    count = 0
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d) and layer.groups > 1 and layer.groups == layer.in_channels:
            layer.__class__ = _float32_class(type(layer))
            count += 1
    return count


def _float32_class(kind: type[nn.Conv2d]) -> type[nn.Conv2d]:
    """The same layer, computing in float32; timm's own padding (`Conv2dSame`) is kept, as its forward is called."""
    if kind not in _CLASSES:

        class Float32Conv(kind):  # type: ignore[misc,valid-type]
            def forward(self, images: torch.Tensor) -> torch.Tensor:
                kept = images.dtype
                with torch.autocast("cpu", enabled=False):
                    output: torch.Tensor = super().forward(images.float())
                return output.to(kept)

        _CLASSES[kind] = Float32Conv
    return _CLASSES[kind]


_CLASSES: dict[type[nn.Conv2d], type[nn.Conv2d]] = {}
