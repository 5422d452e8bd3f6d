"""Send batches from the workers that decode to the process that trains, in shared memory of our own.

PyTorch needs a file in /dev/shm and a file descriptor for each tensor. A container has 64 MB of /dev/shm, which a few
batches fill, and a process with a low limit of open files runs out of them. An anonymous map that forked workers
inherit needs neither.
"""

from __future__ import annotations

import contextlib
import itertools
import mmap
import multiprocessing
import os
import sys
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import get_worker_info

from otx.errors import TrainingError
from otx.machine import memory_limit

SLOTS_PER_WORKER = 4
MAX_SHARE = 8
FILES_WANTED = 4096
FILES_OF_OTHERS = 24
FILES_PER_WORKER = 5
# each semaphore takes a page of /dev/shm: a loader has 8, and 3 for each worker
PAGES_PER_LOADER = 12
PAGES_PER_WORKER = 4
SHARED_MEMORY = Path("/dev/shm")

Item = tuple[torch.Tensor | None, int, str]

_numbers = itertools.count()
_by_number: weakref.WeakValueDictionary[int, Slots] = weakref.WeakValueDictionary()


@dataclass(frozen=True)
class Batch:
    """Images (N, 3, H, W) uint8, labels (N,) int64, and "path: reason" of each image that cannot be decoded."""

    images: torch.Tensor
    labels: torch.Tensor
    bad: tuple[str, ...] = ()

    def pin_memory(self) -> Batch:
        return Batch(self.images.pin_memory(), self.labels.pin_memory(), self.bad)


class Slots:
    """Memory for batches of images, shared with forked workers: each has some slots.

    A worker marks one of its slots as taken, and only the process that made the slots marks it as free, so there is no
    lock that a killed worker could keep. Only slots that were ever taken use memory.

    Args:
        workers: number of workers.
        size: bytes of a slot.
    """

    def __init__(self, workers: int, size: int) -> None:
        self.size, self.number, self._owner = size, next(_numbers), os.getpid()
        room = memory_limit() // MAX_SHARE // max(1, workers * size)
        self.per_worker = min(SLOTS_PER_WORKER, room) if hasattr(os, "fork") and workers and size else 0
        if self.per_worker:
            try:
                self._memory = mmap.mmap(-1, workers * self.per_worker * size)
                self._taken = mmap.mmap(-1, workers * self.per_worker)
            except OSError:  # the system does not overcommit memory
                self.per_worker = 0
        _by_number[self.number] = self

    def __reduce__(self) -> tuple[Any, ...]:
        """A process that was not forked has no slots: its batches travel through the pipe."""
        return Slots, (0, 0)

    def take(self, worker: int, size: int) -> int | None:
        """Take a free slot of a worker and return its number; None if none is free or large enough."""
        own = range(worker * self.per_worker, (worker + 1) * self.per_worker)
        slot = next((slot for slot in own if size <= self.size and not self._taken[slot]), None)
        if slot is not None:
            self._taken[slot] = 1
        return slot

    def pixels(self, slot: int, shape: Sequence[int]) -> NDArray[np.uint8]:
        """The images (N, H, W, 3) in a slot."""
        return np.frombuffer(self._memory, np.uint8, int(np.prod(shape)), slot * self.size).reshape(shape)

    def lend(self, slot: int, shape: Sequence[int]) -> torch.Tensor:
        """The images in a slot; the slot is free again once nothing uses them any more."""
        pixels = self.pixels(slot, shape)
        weakref.finalize(pixels, self._free, slot).atexit = False
        return torch.from_numpy(pixels)

    def _free(self, slot: int) -> None:
        if os.getpid() == self._owner:  # a process forked in the meantime inherited the batch, and drops it too
            self._taken[slot] = 0


@dataclass(frozen=True)
class Parcel:
    """A batch in a worker: images (N, H, W, 3), and their slot, if any. It is unpickled as a `Batch`."""

    images: torch.Tensor
    labels: torch.Tensor
    bad: tuple[str, ...]
    slots: int
    slot: int | None

    def __reduce__(self) -> tuple[Any, ...]:
        # arrays, since PyTorch would send tensors through /dev/shm
        images = self.images.numpy() if self.slot is None else tuple(self.images.shape)
        return _unpack, (images, self.labels.numpy(), self.bad, self.slots, self.slot)


def _unpack(
    images: NDArray[np.uint8] | tuple[int, ...],
    labels: NDArray[np.int64],
    bad: tuple[str, ...],
    slots: int,
    slot: int | None,
) -> Batch:
    if isinstance(images, tuple):
        assert slot is not None
        rows = _by_number[slots].lend(slot, images)
    else:
        rows = torch.from_numpy(images)
    return Batch(rows.permute(0, 3, 1, 2), torch.from_numpy(labels), bad)


@dataclass(frozen=True)
class Collate:
    """Makes a channels-last batch of the images that could be decoded; in a worker it is put into a free slot."""

    slots: Slots

    def __call__(self, items: Sequence[Item]) -> Batch | Parcel:
        good = [(image, label) for image, label, _ in items if image is not None]
        bad = tuple(path for image, _, path in items if image is None)
        labels = torch.tensor([label for _, label in good], dtype=torch.int64)
        if not good:
            return Batch(torch.empty(0, 3, 0, 0, dtype=torch.uint8), labels, bad)
        # stacked channels last, as images lie in memory and networks are run
        rows = [image.permute(1, 2, 0) for image, _ in good]
        worker = get_worker_info()
        if worker is None:
            return Batch(torch.stack(rows).permute(0, 3, 1, 2), labels, bad)
        shape = (len(rows), *rows[0].shape)
        slot = self.slots.take(worker.id, int(np.prod(shape)))
        out = None if slot is None else torch.from_numpy(self.slots.pixels(slot, shape))
        return Parcel(torch.stack(rows, out=out), labels, bad, self.slots.number, slot)


def allowed_workers(wanted: int, processes: int = 1) -> int:
    """How many of the `wanted` workers this machine allows, for two loaders at a time.

    Each worker needs open files, and semaphores in /dev/shm: none is allowed if /dev/shm is missing or read-only.

    Args:
        processes: training processes that start as many workers each, and share /dev/shm.
    """
    return min(wanted, _workers_by_files(), _workers_by_semaphores(processes)) if wanted else 0


def transport_note(workers: int, size: int, processes: int = 1) -> str:
    """A sentence if batches of `size` bytes travel in another way than on a large machine, else an empty text."""
    allowed = allowed_workers(workers, processes)
    if allowed < workers:
        instead = f"{allowed} processes decode" if allowed else "The training decodes its images itself"
        return f"{instead} instead of {workers}: {_what_is_missing(processes)}."
    free = _free_shared_memory()
    if free is not None and free < 2 * workers * SLOTS_PER_WORKER * size:
        return f"/dev/shm has {free // 2**20} MB free: batches travel in memory of the training's own."
    return ""


@contextlib.contextmanager
def workers_in_words(after: str) -> Iterator[None]:
    """Turn PyTorch's RuntimeError about a killed worker, which may come anywhere in a training, into a TrainingError.

    Args:
        after: how to go on, as the end of a sentence.
    """
    try:
        yield
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker"):
            raise
        what = "a process that decodes images was ended from outside, most often since memory was used up"
        fix = f"fewer of them (--data.num_workers) or more memory; {after}"
        raise TrainingError(what, fix=fix) from error


def _workers_by_files() -> int:
    free = _raise_file_limit() - _open_files() - FILES_OF_OTHERS
    return max(0, free // 2 // FILES_PER_WORKER)


def _workers_by_semaphores(processes: int) -> int:
    try:
        multiprocessing.get_context().Lock()
    except (OSError, ImportError):
        return 0
    room = _free_shared_memory()
    if room is None:
        return sys.maxsize
    pages = room // mmap.PAGESIZE // 2 // processes - PAGES_PER_LOADER
    return max(0, pages // PAGES_PER_WORKER)


def _free_shared_memory() -> int | None:
    """Bytes free in /dev/shm; None if there is no /dev/shm."""
    try:
        room = os.statvfs(SHARED_MEMORY)
    except (OSError, AttributeError):  # Windows has no statvfs
        return None
    return room.f_bavail * room.f_frsize


def _what_is_missing(processes: int) -> str:
    if _workers_by_files() <= _workers_by_semaphores(processes):
        return f"a process may open {_raise_file_limit()} files here (ulimit -n)"
    return "there is no room for more semaphores here (/dev/shm is missing, full or cannot be written to)"


def _raise_file_limit() -> int:
    """How many files this process may open, after its soft limit was raised towards the hard limit."""
    try:
        import resource
    except ImportError:  # Windows
        return FILES_WANTED
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES_WANTED if hard == resource.RLIM_INFINITY else min(hard, FILES_WANTED)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return FILES_WANTED if soft == resource.RLIM_INFINITY else soft
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        return wanted
    return soft


def _open_files() -> int:
    with contextlib.suppress(OSError):
        return len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    return FILES_OF_OTHERS
