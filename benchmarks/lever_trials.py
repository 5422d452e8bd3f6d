"""Levers that otx does not have: settings `try.NAME` of `levers.py`, put into a training for one block.

`try.policy`: trivial or rand (TrivialAugment, RandAugment); `try.erasing`: probability of Random Erasing; `try.color`:
strength of brightness, contrast and saturation; `try.mixup`, `try.cutmix`: alpha of their beta distribution;
`try.layer_decay`: factor of the learning rate from each layer to the one before it; `try.drop_path`: stochastic depth
of the last block; `try.train_size`: pixels of the training images, the network being tested at data.input_size;
`try.teacher`: another of the networks, which is trained on the same images first, and whose probabilities count half in
the loss; `try.antialias=true`: every resize averages the pixels that it leaves out; `try.sam`: radius of
sharpness-aware steps, each of which takes twice the time.

Sources: Müller and Hutter, ICCV 2021, arXiv 2103.10158; Cubuk et al., CVPR Workshops 2020, arXiv 1909.13719; Zhong et
al., AAAI 2020, arXiv 1708.04896; Zhang et al., ICLR 2018, arXiv 1710.09412; Yun et al., ICCV 2019, arXiv 1905.04899;
Huang et al., ECCV 2016, arXiv 1603.09382; Touvron et al., NeurIPS 2019, arXiv 1906.06423; Foret et al., ICLR 2021,
arXiv 2010.01412; Hinton et al., arXiv 1503.02531.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from timm.layers import DropPath
from timm.models import group_parameters
from torch import nn
from torchvision.transforms import v2

from otx.data import augmentation, loader, preprocessing
from otx.data.preprocessing import opencv
from otx.data.transport import Batch
from otx.model.modelfile import load_model
from otx.networks.head import classifier_input
from otx.recipe import OptimizerSettings
from otx.training import inputs
from otx.training import module as module_file
from otx.training.loop import Loop
from otx.training.losses import distillation_loss
from otx.training.module import Classifier

Trials = dict[str, Any]
Pixels = NDArray[np.uint8]


@contextlib.contextmanager
def tried(trials: Trials) -> Iterator[None]:
    """Within the block, trainings take these levers."""
    changes: list[tuple[Any, str, Any]] = []
    if {"policy", "erasing", "color", "antialias"} & set(trials):
        changes.append((augmentation, "_transform", _transforms(trials)))
    if {"mixup", "cutmix"} & set(trials):
        changes.append((Classifier, "loss_of", _mixing(trials.get("mixup"), trials.get("cutmix"))))
    if "teacher" in trials:
        changes.append((Classifier, "loss_of", _taught(trials["teacher"])))
    if "layer_decay" in trials:
        changes.append((module_file, "make_optimizer", _decaying(trials["layer_decay"])))
    if "antialias" in trials:
        changes += [(preprocessing, "bilinear", averaged), (loader, "reduced", reduced_by_mean)]
    if "train_size" in trials:
        changes.append((inputs, "progressive_resize", lambda _: FixedSize(trials["train_size"])))
    kept = [(place, name, getattr(place, name)) for place, name, _ in changes]
    for place, name, value in changes:
        setattr(place, name, value)
    try:
        yield
    finally:
        for place, name, value in kept:
            setattr(place, name, value)


class FixedSize(augmentation.ProgressiveResize):
    """Training images of one size in all epochs."""

    def __init__(self, side: int) -> None:
        super().__init__(1.0, 0)
        object.__setattr__(self, "side", side)

    def size(self, full: tuple[int, int], epoch: int) -> tuple[int, int]:
        return (self.side, self.side)  # type: ignore[attr-defined]


def averaged(image: Pixels, height: int, width: int) -> Pixels:
    """Resize an image (H, W, 3) with Pillow's bilinear filter, which averages where it reduces."""
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))


def reduced_by_mean(image: Pixels, shorter: int) -> Pixels:
    """Resize an image (H, W, 3) to `shorter` pixels at its shorter side, by the mean over each area."""
    height, width = image.shape[:2]
    factor = shorter / min(height, width)
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return np.asarray(opencv().resize(image, size, interpolation=opencv().INTER_AREA), np.uint8)


def _transforms(trials: Trials) -> Callable[..., v2.Transform]:
    known: dict[Any, v2.Transform] = {}

    def make(settings: augmentation.Augmentation, size: tuple[int, int]) -> v2.Transform:
        if (settings, size) not in known:
            steps = [
                v2.RandomResizedCrop(size, settings.scale, settings.ratio, antialias="antialias" in trials),
                v2.RandomHorizontalFlip(settings.flip),
            ]
            if policy := trials.get("policy"):
                steps.append({"trivial": v2.TrivialAugmentWide, "rand": v2.RandAugment}[policy]())
            if color := trials.get("color"):
                steps.append(v2.ColorJitter(color, color, color))
            if erasing := trials.get("erasing"):
                steps.append(v2.RandomErasing(erasing, value=128))
            known[settings, size] = v2.Compose(steps)
        return known[settings, size]

    return make


def _mixing(mixup: float | None, cutmix: float | None) -> Callable[[Classifier, Batch], torch.Tensor]:
    def loss_of(module: Classifier, batch: Batch) -> torch.Tensor:
        images, labels = module._input(batch.images), batch.labels
        order = torch.randperm(len(labels), device=labels.device)
        cuts = cutmix is not None and (mixup is None or float(torch.rand(())) < 0.5)
        share = float(np.random.beta(*[cutmix if cuts else mixup] * 2))
        if cuts:
            images, share = _pasted(images, order, share)
        else:
            images = share * images + (1 - share) * images[order]
        with classifier_input(module.network) as entered:
            logits = module.network(images).float()
        features = entered[0].detach().float()
        own, other = (module.loss(logits, each, features, module.epoch) for each in (labels, labels[order]))
        mixed: torch.Tensor = share * own + (1 - share) * other
        return mixed

    return loss_of


def _taught(file: Path) -> Callable[[Classifier, Batch], torch.Tensor]:
    network, card = load_model(file)
    convert = inputs.to_network_input(card.preprocessing, "cpu")

    def loss_of(module: Classifier, batch: Batch) -> torch.Tensor:
        logits, features = module._with_features(batch.images)
        with torch.no_grad():
            wanted = network(convert(batch.images)).float()
        own: torch.Tensor = module.loss(logits, batch.labels, features, module.epoch)
        return (own + distillation_loss(logits, wanted)) / 2

    return loss_of


def _pasted(images: torch.Tensor, order: torch.Tensor, share: float) -> tuple[torch.Tensor, float]:
    """Images (N, 3, H, W) with a box of others in them, and the share of the area that is still their own."""
    height, width = images.shape[2:]
    half = (1 - share) ** 0.5 / 2
    y, x = float(torch.rand(())) * height, float(torch.rand(())) * width
    top, bottom = max(0, round(y - half * height)), min(height, round(y + half * height))
    left, right = max(0, round(x - half * width)), min(width, round(x + half * width))
    images[:, :, top:bottom, left:right] = images[order][:, :, top:bottom, left:right]
    return images, 1 - (bottom - top) * (right - left) / (height * width)


def _decaying(factor: float) -> Callable[..., torch.optim.Optimizer]:
    def make(network: Any, settings: OptimizerSettings, *, fused: bool = False, **_: float) -> torch.optim.Optimizer:
        layers = group_parameters(network, network.group_matcher(coarse=False), reverse=True)
        last = max(layers.values())
        groups: dict[int, list[nn.Parameter]] = {}
        for name, parameter in network.named_parameters():
            groups.setdefault(last - layers[name], []).append(parameter)
        options = [
            {"params": own, "lr": settings.lr * factor**depth, "weight_decay": settings.weight_decay}
            for depth, own in sorted(groups.items())
        ]
        if settings.name == "sgd":
            return torch.optim.SGD(options, lr=settings.lr, momentum=settings.momentum, fused=fused)
        return torch.optim.AdamW(options, lr=settings.lr, fused=fused)

    return make


def drop_paths(network: nn.Module, rate: float) -> None:
    """Let the residual blocks of a network drop out, the last one with this probability, earlier ones less often."""
    blocks = [block for block in network.modules() if getattr(block, "has_skip", False) and hasattr(block, "drop_path")]
    for number, block in enumerate(blocks, 1):
        block.drop_path = DropPath(rate * number / len(blocks))


def sharpness_aware_step(loop: Loop, batch: Batch, number: int, radius: float) -> torch.Tensor:
    """A step along the gradient at the point within `radius` of the weights where the loss is highest."""
    weights = [weight for weight in loop.module.network.parameters() if weight.requires_grad]

    def gradient() -> torch.Tensor:
        with loop.fabric.autocast():
            loss: torch.Tensor = loop.model.training_step(batch, number)
        loop.optimizer.zero_grad()
        loop.fabric.backward(loss)
        return loss.detach()

    loss = gradient()
    norm = nn.utils.get_total_norm([weight.grad for weight in weights if weight.grad is not None])
    away = [torch.zeros_like(weight) if weight.grad is None else radius * weight.grad / norm for weight in weights]
    with torch.no_grad():
        torch._foreach_add_(weights, away)
    gradient()
    with torch.no_grad():
        torch._foreach_sub_(weights, away)
    if (most := loop.module.clip_norm) is not None:
        nn.utils.clip_grad_norm_(loop.module.network.parameters(), most)
    loop.optimizer.step()
    loop.state.schedule.step()
    loop.state.steps += 1
    loop.state.average.update()
    return loss
