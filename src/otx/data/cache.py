"""A cache of decoded images that the processes of one training share, so that each image is decoded once."""

from __future__ import annotations

import contextlib
import mmap
import multiprocessing
import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otx.machine import memory_limit

MEGABYTE = 2**20
MAX_SHARE = 8


class ImageCache:
    """Holds images (H, W, 3) uint8 by number; an image that does not fit any more is not kept.

    Memory is used as images come in. Forked processes fill and read the same memory. A process that is not forked gets
    a cache that keeps nothing.

    Args:
        count: number of images; they are numbered from 0.
        capacity: bytes of memory at most.
    """

    def __init__(self, count: int, capacity: int) -> None:
        self._count, self._capacity = count, 0
        if capacity == 0 or count == 0:
            return
        # a system that does not overcommit memory, or has no semaphores, gets a cache that keeps nothing
        with contextlib.suppress(OSError, ImportError):
            self._lock = multiprocessing.get_context("fork").Lock() if hasattr(os, "fork") else multiprocessing.Lock()
            self._pixels: NDArray[np.uint8] = np.frombuffer(mmap.mmap(-1, capacity), np.uint8)
            # a row per image: offset plus one (0: not in the cache), height, width; in the last row, the bytes in use
            self._table: NDArray[np.int64] = np.frombuffer(mmap.mmap(-1, 24 * (count + 1)), np.int64).reshape(-1, 3)
            self._capacity = capacity

    def __reduce__(self) -> tuple[Any, ...]:
        return ImageCache, (self._count, 0)

    def close(self) -> None:
        """Give the memory back; the cache keeps nothing from now on."""
        if self._capacity:
            self._capacity = 0
            del self._pixels, self._table

    def get(self, number: int) -> NDArray[np.uint8] | None:
        """A view of the image in the shared memory, not to be written to; None if it is not in the cache."""
        if self._capacity == 0:
            return None
        with self._lock:
            place, height, width = map(int, self._table[number])
        if place == 0:
            return None
        return self._pixels[place - 1 : place - 1 + height * width * 3].reshape(height, width, 3)

    def put(self, number: int, image: NDArray[np.uint8]) -> None:
        """Keep an image if there is room for it and it is not in the cache yet."""
        if self._capacity == 0:
            return
        height, width = image.shape[:2]
        with self._lock:
            begin = int(self._table[-1, 0])
            if self._table[number, 0] or begin + image.size > self._capacity:
                return
            self._pixels[begin : begin + image.size] = image.reshape(-1)
            self._table[number] = begin + 1, height, width
            self._table[-1, 0] = begin + image.size


def memory_budget(megabytes: int, processes: int) -> int:
    """Bytes of cache for each process: as asked for, but for all at most an eighth of this machine's memory."""
    return min(megabytes * MEGABYTE, memory_limit() // MAX_SHARE // processes)
