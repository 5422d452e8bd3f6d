"""How training images are cropped, resized and flipped at random."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torchvision.transforms import RandomResizedCrop, v2

from otx.data.preprocessing import Letterbox, Preprocessing
from otx.recipe import CROP, LETTERBOX, AugmentationSettings

STEP = 32
# of the area that a crop takes in a training from scratch
SCALE = (0.08, 1.0)


@dataclass(frozen=True)
class Augmentation:
    """A random crop (share of the area in `scale`, width over height in `ratio`), then a flip of probability `flip`."""

    scale: tuple[float, float]
    ratio: tuple[float, float]
    flip: float

    @classmethod
    def of(cls, settings: AugmentationSettings) -> Augmentation:
        return cls(settings.scale or SCALE, settings.ratio, settings.flip)


@dataclass(frozen=True)
class ProgressiveResize:
    """Training images begin small and grow to the network's input size: a step on small images takes less time.

    Source: Tan and Le, EfficientNetV2: Smaller Models and Faster Training, ICML 2021, arXiv 2104.00298.

    Attributes:
        start: share of the height and width in the first epoch, above 0 to 1.
        epochs: epochs until the full size is reached.
    """

    start: float
    epochs: int

    def size(self, full: tuple[int, int], epoch: int) -> tuple[int, int]:
        """Height and width in an epoch, counted from 0: multiples of 32, as networks halve feature maps five times."""
        if epoch >= self.epochs:
            return full
        share = self.start + (1 - self.start) * epoch / self.epochs
        height, width = (min(side, max(1, round(side * share / STEP)) * STEP) for side in full)
        return height, width


FULL_SIZE = ProgressiveResize(1.0, 0)


def augmented(
    image: torch.Tensor, augmentation: Augmentation, size: tuple[int, int], preprocessing: Preprocessing
) -> torch.Tensor:
    """Crop an image (3, H, W) at random, resize it to `size` (height, width) as `preprocessing` resizes, and flip it.

    Letterboxed images are cropped to about their own aspect ratio; of images of which only the middle is seen, only the
    middle is cropped.
    """
    if preprocessing.resize_type == LETTERBOX:
        return _letterboxed(image, augmentation, size)
    if preprocessing.resize_type == CROP:
        image = v2.functional.center_crop(image, [min(image.shape[1:])] * 2)
    cropped: torch.Tensor = _transform(augmentation, size)(image)
    return cropped


@functools.lru_cache(maxsize=16)
def _transform(augmentation: Augmentation, size: tuple[int, int]) -> v2.Transform:
    # no antialiasing: training images are resized like those that the network is tested on
    crop = v2.RandomResizedCrop(size, augmentation.scale, augmentation.ratio, antialias=False)
    return v2.Compose([crop, v2.RandomHorizontalFlip(augmentation.flip)])


def _letterboxed(image: torch.Tensor, augmentation: Augmentation, size: tuple[int, int]) -> torch.Tensor:
    height, width = image.shape[1:]
    low, high = (ratio * width / height for ratio in augmentation.ratio)
    top, left, tall, wide = RandomResizedCrop.get_params(image, list(augmentation.scale), [low, high])
    place = Letterbox.fit((tall, wide), size)
    inner = v2.functional.resized_crop(image, top, left, tall, wide, [place.height, place.width], antialias=False)
    canvas = image.new_zeros((image.shape[0], *size))
    canvas[:, place.top : place.top + place.height, place.left : place.left + place.width] = inner
    return canvas.flip(2) if torch.rand(1) < augmentation.flip else canvas
