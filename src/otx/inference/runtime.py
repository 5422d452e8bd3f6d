"""OpenVINO: the one core of this process, compiling models, and writing IRs."""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otx.data.preprocessing import Letterbox, Preprocessing, centre
from otx.limits import openvino_options
from otx.recipe import CROP, LETTERBOX

LITTLE = 1 << 20
SMALL_INTEGERS = ("i8", "u8", "i4", "u4")


@functools.cache
def openvino_core() -> Any:
    """The one `openvino.Core` of this process.

    Every core gives its thread a signal stack. When it is deleted, it restores the stack of the core before it, even
    if that one is gone; the next signal (Ctrl-C, the end of a data worker) then crashes the process. A core that is
    never deleted cannot do that.
    """
    import openvino

    core = openvino.Core()
    if options := openvino_options():
        core.set_property("CPU", options)
    return core


@contextlib.contextmanager
def only_core() -> Iterator[None]:
    """Give libraries that make their own `openvino.Core` (NNCF) the one of this process, with its limit of threads."""
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
) -> Any:
    """Compile an IR, or a model already read, for some of its outputs, computing floats in 32 bits.

    Processors with bf16 would otherwise compute in it, and differ from PyTorch.

    Args:
        hint: `LATENCY` or `THROUGHPUT`.
        batch: fixes the batch size. A quantised model gets a batch of 1 if none is given: with a free dimension
            OpenVINO crashes on processors with AMX (openvinotoolkit/openvino#37577).

    Raises:
        RuntimeError: the file is damaged.
    """
    part = part_of(model, outputs)
    if batch is None and is_quantized(part):
        batch = 1
    if batch is not None:
        fix_batch(part, batch)
    return _compile(part, device, hint)


def compile_for_photos(
    model: Any, outputs: tuple[str, ...], preprocessing: Preprocessing, *, device: str = "CPU"
) -> Callable[[NDArray[np.uint8]], Any]:
    """A function of one image (1, H, W, 3) uint8 of any size, which OpenVINO also resizes and normalises.

    It does so with the same operations that openvino-model-api adds to the graph: a quantised network turns a
    difference in the last bit of its input into a whole step, and may then choose another class if two are nearly
    even. A quantised network is compiled apart from the resize, with fixed dimensions (see `compile_exactly`).

    Raises:
        RuntimeError: the file is damaged.
    """
    part = part_of(model, outputs)
    if preprocessing.resize_type == LETTERBOX:
        return _compile_letterbox(part, preprocessing, device)
    whole = _compile_standard(part, preprocessing, device)
    if preprocessing.resize_type == CROP:
        return lambda image: whole(centre(image[0])[None])
    return whole


def _compile_standard(part: Any, preprocessing: Preprocessing, device: str) -> Callable[[NDArray[np.uint8]], Any]:
    if not is_quantized(part):
        compiled: Callable[[NDArray[np.uint8]], Any] = _compile(_with_resize(part, preprocessing), device)
        return compiled
    fix_batch(part, 1)
    resize = _compile(_resize_alone(preprocessing), device)
    network = _compile(_with_normalisation(part, preprocessing), device)
    return lambda image: network(resize(image)[0])


def _compile_letterbox(part: Any, preprocessing: Preprocessing, device: str) -> Callable[[NDArray[np.uint8]], Any]:
    frame = preprocessing.size
    fix_batch(part, 1)
    resize = _compile(_resize_alone(preprocessing, is_free=True), device)
    network = _compile(_with_normalisation(part, preprocessing), device)

    def run(image: NDArray[np.uint8]) -> Any:
        place = Letterbox.fit(image.shape[1:3], frame)
        inner = resize([image, np.array([place.height, place.width], np.int64)])[0]
        return network(place.paste(inner[0], frame)[None])

    return run


def is_quantized(model: Any) -> bool:
    """Whether a model computes, or keeps weights, in integers of 8 bits or fewer."""
    return any(
        node.get_type_name() == "FakeQuantize"
        or (node.get_type_name() == "Constant" and node.get_element_type().get_type_name() in SMALL_INTEGERS)
        for node in model.get_ordered_ops()
    )


def fix_batch(model: Any, batch: int) -> None:
    """Fix the batch size of a model's only input, whether it was free or fixed before."""
    model.reshape([batch, *list(model.input().partial_shape)[1:]])


def part_of(model: Path | Any, outputs: tuple[str, ...]) -> Any:
    """A copy of a model, or of that in a file, with only what some of its outputs need."""
    import openvino

    whole = openvino_core().read_model(model) if isinstance(model, Path) else model.clone()
    return openvino.Model([whole.output(name).get_node() for name in outputs], whole.get_parameters(), "part")


def _compile(model: Any, device: str, hint: str = "") -> Any:
    options = {"INFERENCE_PRECISION_HINT": "f32", **({"PERFORMANCE_HINT": hint} if hint else {})}
    return openvino_core().compile_model(model, device, options)


def _with_resize(model: Any, preprocessing: Preprocessing) -> Any:
    import openvino
    from openvino.preprocess import PrePostProcessor
    from openvino.utils.decorators import custom_preprocess_function

    @custom_preprocess_function  # type: ignore[untyped-decorator]
    def resize(image: Any) -> Any:
        return _interpolate(image, preprocessing)

    steps = PrePostProcessor(model)
    pixels = steps.input()
    pixels.tensor().set_element_type(openvino.Type.u8).set_layout(openvino.Layout("NHWC")).set_shape([1, -1, -1, 3])
    pixels.model().set_layout(openvino.Layout("NCHW"))
    pixels.preprocess().custom(resize)
    pixels.preprocess().convert_element_type(openvino.Type.f32)
    pixels.preprocess().mean(list(preprocessing.mean)).scale(list(preprocessing.std))
    return steps.build()


def _resize_alone(preprocessing: Preprocessing, *, is_free: bool = False) -> Any:
    """A model that resizes (1, H, W, 3) uint8 of any size to (1, height, width, 3) float32.

    If `is_free`, height and width are a second input; otherwise they are the network's.
    It returns floats, since OpenVINO does not round the pixels in front of a network either, whatever their type says.
    """
    import openvino
    from openvino import opset10

    image = opset10.parameter(openvino.PartialShape([1, -1, -1, 3]), openvino.Type.u8)
    size = opset10.parameter([2], openvino.Type.i64)
    pixels = _interpolate(opset10.convert(image, "f32"), preprocessing, size if is_free else None)
    return openvino.Model([pixels], [image, size] if is_free else [image], "resize")


def _with_normalisation(model: Any, preprocessing: Preprocessing) -> Any:
    """A network for pixels (1, height, width, 3) float32: OpenVINO computes mean and scale with its first layer."""
    import openvino
    from openvino.preprocess import PrePostProcessor

    steps = PrePostProcessor(model)
    pixels = steps.input()
    pixels.tensor().set_layout(openvino.Layout("NHWC")).set_shape([1, preprocessing.height, preprocessing.width, 3])
    pixels.model().set_layout(openvino.Layout("NCHW"))
    pixels.preprocess().mean(list(preprocessing.mean)).scale(list(preprocessing.std))
    return steps.build()


def _interpolate(image: Any, preprocessing: Preprocessing, size: Any = None) -> Any:
    from openvino import opset10

    size, unused = list(preprocessing.size) if size is None else size, np.zeros(2, np.float32)
    return opset10.interpolate(image, size, scales=unused, axes=[1, 2], mode="linear", shape_calculation_mode="sizes")


def save_ir(model: Any, path: Path, *, half: bool) -> None:
    """Write an IR, with weights of 16 bits if `half`.

    Raises:
        OSError: it cannot be written; OpenVINO itself does not say why.
    """
    import openvino

    try:
        openvino.save_model(model, path, compress_to_fp16=half)
    except RuntimeError as error:
        number = errno.ENOSPC if shutil.disk_usage(path.parent).free < LITTLE else errno.EIO
        raise OSError(number, os.strerror(number), str(path)) from error
