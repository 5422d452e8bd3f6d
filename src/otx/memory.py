"""Keep or return freed memory, and recognise errors that mean out of memory."""

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
    """Whether an error means out of memory, on a GPU or on the machine; torch is not imported for it.

    torch raises `torch.OutOfMemoryError` for its own allocations on a GPU. Its libraries and its CPU allocator raise a
    RuntimeError, which only its text tells apart.
    """
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in NO_MEMORY)


def keep_freed_memory() -> None:
    """Make this process keep the memory it frees, for its next large array.

    glibc returns arrays beyond 32 MB to the system, which clears the pages again for each new one: a training step with
    large batches on a CPU then spends a third of its time on that. Without glibc this does nothing.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if set_option is not None:
        set_option(M_MMAP_MAX, 0)
        set_option(M_TRIM_THRESHOLD, -1)


def drop_freed_memory() -> None:
    """Return freed memory to the system, including free memory that this process inherited when it was forked.

    A process that keeps its freed memory writes to it again; each such page would be copied, and exist twice, as long
    as a child process still has it.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)
