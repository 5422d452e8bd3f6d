"""What the process does once for all computing: one OpenVINO runtime, and memory that is kept."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from otx.data.preprocessing import Preprocessing
from otx.limits import openvino_options

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

    core = openvino.Core()
    if options := openvino_options():
        core.set_property("CPU", options)
    return core


@contextlib.contextmanager
def only_core() -> Iterator[None]:
    """Let libraries that make an `openvino.Core` of their own (NNCF) get the one of this process, and its threads."""
    import openvino

    core, made = openvino_core(), openvino.Core
    openvino.Core = lambda: core
    try:
        yield
    finally:
        openvino.Core = made


def compile_exactly(
    model: Path | Any,
    outputs: tuple[str, ...],
    *,
    device: str = "CPU",
    hint: str = "",
    batch: int | None = None,
    preprocessing: Preprocessing | None = None,
) -> Any:
    """Compile an IR, or a model already read, for some of its outputs, computing floats in 32 bit.

    Processors with bf16 would otherwise compute in it, and answer otherwise than PyTorch does.

    Args:
        hint: `LATENCY` or `THROUGHPUT`.
        batch: fixes the batch size.
        preprocessing: let the graph take one image (1, H, W, 3) uint8 of any size, and resize and normalise it itself,
            in the very operations that openvino-model-api adds: a quantised network turns a difference in the last bit
            of its input into one of a whole step, and so may answer otherwise where two classes are nearly even. For a
            free batch size, or for the parts as graphs of their own, OpenVINO rounds elsewhere.

    Raises:
        RuntimeError: the file is damaged.
    """
    import openvino

    core = openvino_core()
    whole = core.read_model(model) if isinstance(model, Path) else model.clone()
    part = openvino.Model([whole.output(name).get_node() for name in outputs], whole.get_parameters(), "part")
    if batch is not None:
        part.reshape([batch, *list(part.input().partial_shape)[1:]])
    if preprocessing is not None:
        part = _with_preprocessing(part, preprocessing)
    options = {"INFERENCE_PRECISION_HINT": "f32", **({"PERFORMANCE_HINT": hint} if hint else {})}
    return core.compile_model(part, device, options)


def _with_preprocessing(model: Any, preprocessing: Preprocessing) -> Any:
    import openvino
    from openvino import opset10
    from openvino.preprocess import PrePostProcessor
    from openvino.utils.decorators import custom_preprocess_function

    size, unused = [preprocessing.height, preprocessing.width], np.zeros(2, np.float32)

    @custom_preprocess_function  # type: ignore[untyped-decorator]
    def resize(image: Any) -> Any:
        return opset10.interpolate(
            image, size, scales=unused, axes=[1, 2], mode="linear", shape_calculation_mode="sizes"
        )

    steps = PrePostProcessor(model)
    pixels = steps.input()
    pixels.tensor().set_element_type(openvino.Type.u8).set_layout(openvino.Layout("NHWC")).set_shape([1, -1, -1, 3])
    pixels.model().set_layout(openvino.Layout("NCHW"))
    pixels.preprocess().custom(resize)
    pixels.preprocess().convert_element_type(openvino.Type.f32)
    pixels.preprocess().mean(list(preprocessing.mean)).scale(list(preprocessing.std))
    return steps.build()


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
