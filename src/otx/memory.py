"""What a process does with the memory it has freed."""

from __future__ import annotations

import ctypes
import sys

# numbers of glibc's malloc.h
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4


def keep_freed_memory() -> None:
    """Let this process keep the memory it frees, for its next large array.

    glibc hands arrays beyond 32 MB back to the system, which clears the pages again for each new one: a training step
    of large batches on a CPU then waits for that a third of its time. Elsewhere than with glibc nothing happens.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if set_option is not None:
        set_option(M_MMAP_MAX, 0)
        set_option(M_TRIM_THRESHOLD, -1)


def drop_freed_memory() -> None:
    """Give back what this process has freed, and what it inherited free from the one that it was forked from.

    A process that keeps its freed memory writes to it again; each page of that would be copied, and stay twice, as long
    as a child of it still has the page.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)
