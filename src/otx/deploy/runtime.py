"""What the process does once for all computing: one OpenVINO runtime, and memory that is kept."""

from __future__ import annotations

import ctypes
import functools
import sys
from pathlib import Path
from typing import Any

SS_DISABLE = 2
# of malloc.h
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4


@functools.cache
def openvino_core() -> Any:
    """The one `openvino.Core` of this process.

    Every core gives its thread a stack for signals and takes it away when it is deleted, but puts back the stack of
    the core before it even where that is gone; the next signal (Ctrl-C, the end of a data worker) then crashes the
    process. A core that is never deleted cannot do that.
    """
    import openvino

    return openvino.Core()


def compile_exactly(
    model: Path | Any, outputs: tuple[str, ...], *, device: str = "CPU", hint: str = "", batch: int | None = None
) -> Any:
    """Compile an IR, or a model already read, for some of its outputs, computing floats in 32 bit.

    Processors with bf16 would otherwise compute in it, and answer otherwise than PyTorch does.

    Args:
        hint: `LATENCY` or `THROUGHPUT`.
        batch: fixes the batch size.

    Raises:
        RuntimeError: the file is damaged.
    """
    import openvino

    core = openvino_core()
    whole = core.read_model(model) if isinstance(model, Path) else model
    part = openvino.Model([whole.output(name).get_node() for name in outputs], whole.get_parameters(), "part")
    if batch is not None:
        part.reshape([batch, *list(part.input().partial_shape)[1:]])
    options = {"INFERENCE_PRECISION_HINT": "f32", **({"PERFORMANCE_HINT": hint} if hint else {})}
    return core.compile_model(part, device, options)


def keep_freed_memory() -> None:
    """Let this process keep the memory it frees, for its next large array.

    glibc hands arrays beyond 32 MB back to the system, which clears the pages again for each new one: a training step
    of large batches on a CPU then waits for that a third of its time. Elsewhere than with glibc nothing happens.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if set_option is not None:
        set_option(M_MMAP_MAX, 0)
        set_option(M_TRIM_THRESHOLD, -1)


class _Stack(ctypes.Structure):
    _fields_ = (("place", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


def drop_signal_stack() -> None:
    """Let this thread handle signals on its ordinary stack, whatever deleted cores have left (`openvino_core`)."""
    ctypes.CDLL(None).sigaltstack(ctypes.byref(_Stack(None, SS_DISABLE, 0)), None)
