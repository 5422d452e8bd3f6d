"""A network with its preprocessing in front, as one graph."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from otx.data.preprocessing import Preprocessing


class Embedded(nn.Module):
    """Takes decoded images (N, H, W, 3) uint8 of any size, in RGB or BGR, and returns what the network returns."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, network: nn.Module, preprocessing: Preprocessing, input_color: str) -> None:
        super().__init__()
        self.network = network
        self.size = (preprocessing.height, preprocessing.width)
        self.is_bgr = input_color == "BGR"
        self.register_buffer("mean", torch.tensor(preprocessing.mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(preprocessing.std).view(1, 3, 1, 1))

    def forward(self, image: torch.Tensor) -> Any:
        pixels = image.permute(0, 3, 1, 2).float()
        if self.is_bgr:
            pixels = pixels[:, [2, 1, 0]]
        pixels = functional.interpolate(pixels, size=self.size, mode="bilinear", align_corners=False, antialias=False)
        return self.network((pixels - self.mean) / self.std)
