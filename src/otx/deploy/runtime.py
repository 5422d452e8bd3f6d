"""OpenVINO's runtime, one for the process."""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import shutil
from pathlib import Path
from typing import Any

SS_DISABLE = 2
LITTLE = 1 << 20


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


def save_ir(model: Any, path: Path, *, half: bool) -> None:
    """Write an IR, its weights in 16 bit where `half`.

    Raises:
        OSError: it cannot be written; OpenVINO itself does not say why.
    """
    import openvino

    try:
        openvino.save_model(model, path, compress_to_fp16=half)
    except RuntimeError as error:
        number = errno.ENOSPC if shutil.disk_usage(path.parent).free < LITTLE else errno.EIO
        raise OSError(number, os.strerror(number), str(path)) from error


class _Stack(ctypes.Structure):
    _fields_ = (("place", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


def drop_signal_stack() -> None:
    """Let this thread handle signals on its ordinary stack, whatever deleted cores have left (`openvino_core`)."""
    ctypes.CDLL(None).sigaltstack(ctypes.byref(_Stack(None, SS_DISABLE, 0)), None)
