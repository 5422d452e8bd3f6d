"""A model file loaded for batches of one size, by the runtime of its kind: PyTorch, OpenVINO or ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otx.errors import ModelError, UsageError, last_line
from otx.inference.runtime import openvino_core
from otx.limits import limit_onnx, limit_torch
from otx.memory import keep_freed_memory
from otx.model.card import ModelCard
from otx.model.modelfile import load_model, read_card

Batch = NDArray[Any]
AUTO = "auto"
PROVIDERS = {
    "CPU": ("CPU",),
    "GPU": ("CUDA", "ROCM", "MIGraphX", "Dml", "CoreML"),
    "NPU": ("QNN", "VitisAI", "CoreML"),
}
LIBRARIES = {".xml": "openvino", ".onnx": "onnxruntime"}
RUNTIMES = {"openvino": "OpenVINO", "onnxruntime": "ONNX Runtime", "torch": "PyTorch"}


@dataclass(frozen=True)
class Runner:
    """A network that is ready for batches (N, 3, H, W) float32, or (N, H, W, 3) uint8 if it is `embedded`.

    Args:
        infer: computes a batch, and returns when it is done.
        infer_all: computes batches, `requests` of them at a time.
        threads: threads that compute a batch; None if the runtime does not say.
        computes_in: the type that floats are computed in.
    """

    card: ModelCard
    batch: int
    embedded: bool
    infer: Callable[[Batch], object]
    infer_all: Callable[[Iterable[Batch]], None]
    requests: int
    threads: int | None
    device: str
    computes_in: str

    def noise(self) -> Batch:
        """A batch of the network's own input size."""
        size, rng = self.card.preprocessing, np.random.default_rng(0)
        if self.embedded:
            return rng.integers(0, 256, (self.batch, size.height, size.width, 3), dtype=np.uint8)
        return rng.standard_normal((self.batch, 3, size.height, size.width), np.float32)


def load_runner(path: Path, device: str, batch: int, streams: str | None = None) -> Runner:
    """Load a file for batches of one size. All shapes are fixed: a quantised graph with a free one may crash OpenVINO.

    Args:
        device: as `check_device` takes it.
        streams: how many batches are computed in parallel, `auto` or a number; None: one at a time, with the lowest
            latency. Only OpenVINO has streams.

    Raises:
        ModelError: the file cannot be used.
        UsageError: it does not take batches of this size.
    """
    loaders = {"openvino": _openvino_runner, "onnxruntime": _onnx_runner, "torch": _torch_runner}
    return loaders[library_of(path)](path, device, batch, streams)


def library_of(path: Path) -> str:
    """The package that runs a file."""
    return LIBRARIES.get(path.suffix, "torch")


def runtime_of(path: Path) -> str:
    """The name and version of the runtime that runs a file."""
    library = library_of(path)
    return f"{RUNTIMES[library]} {version(library).split('+')[0].split('-')[0]}"


def weights_of(path: Path) -> str:
    """`FP32`, `FP16` or `INT8`: how a file stores its weights."""
    if library_of(path) == "onnxruntime":
        import onnx

        graph = onnx.load(str(path)).graph
        kinds = {node.op_type for node in graph.node} & {"QuantizeLinear"}
        halves = any(each.data_type == onnx.TensorProto.FLOAT16 for each in graph.initializer)
    elif library_of(path) == "openvino":
        operations = openvino_core().read_model(path).get_ordered_ops()
        kinds = {node.get_type_name() for node in operations} & {"FakeQuantize"}
        constants = (node for node in operations if node.get_type_name() == "Constant")
        halves = any(node.get_element_type().get_type_name() == "f16" for node in constants)
    else:
        return "FP32"
    return "INT8" if kinds else "FP16" if halves else "FP32"


def has_streams(path: Path) -> bool:
    return library_of(path) == "openvino"


def check_device(path: Path, device: str) -> None:
    """Raise UsageError if the runtime of a file does not see a device.

    Args:
        device: `CPU`, `GPU` or `NPU`; for an IR any name of OpenVINO's (`GPU.1`, `AUTO`), for an ONNX file the name of
            a provider of ONNX Runtime.
    """
    library = library_of(path)
    known = {"openvino": _openvino_devices, "onnxruntime": _onnx_devices, "torch": _torch_devices}[library]()
    if device.upper() not in map(str.upper, known):
        raise UsageError(
            f"--device {device}: {RUNTIMES[library]}, which runs {path.name}, does not see it on this machine",
            allowed=known,
        )


def _openvino_devices() -> list[str]:
    devices = openvino_core().available_devices
    return [*devices, *sorted({each.split(".")[0] for each in devices} - set(devices)), "AUTO"]


def _torch_devices() -> list[str]:
    import torch

    return ["CPU", "GPU"] if torch.cuda.is_available() else ["CPU"]


def _onnx_devices() -> list[str]:
    return [name for name in PROVIDERS if _provider(name)] + _providers()


def _providers() -> list[str]:
    """ONNX Runtime's providers on this machine; without "Azure", which sends images elsewhere."""
    import onnxruntime

    return [name for name in onnxruntime.get_available_providers() if not name.startswith("Azure")]


def _provider(device: str) -> str:
    """ONNX Runtime's provider for a device, or an empty text."""
    available = _providers()
    wanted = [f"{each}ExecutionProvider" for each in PROVIDERS.get(device.upper(), ())]
    exact = [name for name in available if name.upper() == device.upper()]
    return next(iter(exact or [name for name in wanted if name in available]), "")


def _torch_runner(path: Path, device: str, batch: int, streams: str | None) -> Runner:
    network, card = load_model(path)
    import torch

    on_gpu = device.upper() == "GPU"
    if not on_gpu:
        keep_freed_memory()
        limit_torch()
    place = torch.device("cuda" if on_gpu else "cpu")
    network = network.to(place, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def infer(images: Batch) -> object:
        with torch.inference_mode():
            on_device = torch.from_numpy(images).to(place).contiguous(memory_format=torch.channels_last)
            return network(on_device).cpu()

    return Runner(
        card=card,
        batch=batch,
        embedded=False,
        infer=infer,
        infer_all=_one_by_one(infer),
        requests=1,
        threads=None if on_gpu else torch.get_num_threads(),
        device=torch.cuda.get_device_name() if on_gpu else "CPU",
        computes_in="float32",
    )


def _onnx_runner(path: Path, device: str, batch: int, streams: str | None) -> Runner:
    card = read_card(path)
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    limit_onnx(options)
    provider = _provider(device)
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=[provider])
    except Exception as error:  # ONNX Runtime's errors derive from Exception alone
        raise ModelError(
            f"{path} cannot be loaded by ONNX Runtime: {last_line(error)}", fix="export it again"
        ) from error
    (entry,) = session.get_inputs()
    if isinstance(entry.shape[0], int) and entry.shape[0] != batch:
        raise UsageError(f"{path} takes batches of {entry.shape[0]} only, not of {batch}")

    def infer(images: Batch) -> object:
        return session.run(["logits"], {entry.name: images})

    return Runner(
        card=card,
        batch=batch,
        embedded=entry.type == "tensor(uint8)",
        infer=infer,
        infer_all=_one_by_one(infer),
        requests=1,
        threads=options.intra_op_num_threads or None,
        device=provider.removesuffix("ExecutionProvider"),
        computes_in="float32",
    )


def _one_by_one(infer: Callable[[Batch], object]) -> Callable[[Iterable[Batch]], None]:
    def infer_all(batches: Iterable[Batch]) -> None:
        for images in batches:
            infer(images)

    return infer_all


def _openvino_runner(path: Path, device: str, batch: int, streams: str | None) -> Runner:
    card = read_card(path)
    import openvino

    core = openvino_core()
    try:
        whole = core.read_model(path)
        model = openvino.Model([whole.output("logits").get_node()], whole.get_parameters(), "logits")
    except RuntimeError as error:
        raise ModelError(f"{path} is damaged: {last_line(error)}", fix="export it again") from error
    embedded = model.input().get_element_type() == openvino.Type.u8
    size = (card.preprocessing.height, card.preprocessing.width)
    try:
        model.reshape([batch, *size, 3] if embedded else [batch, 3, *size])
    except RuntimeError as error:
        raise UsageError(f"{path} takes no batches of {batch}: {last_line(error)}") from error
    compiled = core.compile_model(model, device.upper(), _openvino_options(device, streams))
    queue, request = openvino.AsyncInferQueue(compiled), compiled.create_infer_request()

    def infer_all(batches: Iterable[Batch]) -> None:
        for images in batches:
            # userdata keeps the images alive while they are computed
            queue.start_async([images], userdata=images, share_inputs=True)
        queue.wait_all()

    return Runner(
        card=card,
        batch=batch,
        embedded=embedded,
        infer=lambda images: request.infer([images], share_inputs=True),
        infer_all=infer_all,
        requests=len(queue),
        threads=_property(compiled, "INFERENCE_NUM_THREADS"),
        device=", ".join(compiled.get_property("EXECUTION_DEVICES")),
        computes_in=_property(compiled, "INFERENCE_PRECISION_HINT", _float_name) or "what the device chooses",
    )


def _openvino_options(device: str, streams: str | None) -> dict[str, Any]:
    kind = device.upper().split(".")[0]
    options: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY" if streams is None else "THROUGHPUT"}
    if kind in ("CPU", "GPU"):
        # processors with bf16 would compute in it, and differ from PyTorch; an NPU has no float32
        options["INFERENCE_PRECISION_HINT"] = "f32"
    if kind in ("CPU", "GPU", "NPU") and streams not in (None, AUTO):
        options["NUM_STREAMS"] = streams
    return options


def _float_name(kind: Any) -> str:
    """`float32` for OpenVINO's f32, `bfloat16` for its bf16."""
    names = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}
    return names.get(kind.get_type_name(), str(kind.get_type_name()))


def _property(compiled: Any, name: str, convert: Callable[[Any], Any] = int) -> Any:
    """A property of a compiled model; None if its device has no such property."""
    try:
        return convert(compiled.get_property(name))
    except (RuntimeError, TypeError, ValueError):
        return None
