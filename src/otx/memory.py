"""What a process does with the memory it has freed, and how it is told that there is none left."""

from __future__ import annotations

import ctypes
import sys

NO_MEMORY = (
    "CUDA out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "DefaultCPUAllocator",
    "could not create a memory object",
)
# numbers of glibc's malloc.h
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory is used up, that of a GPU or of the machine; torch is not imported for it.

    `torch.OutOfMemoryError` is what torch raises for its own allocations on a GPU. Its libraries and its CPU allocator
    raise a RuntimeError, which only its words tell apart.
    """
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in NO_MEMORY)


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
