"""Write a model as OpenVINO IR or ONNX file, and keep the file only if its outputs match the model's."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from otx.child import Watch, run_in_child
from otx.errors import ExportError, OtxError, UsageError
from otx.events import SilentReporter
from otx.files import staged_folder
from otx.inference.measure import Meter, Noise, measure_latency
from otx.inference.predictor import Logits, Pixels, Scores, load_predictor
from otx.inference.runtime import save_ir
from otx.model.card import ModelCard
from otx.model.checksum import UNFINISHED, add_checksum, move_into_place
from otx.model.metadata import model_info
from otx.model.modelfile import load_known, load_model
from otx.recipe import STANDARD
from otx.results import ExportResult

if TYPE_CHECKING:
    from torch import nn

TOLERANCES = {"FP32": 1e-3, "FP16": 1e-2}
# a score is a sum of squares of small differences
SCORE_FACTOR = 5
SUFFIXES = {"OPENVINO": (".xml", ".bin"), "ONNX": (".onnx",)}
OPSET = 18
LATENCY_SECONDS = 0.5


@dataclass(frozen=True)
class ExportRequest:
    """What to write: see the options of `Engine.export`. `explain` names an algorithm of saliency maps, or is empty."""

    export_format: str = "OPENVINO"
    export_precision: str = "FP32"
    preprocessing: str = "modelapi"
    input_color: str = "RGB"
    explain: str = ""

    @property
    def is_embedded(self) -> bool:
        return self.preprocessing == "embedded"

    @property
    def is_half(self) -> bool:
        return self.export_precision == "FP16"

    @property
    def name(self) -> str:
        """The name of the file, without its suffix."""
        return f"exported_model{'_embedded' if self.is_embedded else ''}{'_fp16' if self.is_half else ''}"


def export_model(checkpoint: Path, output_dir: Path, request: ExportRequest, images: Sequence[Pixels]) -> ExportResult:
    """Export a model file, compare it with PyTorch on `images` (H, W, 3), and move it into `output_dir`.

    The graph takes `image` and returns `logits` (N, C), N free. The image is float32 (N, 3, H, W) of the card's size,
    normalised; or with `preprocessing="embedded"` uint8 (N, H, W, 3) of any size, with the colours in the order
    `input_color`. With `explain`, the name of an algorithm of saliency.py, the graph also returns `saliency_map`
    (N, C, h, w) and `feature_vector` (N, D); and of a model that has it, `unknown_score` (N,).

    Raises:
        ExportError: a logit differs by more than 1e-3 (FP32) or 1e-2 (FP16), or by more than this share of the
            largest logit if that is above 1; an unknown score by five times that; or an image gets another label.
        RunError: OpenVINO or ONNX Runtime crashed on the file.
        UsageError: the graph cannot resize as the training did.
    """
    try:
        return _export(checkpoint, output_dir, request, images, is_scored=request.export_format != "ONNX")
    except ScoreError:
        return _export(checkpoint, output_dir, request, images, is_scored=False)


class ScoreError(ExportError):
    """The unknown score of an exported file is not that of its model: its numbers are too close to each other."""


def _export(
    checkpoint: Path, output_dir: Path, request: ExportRequest, images: Sequence[Pixels], *, is_scored: bool
) -> ExportResult:
    """Write and check a file, with the unknown score or without it.

    openvino-model-api's adapter for ONNX Runtime cannot read the graph of the score, so an ONNX file has none.
    """
    network, card = _with_outputs(checkpoint, request, is_scored=is_scored)
    suffixes = SUFFIXES[request.export_format]
    with export_staging(output_dir) as staging:
        file = staging / f"{request.name}{suffixes[0]}"
        module, example = _module(network, card, embedded=request.is_embedded)
        write = _write_openvino if request.export_format == "OPENVINO" else _write_onnx
        write(module, example, file, card, embedded=request.is_embedded, half=request.is_half)
        checked = _check(checkpoint, file, images, TOLERANCES[request.export_precision])
        move_into_place(staging, output_dir, [f"{request.name}{suffix}" for suffix in reversed(suffixes)])
    written = [output_dir / f"{request.name}{suffix}" for suffix in suffixes]
    return ExportResult(
        path=written[0],
        export_format=request.export_format,
        export_precision=request.export_precision,
        preprocessing=request.preprocessing,
        max_difference=checked.difference,
        tolerance=checked.tolerance,
        num_checked=len(images),
        size_bytes=sum(path.stat().st_size for path in written),
        latency_ms=checked.latency_ms,
    )


@dataclass(frozen=True)
class _Checked:
    """The largest difference of a logit from PyTorch's, the allowed one, and how long the file takes for an image."""

    difference: float
    tolerance: float
    latency_ms: float | None


def _with_outputs(checkpoint: Path, request: ExportRequest, *, is_scored: bool) -> tuple[nn.Module, ModelCard]:
    """The network with all outputs of its graph, and its card.

    Raises:
        UsageError: the graph cannot resize as the training did.
    """
    network, card = load_model(checkpoint)
    if request.is_embedded and card.preprocessing.resize_type != STANDARD:
        raise UsageError(
            f"--preprocessing embedded: a graph with a resize of its own changes the aspect ratio, and this model was "
            f"trained with --data.resize {card.preprocessing.resize_type}",
            fix="leave --preprocessing out: openvino-model-api then resizes as the training did",
        )
    card = replace(card, input_color=request.input_color if request.is_embedded else "RGB")
    if request.explain:
        network, card = _explained(network, card, request.explain)
    known = load_known(checkpoint)
    if known is None or card.unknown_limit is None or not is_scored:
        return network, replace(card, unknown_limit=None)
    from otx.inference.scored import Scored

    return Scored(network, known), card


def export_staging(output_dir: Path) -> AbstractContextManager[Path]:
    """A staging folder; if the process is killed between the two files of an IR, `checksum` finds the other here."""
    return staged_folder(output_dir, f"to {output_dir}", prefix=UNFINISHED, fix="choose another --output")


def _explained(network: nn.Module, card: ModelCard, algorithm: str) -> tuple[nn.Module, ModelCard]:
    import torch

    from otx.inference.saliency import Explained

    explained = Explained(network, algorithm)
    with torch.inference_mode():
        # a network without maps fails here with its own message, which OpenVINO would hide in other errors
        explained(torch.zeros(1, 3, card.preprocessing.height, card.preprocessing.width))
    return explained, replace(card, explain=explained.algorithm)


def outputs_of(card: ModelCard) -> list[str]:
    """The names of an exported graph's outputs; openvino-model-api reads all but `unknown_score`."""
    scores = [] if card.unknown_limit is None else ["unknown_score"]
    return ["logits", *(["saliency_map", "feature_vector"] if card.explain else []), *scores]


def _module(network: nn.Module, card: ModelCard, *, embedded: bool) -> tuple[nn.Module, Any]:
    """The module to export and an example of its input."""
    import torch

    size = card.preprocessing
    if not embedded:
        return network, torch.zeros(2, 3, size.height, size.width)
    from otx.export.embedded import Embedded

    return Embedded(network, size, card.input_color), torch.zeros(
        2, size.height + 9, size.width + 5, 3, dtype=torch.uint8
    )


def _write_openvino(
    module: nn.Module, example: Any, file: Path, card: ModelCard, *, embedded: bool, half: bool
) -> None:
    import openvino

    shape = [-1, -1, -1, 3] if embedded else [-1, *example.shape[1:]]
    kind = openvino.Type.u8 if embedded else openvino.Type.f32
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = openvino.convert_model(module, example_input=example, input=(openvino.PartialShape(shape), kind))
    model.inputs[0].set_names({"image"})
    for port, name in zip(model.outputs, outputs_of(card), strict=True):
        port.set_names({name})
    layout = openvino.Layout("NHWC" if embedded else "NCHW")
    openvino.layout_helpers.set_layout(model.inputs[0], layout)
    for key, value in model_info(card, embedded=embedded).items():
        model.set_rt_info(value, ["model_info", key])
    save_ir(model, file, half=half)
    add_checksum(file)


def _write_onnx(module: nn.Module, example: Any, file: Path, card: ModelCard, *, embedded: bool, half: bool) -> None:
    import onnx
    import torch

    free = {0: "batch", 1: "height", 2: "width"} if embedded else {0: "batch"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # the newer exporter (dynamo=True) needs one more package and gives the same graph for these networks
        torch.onnx.export(
            module,
            (example,),
            str(file),
            input_names=["image"],
            output_names=outputs_of(card),
            dynamic_axes={"image": free, **{name: {0: "batch"} for name in outputs_of(card)}},
            opset_version=OPSET,
            dynamo=False,
        )
    model = onnx.load(str(file))
    if half:
        _halve_weights(model.graph)
    del model.metadata_props[:]
    for key, value in model_info(card, embedded=embedded).items():
        model.metadata_props.add(key=f"model_info {key}", value=value)
    onnx.save(model, str(file))
    add_checksum(file)


def _halve_weights(graph: Any) -> None:
    """Store the weights of an ONNX graph in 16 bit, as `openvino.save_model` does; it still computes in 32 bit.

    onnxruntime's own converter makes the arithmetic 16-bit too, which is no more exact, and slower on a CPU, which has
    to convert every value there and back.
    """
    from onnx import TensorProto, helper, numpy_helper

    casts = []
    for tensor in graph.initializer:
        values = numpy_helper.to_array(tensor)
        # biases are small, and what 16 bit cannot hold stays as it is
        if (
            tensor.data_type == TensorProto.FLOAT
            and values.ndim > 1
            and np.abs(values).max() < np.finfo(np.float16).max
        ):
            name = f"{tensor.name}_fp16"
            casts.append(helper.make_node("Cast", [name], [tensor.name], to=TensorProto.FLOAT))
            tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), name))
    for number, cast in enumerate(casts):
        graph.node.insert(number, cast)


def _check(checkpoint: Path, file: Path, images: Sequence[Pixels], tolerance: float) -> _Checked:
    """Compare a file with its model, and time it."""
    reference = load_predictor(checkpoint, "cpu")
    # graphs round resized pixels in different ways; at the network's input size they must agree to the tolerance
    images = [reference.card.preprocessing.resize(image) for image in images]
    expected, scores = reference.scored(images)
    answers: list[tuple[Logits, Scores | None]]
    answers, latency = run_in_child(_answers, file, images, reporter=SilentReporter())
    difference = max(_difference(logits, expected) for logits, _ in answers)
    # rounding errors grow with the values
    tolerance *= max(1.0, float(np.abs(expected).max()))
    if not difference <= tolerance:
        raise ExportError(
            f"the exported file is not kept: a logit differs by {difference:.3g}, allowed {tolerance:g}",
            fix="--export_precision FP32 is closer to the model than FP16; if that fails too, please report it",
        )
    if not np.array_equal(answers[0][0].argmax(axis=1), expected.argmax(axis=1)):
        raise ExportError("the exported file is not kept: it gives an image another label than the model")
    found = [scores for _, scores in answers if scores is not None]
    if found and scores is not None:
        _check_scores(scores, found, SCORE_FACTOR * tolerance)
    return _Checked(difference, tolerance, latency)


def _check_scores(expected: Scores, answers: Sequence[Scores], tolerance: float) -> None:
    """Raise ScoreError if an unknown score differs by more than is allowed."""
    difference = max(_difference(found, expected) for found in answers)
    if not difference <= tolerance * max(1.0, float(np.abs(expected).max())):
        raise ScoreError(
            f"the exported file is not kept: an unknown score differs by {difference:.3g}, allowed {tolerance:g}",
            fix="--export_precision FP32 is closer to the model than FP16; if that fails too, please report it",
        )


def _answers(
    watch: Watch, file: Path, images: Sequence[Pixels]
) -> tuple[list[tuple[Logits, Scores | None]], float | None]:
    """The logits and the unknown scores of images together, and of the first four one by one; and the latency in ms."""
    watch.step("checking the answers of", file, "onnxruntime" if file.suffix == ".onnx" else "openvino")
    exported = load_predictor(file, "cpu")
    logits, scores = zip(*(exported.scored([image]) for image in images[:4]), strict=True)
    one_by_one = np.concatenate(logits), None if scores[0] is None else np.concatenate(scores)
    return [exported.scored(images), one_by_one], _latency(file)


def _latency(file: Path) -> float | None:
    """The median time of one image, in milliseconds; None if the file cannot be measured so."""
    try:
        return measure_latency({"": file}, Meter("CPU", Noise, LATENCY_SECONDS, lambda number: None))[""].median_ms
    except OtxError:
        return None


def _difference(answer: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    return float(np.abs(answer - expected[: len(answer)]).max())
