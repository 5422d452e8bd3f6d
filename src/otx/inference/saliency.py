"""Saliency maps: where in an image a network sees each class. Shapes: N images, C classes, a map of h x w places."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from otx.errors import UsageError
from otx.networks.head import pooled


class Explained(nn.Module):
    """A network of timm that also returns its feature vector and a saliency map of every class.

    Takes network input (N, 3, H, W); returns logits (N, C), saliency maps (N, C, h, w) from 0 to 1, and the feature
    vector (N, D), in this order.

    Args:
        algorithm: `recipro_cam` (Byun and Lee 2022, arXiv 2209.14074) for networks with a feature map,
            `vit_recipro_cam` (Byun and Lee 2023, arXiv 2310.02588) for vision transformers, `activation_map` (the mean
            activation, the same for every class) for both; `auto` chooses.

    Raises:
        UsageError: the algorithm does not suit the network.
    """

    def __init__(self, network: nn.Module, algorithm: str = "auto") -> None:
        super().__init__()
        self.network: Any = network
        self.algorithm = choose_algorithm(network, algorithm)
        self.is_transformer = _is_transformer(network)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        before_last, features = self._features(images)
        if not self.is_transformer and features.ndim != 4:
            raise UsageError(f"{type(self.network).__name__} has no map of features that could be shown")
        logits = self.network.forward_head(features)
        if self.algorithm == "vit_recipro_cam":
            maps = self._vit_recipro_cam(before_last)
        elif self.algorithm == "recipro_cam":
            maps = self._recipro_cam(features)
        else:
            maps = self._activation_map(features)[:, None].expand(-1, logits.shape[1], -1, -1)
        return logits, stretch(maps), pooled(self.network, features)

    def _features(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The input of the last block (of the head, if the network is no transformer), and the input of the head."""
        if not self.is_transformer:
            features = self.network.forward_features(images)
            return features, features
        entered: list[torch.Tensor] = []
        hook = self.network.blocks[-1].register_forward_pre_hook(lambda _, given: entered.append(given[0]))
        try:
            features = self.network.forward_features(images)
        finally:
            hook.remove()
        return entered[0], features

    def _recipro_cam(self, features: torch.Tensor) -> torch.Tensor:
        """Show the head the features of one place at a time; the probability of a class is its map's value there."""
        last = _is_channels_last(self.network)
        height, width = features.shape[1:3] if last else features.shape[2:4]
        masks = place_masks(height, width).to(features)
        masks = masks[None, :, :, :, None] if last else masks[None, :, None]
        scores = self.network.forward_head((features[:, None] * masks).flatten(0, 1)).softmax(dim=1)
        return _as_maps(scores, height, width)

    def _vit_recipro_cam(self, tokens: torch.Tensor) -> torch.Tensor:
        """The same with tokens: show the last block the class token and one place at a time."""
        network, block = self.network, self.network.blocks[-1]
        height, width = network.patch_embed.grid_size
        masks = place_masks(height, width).flatten(1).to(tokens)
        masks = functional.pad(masks, (network.num_prefix_tokens, 0), value=1.0)[None, :, :, None]
        # masked after the normalisation, which would turn a token of zeros into another value
        normed = (block.norm1(tokens)[:, None] * masks).flatten(0, 1)
        kept = (tokens[:, None] * masks).flatten(0, 1)
        mixed = kept + block.drop_path1(block.ls1(block.attn(normed)))
        mixed = mixed + block.drop_path2(block.ls2(block.mlp(block.norm2(mixed))))
        scores = network.forward_head(network.norm(mixed)).softmax(dim=1)
        return _as_maps(scores, height, width)

    def _activation_map(self, features: torch.Tensor) -> torch.Tensor:
        if self.is_transformer:
            height, width = self.network.patch_embed.grid_size
            places = features[:, self.network.num_prefix_tokens :].mean(dim=2)
            return places.reshape(-1, height, width)
        return features.mean(dim=3 if _is_channels_last(self.network) else 1)


def choose_algorithm(network: nn.Module, algorithm: str) -> str:
    """The requested algorithm, or for `auto` the one that suits the network.

    Raises:
        UsageError: the requested one does not suit the network.
    """
    suited = (_recipro_cam_of(network), "activation_map")
    if algorithm == "auto":
        return suited[0]
    if algorithm not in suited:
        raise UsageError(
            f"--explain_config.algorithm {algorithm} does not suit {type(network).__name__}", allowed=suited
        )
    return algorithm


def _recipro_cam_of(network: Any) -> str:
    from timm.models.vision_transformer import Block

    if not _is_transformer(network):
        return "recipro_cam"
    # other kinds of blocks combine attention and MLP in other ways
    return "vit_recipro_cam" if type(network.blocks[-1]) is Block else "activation_map"


def _is_transformer(network: nn.Module) -> bool:
    from timm.models.vision_transformer import VisionTransformer

    return isinstance(network, VisionTransformer)


def _is_channels_last(network: nn.Module) -> bool:
    """Whether the features are (N, h, w, D), as in some networks of timm (Swin)."""
    return getattr(network, "output_fmt", "NCHW") == "NHWC"


def place_masks(height: int, width: int) -> torch.Tensor:
    """A mask (height, width) for each of the height x width places: the 3 x 3 Gaussian of Recipro-CAM around it."""
    rows, columns = _blur(height), _blur(width)
    return torch.einsum("iy,jx->ijyx", rows, columns).reshape(height * width, height, width)


def _blur(size: int) -> torch.Tensor:
    """Row i holds the Gaussian (1/4, 1/2, 1/4) around place i."""
    distance = (torch.arange(size)[:, None] - torch.arange(size)[None, :]).abs()
    return 0.5 * (distance == 0) + 0.25 * (distance == 1)


def _as_maps(scores: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """(N * h * w, C) to (N, C, h, w)."""
    classes = scores.shape[1]
    return scores.view(-1, height * width, classes).transpose(1, 2).reshape(-1, classes, height, width)


def stretch(maps: torch.Tensor) -> torch.Tensor:
    """Stretch each map (..., h, w) to reach from 0 to 1; a flat one becomes 0."""
    low, high = maps.amin(dim=(-2, -1), keepdim=True), maps.amax(dim=(-2, -1), keepdim=True)
    return (maps - low) / (high - low).clamp_min(1e-12)
