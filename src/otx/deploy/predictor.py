"""Run a network, whatever file it is in: a model file (PyTorch), an IR (OpenVINO) or an ONNX file (ONNX Runtime)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from otx.deploy.card import ModelCard
from otx.deploy.modelfile import load_model, read_card
from otx.errors import ModelError, UsageError

Pixels = NDArray[np.uint8]
Logits = NDArray[np.float32]


class Predictor(Protocol):
    """A network that classifies decoded images."""

    card: ModelCard

    def logits(self, images: Sequence[Pixels]) -> Logits:
        """Logits (N, C) of N images (H, W, 3), red first, of any sizes."""


def load_predictor(path: Path, device: str = "auto") -> Predictor:
    """Load a model by the kind of its file.

    Args:
        device: `auto`, `cpu` or `gpu`.

    Raises:
        ModelError: the file cannot be used.
        UsageError: there is no such device.
    """
    if path.suffix == ".xml":
        return OpenVinoPredictor(path, device)
    if path.suffix == ".onnx":
        return OnnxPredictor(path, device)
    return TorchPredictor(path, device)


class TorchPredictor:
    """A model file or a checkpoint, run by PyTorch in float32."""

    def __init__(self, path: Path, device: str = "auto") -> None:
        network, self.card = load_model(path)
        import torch

        if device == "gpu" and not torch.cuda.is_available():
            raise UsageError("--engine.device gpu: torch sees no GPU on this machine", allowed=["auto", "cpu"])
        self._device = "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"
        self._network = network.to(self._device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def logits(self, images: Sequence[Pixels]) -> Logits:
        import torch

        batch = torch.from_numpy(self.card.preprocessing.normalise(_resized(self.card, images))).to(self._device)
        with torch.inference_mode():
            answer: Logits = self._network(batch.contiguous(memory_format=torch.channels_last)).float().cpu().numpy()
        return answer


class OpenVinoPredictor:
    """An IR, run by OpenVINO in the precision it was written in; torch is not imported."""

    def __init__(self, path: Path, device: str = "auto") -> None:
        self.card = read_card(path)
        import openvino

        core = openvino.Core()
        name = {"auto": "CPU", "cpu": "CPU", "gpu": "GPU"}[device]
        if name not in {item.split(".")[0] for item in core.available_devices}:
            raise UsageError(f"--engine.device {device}: OpenVINO sees no {name} here", allowed=core.available_devices)
        try:
            model = core.read_model(path)
            # processors with bf16 would otherwise compute in it, and answer otherwise than PyTorch does
            self._compiled = core.compile_model(model, name, {"INFERENCE_PRECISION_HINT": "f32"})
        except RuntimeError as error:
            raise ModelError(f"{path} is damaged: {_line(error)}", fix="export it again") from error
        self._embedded = model.inputs[0].get_element_type() == openvino.Type.u8

    def logits(self, images: Sequence[Pixels]) -> Logits:
        if self._embedded:
            return _by_size(self.card, images, self._run)
        return self._run(self.card.preprocessing.normalise(_resized(self.card, images)))

    def _run(self, batch: NDArray[Any]) -> Logits:
        return np.asarray(self._compiled(batch)["logits"], np.float32)


class OnnxPredictor:
    """An ONNX file, run by ONNX Runtime; torch is not imported."""

    def __init__(self, path: Path, device: str = "auto") -> None:
        self.card = read_card(path)
        import onnxruntime

        available = onnxruntime.get_available_providers()
        if device == "gpu" and "CUDAExecutionProvider" not in available:
            raise UsageError("--engine.device gpu: this ONNX Runtime has no GPU", fix="pip install onnxruntime-gpu")
        providers = ["CPUExecutionProvider"] if device != "gpu" else ["CUDAExecutionProvider", "CPUExecutionProvider"]
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=providers)
        except Exception as error:  # ONNX Runtime's errors derive from Exception alone
            raise ModelError(f"{path} is damaged: {_line(error)}", fix="export it again") from error
        self._input = self._session.get_inputs()[0]

    def logits(self, images: Sequence[Pixels]) -> Logits:
        if self._input.type == "tensor(uint8)":
            return _by_size(self.card, images, self._run)
        return self._run(self.card.preprocessing.normalise(_resized(self.card, images)))

    def _run(self, batch: NDArray[Any]) -> Logits:
        return np.asarray(self._session.run(["logits"], {self._input.name: batch})[0], np.float32)


def _resized(card: ModelCard, images: Sequence[Pixels]) -> Pixels:
    return np.stack([card.preprocessing.resize(image) for image in images])


def _by_size(card: ModelCard, images: Sequence[Pixels], run: Any) -> Logits:
    """Run a graph that resizes itself: images of one size at a time, answers in the order given."""
    if card.input_color == "BGR":
        images = [image[:, :, ::-1] for image in images]
    groups: dict[tuple[int, ...], list[int]] = {}
    for index, image in enumerate(images):
        groups.setdefault(image.shape, []).append(index)
    answers: dict[int, Logits] = {}
    for indices in groups.values():
        answers |= zip(indices, run(np.stack([images[index] for index in indices])), strict=True)
    return np.stack([answers[index] for index in range(len(images))])


def _line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip()[:200] if lines else type(error).__name__
