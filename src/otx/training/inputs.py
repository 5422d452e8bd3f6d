"""The batches of a training, and the cache of decoded images."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch.utils.data import DataLoader

from otx.data.augmentation import Augmentation, ProgressiveResize
from otx.data.cache import memory_budget
from otx.data.dataset import Dataset, ImageSet, Split
from otx.data.loader import (
    Batching,
    ImageSubset,
    count_workers,
    normalise,
    train_loader,
    val_loader,
)
from otx.data.preprocessing import Preprocessing
from otx.data.sampler import epochs_per_pass
from otx.data.transport import Batch
from otx.recipe import BATCH_SIZE, Recipe
from otx.training.devices import Compute


@dataclass(frozen=True)
class Inputs:
    """The images to train on and to validate on."""

    train: ImageSubset
    val: ImageSubset

    def train_batches(self, recipe: Recipe, compute: Compute) -> DataLoader[Batch]:
        """This process's training batches."""
        subset = recipe.data.train_subset
        return train_loader(
            self.train,
            _batching(int(subset.batch_size or BATCH_SIZE), self.train, recipe, compute),
            balanced=subset.sampler == "balanced",
            efficient=subset.efficient,
            seed=recipe.seed,
            growth=progressive_resize(recipe),
        )

    def val_batches(self, recipe: Recipe, compute: Compute) -> DataLoader[Batch]:
        """This process's validation batches, in order."""
        return val_loader(self.val, _batching(recipe.data.val_subset.batch_size, self.val, recipe, compute))

    def epochs_per_pass(self, recipe: Recipe) -> Fraction:
        """How many epochs draw as many images as one that is not shortened; 1 unless the sampler shortens them."""
        subset = recipe.data.train_subset
        if subset.sampler != "balanced":
            return Fraction(1)
        return epochs_per_pass(self.train.subset.labels, efficient=subset.efficient)


def _batching(size: int, images: ImageSubset, recipe: Recipe, compute: Compute) -> Batching:
    workers = count_workers(recipe.data.num_workers, images, recipe.engine.num_devices)
    return Batching(size, workers, compute.is_gpu, compute.shard.rank, compute.shard.world_size)


def plain_batches(images: ImageSubset, numbers: Sequence[int], recipe: Recipe) -> DataLoader[Batch]:
    """Batches of the images with these indices, without augmentation and not divided among processes."""
    return val_loader(images, Batching(recipe.data.val_subset.batch_size, recipe.data.num_workers), numbers)


def to_network_input(preprocessing: Preprocessing, place: str) -> Callable[[torch.Tensor], torch.Tensor]:
    """A function that turns images (N, 3, H, W) uint8 on a device into the input of a network there."""
    mean, std = (torch.tensor(values, device=place) for values in (preprocessing.mean, preprocessing.std))
    return lambda images: normalise(images, mean, std)


@contextlib.contextmanager
def open_inputs(dataset: Dataset, preprocessing: Preprocessing, recipe: Recipe) -> Iterator[Inputs]:
    """The images of a data set; the end of the block frees their caches."""
    inputs = _inputs(dataset, preprocessing, recipe)
    try:
        yield inputs
    finally:
        # the trainer is part of a reference cycle and keeps the caches until Python collects garbage
        inputs.train.cache.close()
        inputs.val.cache.close()


def _inputs(dataset: Dataset, preprocessing: Preprocessing, recipe: Recipe) -> Inputs:
    data, subset = recipe.data, recipe.data.train_subset
    budget = memory_budget(data.cache_mb, recipe.engine.num_devices)
    # validation images are cached at the network's input size, so their cache can be small
    val_budget = min(budget // 4, len(dataset.val) * 3 * preprocessing.height * preprocessing.width)
    train = ImageSubset(
        ImageSet(dataset.root, dataset.train, Split.TRAIN, data.max_image_pixels),
        preprocessing,
        augmentation=Augmentation.of(subset.augmentation),
        reduces=subset.reduce_large,
        cache=budget - val_budget,
    )
    val = ImageSubset(
        ImageSet(dataset.root, dataset.val, Split.VAL, data.max_image_pixels), preprocessing, cache=val_budget
    )
    return Inputs(train, val)


def progressive_resize(recipe: Recipe) -> ProgressiveResize:
    return ProgressiveResize(recipe.training.start_size, recipe.training.growing_epochs)
