"""Batches for training and validation: decoding and augmentation in worker processes."""

from __future__ import annotations

import contextlib
import functools
import gc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, Sampler

from otx.data.augmentation import FULL_SIZE, Augmentation, ProgressiveResize, augmented
from otx.data.cache import ImageCache
from otx.data.dataset import ImageSet
from otx.data.decode import decode_image
from otx.data.preprocessing import Preprocessing, opencv, reduced
from otx.data.sampler import BalancedSampler, EpochSampler, RandomSampler
from otx.data.transport import Batch, Collate, Slots, allowed_workers, transport_note
from otx.errors import ImageError
from otx.machine import available_cores
from otx.memory import drop_freed_memory
from otx.signals import outlive_signals
from otx.spawn import can_start_workers, forks

FEW = 64
LARGE = 1_000_000


class SampleRequest(NamedTuple):
    """A data loader's request for an image by its number; for training, with a seed and the size of the crop.

    Without a size, the image is resized by the preprocessing.
    """

    number: int
    seed: int = 0
    size: tuple[int, int] | None = None


class ImageSubset(Dataset[tuple[torch.Tensor | None, int, str]]):
    """The images of a subset, indexed by `SampleRequest`.

    Args:
        augmentation: for training images; None: these are not training images.
        reduces: cache large training images at a reduced size, twice the network's input at the shorter side.
        cache: bytes for a cache of decoded images; images other than training images are cached resized.
    """

    def __init__(
        self,
        images: ImageSet,
        preprocessing: Preprocessing,
        *,
        augmentation: Augmentation | None = None,
        reduces: bool = False,
        cache: int = 0,
    ) -> None:
        self.root, self.subset = images.root, images.subset
        self.preprocessing, self.reading = preprocessing, preprocessing.reading(images.max_pixels)
        self.augmentation = augmentation
        is_reduced = reduces and augmentation is not None
        self.reduce_to = 2 * max(preprocessing.height, preprocessing.width) if is_reduced else None
        self.cache = ImageCache(len(images), cache)

    def __len__(self) -> int:
        return len(self.subset.paths)

    def mean_bytes(self) -> float:
        """Mean file size, from a sample of the files."""
        some = self.subset.paths[:: max(1, len(self) // FEW)]
        sizes = []
        for path in some:
            with contextlib.suppress(OSError):  # decoding reports it
                sizes.append((self.root / path).stat().st_size)
        return sum(sizes) / max(1, len(sizes))

    def batch_bytes(self, batch_size: int) -> int:
        return batch_size * 3 * self.preprocessing.height * self.preprocessing.width

    def __getitem__(self, draw: SampleRequest) -> tuple[torch.Tensor | None, int, str]:
        number, seed, size = draw
        path, label = self.subset.paths[number], self.subset.labels[number]
        # the cache holds large training images at a reduced size, but the network is tested on the full size
        as_tested = size is None and self.augmentation is not None
        pixels = None if as_tested else self.cache.get(number)
        if pixels is None:
            try:
                whole = decode_image(self.root / path, self.reading)
            except ImageError as error:
                return None, label, f"{path}: {error.what}"
            kept = self._kept(whole)
            self.cache.put(number, kept)
            pixels = whole if as_tested else kept
        if size is None or self.augmentation is None:
            return _to_tensor(self.preprocessing.resize(pixels)), label, path
        with torch.random.fork_rng(devices=[]):
            # torch.manual_seed seeds every kind of device, which takes as long as the crop
            torch.default_generator.manual_seed(seed)
            return augmented(_to_tensor(pixels), self.augmentation, size, self.preprocessing), label, path

    def _kept(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The image to cache: after the steps that are the same in every epoch."""
        if self.augmentation is None:
            return self.preprocessing.resize(pixels)
        if self.reduce_to is None or min(pixels.shape[:2]) < 2 * self.reduce_to:
            return pixels
        return reduced(pixels, self.reduce_to)


def normalise(images: torch.Tensor, mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
    """Turn images (N, 3, H, W) uint8 into network input (N, 3, H, W), float and channels last; mean and std (3,).

    It computes whole rows of pixels at once: three values at a time take three times as long.
    """
    count, channels, height, width = images.shape
    rows = images.permute(0, 2, 3, 1).reshape(count, height, width * channels).to(torch.float32, copy=True)
    rows.sub_(mean.repeat(width)).div_(std.repeat(width))
    return rows.view(count, height, width, channels).permute(0, 3, 1, 2)


def _to_tensor(pixels: NDArray[np.uint8]) -> torch.Tensor:
    return torch.from_numpy(pixels if pixels.flags.writeable else pixels.copy()).permute(2, 0, 1)


@dataclass(frozen=True)
class Batching:
    """How images become batches, and which of them are for this process.

    Args:
        size: images in a batch.
        num_workers: processes that decode; None: as many as suit the images and the machine.
        pin_memory: put batches into pinned memory, which a GPU reads faster.
        rank, world_size: the number of this process in the training, from 0, and how many processes there are.
    """

    size: int
    num_workers: int | None = None
    pin_memory: bool = False
    rank: int = 0
    world_size: int = 1


class SeededSampler(Sampler[SampleRequest]):
    """Adds to each draw of another sampler its own seed, which depends only on the seed, the epoch and the position.

    So the augmentation of an image does not depend on the number of workers, nor on whether a run was resumed.

    Args:
        size: gives the height and width of the crops in an epoch, counted from 0.
    """

    def __init__(
        self, inner: EpochSampler, seed: int, batching: Batching, size: Callable[[int], tuple[int, int]]
    ) -> None:
        self.inner, self.seed, self.size, self.epoch = inner, seed, size, 0
        self.rank, self.world_size = batching.rank, batching.world_size

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch
        self.inner.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.inner)

    def __iter__(self) -> Iterator[SampleRequest]:
        size = self.size(self.epoch)
        for place, index in enumerate(self.inner):
            key = (self.seed, self.epoch, place * self.world_size + self.rank)
            yield SampleRequest(index, int(np.random.SeedSequence(key).generate_state(1)[0]), size)


class ShardSampler(Sampler[SampleRequest]):
    """Every image once, in order, split over the processes without overlap and without padding."""

    def __init__(self, numbers: Sequence[int], batching: Batching) -> None:
        self.numbers = numbers[batching.rank :: batching.world_size]

    def __len__(self) -> int:
        return len(self.numbers)

    def __iter__(self) -> Iterator[SampleRequest]:
        return map(SampleRequest, self.numbers)


def count_workers(wanted: int | None, images: ImageSubset, processes: int = 1) -> int:
    """How many workers decode: as many as asked for, else one for each spare core; none for a handful of images.

    For large files one for each core: the network waits for them, at least until they are decoded and cached. Several
    training processes on this machine share its cores.
    """
    if not can_start_workers():
        return 0
    if wanted is not None:
        return wanted
    if len(images) < FEW:
        return 0
    cores = available_cores(processes)
    return max(1, min(8, cores if images.mean_bytes() > LARGE else cores - 1))


def loader_note(images: ImageSubset, batch_size: int, num_workers: int | None, processes: int) -> str:
    """What the user should know about how batches reach the network on this machine, or an empty text."""
    workers = count_workers(num_workers, images, processes)
    return transport_note(workers, images.batch_bytes(batch_size), processes)


def train_loader(
    images: ImageSubset,
    batching: Batching,
    *,
    balanced: bool,
    efficient: bool,
    seed: int,
    growth: ProgressiveResize = FULL_SIZE,
) -> DataLoader[Batch]:
    """Batches to train on; a last batch of a single image is left out, since batch norm cannot take it."""
    inner: EpochSampler
    places = {"rank": batching.rank, "world_size": batching.world_size}
    if balanced:
        inner = BalancedSampler(images.subset.labels, seed=seed, efficient=efficient, **places)
    else:
        inner = RandomSampler(len(images), seed=seed, **places)
    full = (images.preprocessing.height, images.preprocessing.width)
    sampler = SeededSampler(inner, seed, batching, functools.partial(growth.size, full))
    alone = len(sampler) > batching.size and len(sampler) % batching.size == 1
    return _loader(images, sampler, batching, drop_last=alone)


def val_loader(images: ImageSubset, batching: Batching, numbers: Sequence[int] | None = None) -> DataLoader[Batch]:
    """Batches without augmentation, in order: all images, or those of `numbers`."""
    sampler = ShardSampler(range(len(images)) if numbers is None else numbers, batching)
    return _loader(images, sampler, batching, drop_last=False)


def _loader(
    images: ImageSubset, sampler: Sampler[SampleRequest], batching: Batching, *, drop_last: bool
) -> DataLoader[Batch]:
    workers = allowed_workers(count_workers(batching.num_workers, images), batching.world_size)
    # again, since other code in this process may have changed it
    opencv().setNumThreads(1)
    loader: DataLoader[Any] = _Loader(
        images,
        batch_size=batching.size,
        sampler=sampler,
        num_workers=workers,
        collate_fn=Collate(Slots(workers, images.batch_bytes(batching.size))),
        pin_memory=batching.pin_memory,
        drop_last=drop_last,
        persistent_workers=workers > 0,
        worker_init_fn=_begin_worker,
    )
    return loader


class _Loader(DataLoader[Any]):
    def check_worker_number_rationality(self) -> None:
        """Do nothing: PyTorch would warn each time of more workers than cores, which the user asked for."""


def _begin_worker(_: int) -> None:
    if forks():
        # inherited garbage must not be finalised here: an old loader would wait for the locks of its workers
        gc.freeze()
    outlive_signals()
    torch.set_num_threads(1)
    drop_freed_memory()
