"""Run a network from any kind of file: a model file (PyTorch), an IR (OpenVINO) or an ONNX file (ONNX Runtime)."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from otx.errors import ModelError, UsageError, last_line
from otx.inference.runtime import compile_exactly, compile_for_photos, openvino_core
from otx.limits import limit_onnx
from otx.memory import is_out_of_memory, keep_freed_memory
from otx.model.card import ModelCard
from otx.model.modelfile import load_known, load_model, read_card
from otx.networks.head import classifier_input

Pixels = NDArray[np.uint8]
Logits = NDArray[np.float32]
Maps = NDArray[np.float32]
Features = NDArray[np.float32]
Scores = NDArray[np.float32]
Run = Callable[[NDArray[Any]], list[NDArray[np.float32]]]
LOGITS = ("logits",)
EXPLANATION = ("logits", "saliency_map")
FEATURES = ("features",)
SCORED = ("logits", "unknown_score")
CLASSIFIERS = ("MatMul", "Convolution", "Gemm", "Conv")
# of images at once in a graph that resizes them itself, where they become floats of four times that
GRAPH_BYTES = 1 << 26
NO_MAPS = "export it again with --explain true, or give the model file: RUN/model.safetensors"


class Predictor(Protocol):
    """A network that classifies decoded images."""

    card: ModelCard

    def logits(self, images: Sequence[Pixels]) -> Logits:
        """Logits (N, C) of N RGB images (H, W, 3) of any sizes."""

    def features(self, images: Sequence[Pixels]) -> Features:
        """The classifier's input (N, D) for N RGB images (H, W, 3) of any sizes."""

    def scored(self, images: Sequence[Pixels]) -> tuple[Logits, Scores | None]:
        """Logits (N, C), and the unknown scores (N,); None if the model has no such score."""

    def features_and_scores(self, images: Sequence[Pixels]) -> tuple[Features, Scores | None]:
        """The classifier's input (N, D), and the unknown scores (N,); None if only PyTorch gives both."""

    def explain(self, images: Sequence[Pixels], algorithm: str = "auto") -> tuple[Logits, Maps]:
        """Logits (N, C), and a saliency map of every class (N, C, h, w), from 0 to 1.

        Raises:
            UsageError: the network or the file has no maps of this algorithm.
        """


def load_predictor(path: Path, device: str = "auto") -> Predictor:
    """Load a model with the runtime for its kind of file.

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
        self._known = load_known(path)
        import torch

        if device == "gpu" and not torch.cuda.is_available():
            raise UsageError("--engine.device gpu: torch sees no GPU on this machine", allowed=["auto", "cpu"])
        self._device = "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"
        if self._device == "cpu":
            keep_freed_memory()
        self._network = network.to(self._device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._explained: dict[str, Any] = {}
        self._most = sys.maxsize

    def logits(self, images: Sequence[Pixels]) -> Logits:
        return self._run(self._network, images)[0]

    def features(self, images: Sequence[Pixels]) -> Features:
        return self._run(self._classifier_input, images)[0]

    def scored(self, images: Sequence[Pixels]) -> tuple[Logits, Scores | None]:
        if self._known is None:
            return self.logits(images), None
        logits, features = self._run(self._logits_and_input, images)
        return logits, self._known.score(features, logits)

    def features_and_scores(self, images: Sequence[Pixels]) -> tuple[Features, Scores | None]:
        logits, features = self._run(self._logits_and_input, images)
        return features, None if self._known is None else self._known.score(features, logits)

    def _classifier_input(self, batch: Any) -> Any:
        return self._logits_and_input(batch)[1]

    def _logits_and_input(self, batch: Any) -> Any:
        with classifier_input(self._network) as entered:
            logits = self._network(batch)
        return logits, entered[0]

    def explain(self, images: Sequence[Pixels], algorithm: str = "auto") -> tuple[Logits, Maps]:
        if algorithm not in self._explained:
            from otx.inference.saliency import Explained

            self._explained[algorithm] = Explained(self._network, algorithm)
        logits, maps, _ = self._run(self._explained[algorithm], images)
        return logits, maps

    def _run(self, network: Any, images: Sequence[Pixels]) -> list[NDArray[np.float32]]:
        """The network's outputs for images: all at once, or as many at a time as there is memory for."""
        parts, done = [], 0
        while done < len(images):
            some = images[done : done + self._most]
            try:
                parts.append(self._run_batch(network, some))
                done += len(some)
            except RuntimeError as error:
                if not is_out_of_memory(error) or len(some) == 1:
                    raise
                self._most = len(some) // 2
        return [np.concatenate(each) for each in zip(*parts, strict=True)]

    def _run_batch(self, network: Any, images: Sequence[Pixels]) -> list[NDArray[np.float32]]:
        import torch

        batch = torch.from_numpy(self.card.preprocessing.normalise(_resized(self.card, images))).to(self._device)
        with torch.inference_mode():
            answer = network(batch.contiguous(memory_format=torch.channels_last))
        return [each.float().cpu().numpy() for each in (answer if isinstance(answer, tuple) else (answer,))]


class OpenVinoPredictor:
    """An IR, run by OpenVINO with floats in 32 bits; torch is not imported."""

    def __init__(self, path: Path, device: str = "auto") -> None:
        self.card = read_card(path)
        import openvino

        core = openvino_core()
        name = {"auto": "CPU", "cpu": "CPU", "gpu": "GPU"}[device]
        if name not in {item.split(".")[0] for item in core.available_devices}:
            raise UsageError(f"--engine.device {device}: OpenVINO sees no {name} here", allowed=core.available_devices)
        try:
            self._model, self._name = core.read_model(path), name
            self._embedded = self._model.inputs[0].get_element_type() == openvino.Type.u8
            self._answer = LOGITS if self.card.unknown_limit is None else SCORED
            self._compiled: dict[tuple[str, ...], Any] = {self._answer: self._compile(self._answer)}
        except RuntimeError as error:
            raise ModelError(f"{path} is damaged: {last_line(error)}", fix="export it again") from error

    def logits(self, images: Sequence[Pixels]) -> Logits:
        return self.scored(images)[0]

    def features(self, images: Sequence[Pixels]) -> Features:
        if FEATURES not in self._compiled:
            node = self._model.output(LOGITS[0]).get_node()
            while node.get_type_name() not in CLASSIFIERS:
                node = node.input_value(0).get_node()
            (output,) = self._model.add_outputs([node.input_value(0)])
            output.get_tensor().add_names(set(FEATURES))
        return _flat(self._run(images, FEATURES)[0])

    def features_and_scores(self, images: Sequence[Pixels]) -> tuple[Features, Scores | None]:
        return self.features(images), None

    def scored(self, images: Sequence[Pixels]) -> tuple[Logits, Scores | None]:
        logits, *scores = self._run(images, self._answer)
        return logits, scores[0] if scores else None

    def explain(self, images: Sequence[Pixels], algorithm: str = "auto") -> tuple[Logits, Maps]:
        _check_maps(self.card, algorithm)
        logits, maps = self._run(images, EXPLANATION)
        return logits, maps

    def _run(self, images: Sequence[Pixels], names: tuple[str, ...]) -> list[NDArray[np.float32]]:
        if names not in self._compiled:
            self._compiled[names] = self._compile(names)
        compiled = self._compiled[names]

        def run(batch: NDArray[Any]) -> list[NDArray[np.float32]]:
            answer = compiled(batch)
            return [np.asarray(answer[name], np.float32) for name in names]

        if self._embedded:
            return _run_graph(images, run, is_bgr=self.card.input_color == "BGR")
        return [np.concatenate(each) for each in zip(*(run(image[None]) for image in images), strict=True)]

    def _compile(self, names: tuple[str, ...]) -> Any:
        if self._embedded:
            return compile_exactly(self._model, names, device=self._name)
        return compile_for_photos(self._model, names, self.card.preprocessing, device=self._name)


class OnnxPredictor:
    """An ONNX file, run by ONNX Runtime; torch is not imported."""

    def __init__(self, path: Path, device: str = "auto") -> None:
        self.card = read_card(path)
        import onnxruntime

        available = onnxruntime.get_available_providers()
        if device == "gpu" and "CUDAExecutionProvider" not in available:
            raise UsageError("--engine.device gpu: this ONNX Runtime has no GPU", fix="pip install onnxruntime-gpu")
        self._providers = (
            ["CPUExecutionProvider"] if device != "gpu" else ["CUDAExecutionProvider", "CPUExecutionProvider"]
        )
        self._path, self._features = path, ""
        self._session = self._open(str(path))
        self._input = self._session.get_inputs()[0]

    def _open(self, model: str | bytes) -> Any:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        limit_onnx(options)
        try:
            return onnxruntime.InferenceSession(model, options, providers=self._providers)
        except Exception as error:  # ONNX Runtime's errors derive from Exception alone
            raise ModelError(f"{self._path} is damaged: {last_line(error)}", fix="export it again") from error

    def logits(self, images: Sequence[Pixels]) -> Logits:
        return self._run(images, LOGITS)[0]

    def features(self, images: Sequence[Pixels]) -> Features:
        if not self._features:
            import onnx

            model = onnx.load(str(self._path))
            makers = {name: node for node in model.graph.node for name in node.output}
            node = makers[LOGITS[0]]
            while node.op_type not in CLASSIFIERS:
                node = makers[node.input[0]]
            self._features = node.input[0]
            model.graph.output.append(onnx.helper.make_empty_tensor_value_info(self._features))
            self._session = self._open(model.SerializeToString())
        return _flat(self._run(images, (self._features,))[0])

    def features_and_scores(self, images: Sequence[Pixels]) -> tuple[Features, Scores | None]:
        return self.features(images), None

    def scored(self, images: Sequence[Pixels]) -> tuple[Logits, Scores | None]:
        if self.card.unknown_limit is None:
            return self.logits(images), None
        logits, scores = self._run(images, SCORED)
        return logits, scores

    def explain(self, images: Sequence[Pixels], algorithm: str = "auto") -> tuple[Logits, Maps]:
        _check_maps(self.card, algorithm)
        logits, maps = self._run(images, EXPLANATION)
        return logits, maps

    def _run(self, images: Sequence[Pixels], names: tuple[str, ...]) -> list[NDArray[np.float32]]:
        def run(batch: NDArray[Any]) -> list[NDArray[np.float32]]:
            return [np.asarray(each, np.float32) for each in self._session.run(names, {self._input.name: batch})]

        if self._input.type == "tensor(uint8)":
            return _run_graph(images, run, is_bgr=self.card.input_color == "BGR")
        return run(self.card.preprocessing.normalise(_resized(self.card, images)))


def _flat(features: Features) -> Features:
    return features.reshape(len(features), -1)


def _resized(card: ModelCard, images: Sequence[Pixels]) -> Pixels:
    return np.stack([card.preprocessing.resize(image) for image in images])


def _check_maps(card: ModelCard, algorithm: str) -> None:
    if not card.explain:
        raise UsageError("this exported file gives no saliency maps", fix=NO_MAPS)
    if algorithm not in ("auto", card.explain):
        raise UsageError(f"this exported file gives maps of {card.explain}, not of {algorithm}", fix=NO_MAPS)


def _run_graph(images: Sequence[Pixels], run: Run, *, is_bgr: bool) -> list[NDArray[np.float32]]:
    """Run a graph that resizes its input itself, on images of one size at a time."""
    if is_bgr:
        images = [image[:, :, ::-1] for image in images]
    groups: dict[tuple[int, ...], list[int]] = {}
    for index, image in enumerate(images):
        groups.setdefault(image.shape, []).append(index)
    answers: dict[int, tuple[NDArray[np.float32], ...]] = {}
    for indices in groups.values():
        step = max(1, GRAPH_BYTES // images[indices[0]].nbytes)
        for some in (indices[start : start + step] for start in range(0, len(indices), step)):
            outputs = run(np.stack([images[index] for index in some]))
            answers |= zip(some, zip(*outputs, strict=True), strict=True)
    return [np.stack(each) for each in zip(*(answers[index] for index in range(len(images))), strict=True)]
