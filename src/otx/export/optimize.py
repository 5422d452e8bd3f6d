"""Quantise a model to 8-bit integers with NNCF, and measure what that costs and gains."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otx.child import Watch, run_in_child
from otx.data.dataset import ImageSet, Split
from otx.data.decode import decode_image, ordered
from otx.data.preprocessing import Preprocessing
from otx.errors import DataError, ImageError, ModelError, UsageError, last_line
from otx.events import Progress, Reporter, heartbeat
from otx.export.export import export_staging
from otx.export.floats import left_in_floats
from otx.export.speed import measure_speed
from otx.files import write_json
from otx.inference.predictor import Pixels
from otx.inference.runtime import compile_exactly, fix_batch, only_core, openvino_core, part_of, save_ir
from otx.model.calibration import calibrate
from otx.model.card import CANNOT_TELL, ModelCard
from otx.model.checksum import add_checksum, move_into_place
from otx.model.metadata import model_info
from otx.model.modelfile import read_card
from otx.model.unknown import limit_of
from otx.results import OptimizeResult, Variant
from otx.signals import drop_signal_stack

NAME = "optimized_model"
NOTABLE_DROP = 0.02
BATCH = 32


@dataclass(frozen=True)
class NetworkInputs:
    """Labelled images as network input, decoded and resized again each time; undecodable images are left out."""

    images: ImageSet
    preprocessing: Preprocessing

    def __len__(self) -> int:
        return len(self.images)

    def __iter__(self) -> Iterator[tuple[NDArray[np.float32], int]]:
        """Network input (1, 3, H, W) and label."""
        for pixels, label in ordered(self._load, self.images.items()):
            if pixels is not None:
                yield self.preprocessing.normalise(pixels[None]), label

    def _load(self, item: tuple[str, int]) -> tuple[Pixels | None, int]:
        path, label = item
        try:
            pixels = decode_image(self.images.root / path, self.preprocessing.reading(self.images.max_pixels))
            return self.preprocessing.resize(pixels), label
        except ImageError:
            return None, label


@dataclass(frozen=True)
class Int8Request:
    """How an INT8 file is made.

    Args:
        calibration: the calibration set, images of the training split that give the ranges of the activations.
        validation: images that the accuracy is measured on.
        max_drop: how much validation accuracy may be lost (0 to 1); layers are turned back to floats until no more
            is lost. None: the drop is only measured.
        batch_size: the fixed batch size of the file; a free one crashes on processors with AMX
            (openvinotoolkit/openvino#37577).
    """

    calibration: NetworkInputs
    validation: NetworkInputs
    max_drop: float | None = None
    batch_size: int = 1


def optimize_model(
    variants: dict[str, Path], output_dir: Path, request: Int8Request, reporter: Reporter
) -> OptimizeResult:
    """Quantise an IR to INT8, measure it beside its other precisions, and move it into `output_dir`.

    Args:
        variants: IRs of the same model by precision; the first one is quantised, and the drop is measured against it.

    Raises:
        DataError: there is no image to calibrate on, or none to measure the accuracy on.
        RunError: OpenVINO or NNCF crashed, or the memory was full.
        UsageError: the folder cannot be written to.
    """
    num_calibration, num_validation = len(request.calibration), len(request.validation)
    if num_calibration == 0 or num_validation == 0:
        raise DataError("INT8 needs training images to calibrate with and validation images to judge it")
    for images, split in ((request.calibration, Split.TRAIN), (request.validation, Split.VAL)):
        if next(iter(images), None) is None:
            raise DataError(f"none of the {len(images)} images of the {split} can be decoded", fix="run `otx check`")
    reporter.note(f"Calibrating on {num_calibration} images of the training split.")
    with export_staging(output_dir) as staging:
        path = staging / f"{NAME}.xml"
        run_in_child(_write_int8, next(iter(variants.values())), path, request, reporter=reporter)
        measured = run_in_child(_measure, {**variants, "INT8": path}, request.validation, reporter=reporter)
        move_into_place(staging, output_dir, [f"{NAME}.bin", f"{NAME}.xml"])
    path = output_dir / f"{NAME}.xml"
    kept = [*measured[:-1], replace(measured[-1], path=path)]
    drop = kept[0].top1 - kept[-1].top1
    result = OptimizeResult(path, drop, request.max_drop, num_calibration, num_validation, tuple(kept))
    write_json(output_dir / f"{NAME}.json", result.to_dict())
    judge(result, reporter)
    return result


def judge(result: OptimizeResult, reporter: Reporter) -> None:
    """Warn if more accuracy was lost than allowed, or than the user would expect."""
    first = result.variants[0].precision
    lost = f"INT8 loses {result.drop:.4f} of the {first} accuracy on the validation images"
    if result.max_drop is not None and result.drop > result.max_drop:
        reporter.warn(f"{lost}, more than --max_drop {result.max_drop:g}: turning layers back could not make it less.")
    elif result.max_drop is None and result.drop > NOTABLE_DROP:
        reporter.warn(f"{lost}. --max_drop 0.01 turns layers back to floats until it loses no more than that.")


def _write_int8(watch: Watch, source: Path, path: Path, asked: Int8Request) -> None:
    """Quantise an IR; runs in a child process."""
    watch.step("quantising", source, "nncf", "openvino")
    model = openvino_core().read_model(source)
    fix_batch(model, 1)
    with _quiet_nncf(), only_core(), heartbeat(watch, "quantising"):
        small = _quantize(model, asked)
    with heartbeat(watch, "calibrating"):
        card = _calibrated(small, read_card(source), asked.validation)
    fix_batch(small, asked.batch_size)
    described = with_own_limit(card, small, asked.validation)
    if described.unknown_limit is None and card.unknown_limit is not None:
        watch.warn(f"{path.name} {CANNOT_TELL}: its scores of some validation images are not numbers.")
    _describe(small, described, {"preset": "mixed", "subset_size": len(asked.calibration), "max_drop": asked.max_drop})
    _save(small, path)


def _calibrated(model: Any, card: ModelCard, validation: NetworkInputs) -> ModelCard:
    """Calibrate a quantised graph anew, if its source was calibrated; returns its card."""
    if card.temperature is None:
        return card
    compiled = compile_exactly(model, ("logits",))
    answers = [(compiled(image)["logits"][0].copy(), label) for image, label in validation]
    logits = np.stack([logits for logits, _ in answers])
    if not np.isfinite(logits).all():
        return replace(card, temperature=None)
    found = calibrate(logits, np.asarray([label for _, label in answers]))
    if found.temperature != 1:
        _divide_logits(model, found.temperature)
    metrics = {"val/calibration_error_before": found.error_before, "val/calibration_error": found.error_after}
    return replace(card, temperature=card.temperature * found.temperature, metrics=card.metrics | metrics)


def _divide_logits(model: Any, temperature: float) -> None:
    """Divide the output `logits` by a temperature. The quantised weights have no values in between to fold it into."""
    from openvino import opset13

    result = model.output("logits").get_node()
    logits = result.input_value(0)
    scaled = opset13.multiply(logits, np.float32(1 / temperature)).output(0)
    logits.get_tensor().set_names(set())
    scaled.get_tensor().set_names({"logits"})
    result.input(0).replace_source_output(scaled)
    model.validate_nodes_and_infer_types()


def _quantize(model: Any, asked: Int8Request) -> Any:
    import nncf

    inputs = [image for image, _ in asked.calibration]
    options = {
        "preset": nncf.QuantizationPreset.MIXED,
        "subset_size": len(inputs),
        "ignored_scope": left_in_floats(model),
        "model_type": nncf.ModelType.TRANSFORMER if is_transformer(model) else None,
    }
    if asked.max_drop is None:
        return _compress(nncf.quantize(model, nncf.Dataset(inputs), **options))
    examples = list(asked.validation)
    small = nncf.quantize_with_accuracy_control(
        model,
        calibration_dataset=nncf.Dataset(inputs),
        validation_dataset=nncf.Dataset(examples),
        validation_fn=_hits,
        max_drop=asked.max_drop,
        drop_type=nncf.DropType.ABSOLUTE,
        **options,
    )
    packed = _compress(small.clone())
    accuracy = [_hits(compile_exactly(each, ("logits",)), examples)[0] for each in (model, packed)]
    return packed if accuracy[0] - accuracy[1] <= asked.max_drop else small


def _compress(model: Any) -> Any:
    """Store the weights that are still floats (NNCF skips squeeze-excite) in 8 bits; they still compute in floats."""
    import nncf

    return nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_SYM, ignored_scope=left_in_floats(model))


def with_own_limit(card: ModelCard, model: Any, validation: Iterable[tuple[NDArray[np.float32], int]]) -> ModelCard:
    """A card with the limit of the unknown score that a model's own scores of the validation images give.

    Quantising moves the features, and with them the scores of known images. No limit if they are not numbers.
    """
    if card.unknown_limit is None:
        return card
    compiled = compile_exactly(model, ("unknown_score",), batch=1)
    scores = np.array([compiled(image)["unknown_score"].item() for image, _ in validation])
    limit = limit_of(scores, card.recipe["training"]["known_share"])
    return replace(card, unknown_limit=limit if math.isfinite(limit) else None)


def _hits(model: Any, examples: Iterable[tuple[NDArray[np.float32], int]]) -> tuple[float, list[float]]:
    """Top-1 accuracy, and for each image whether it was right."""
    right = [float(model(image)["logits"].argmax() == label) for image, label in examples]
    return float(np.mean(right)), right


def is_transformer(model: Any) -> bool:
    # saliency maps have a softmax of their own
    network = part_of(model, ("logits",))
    return any(node.get_type_name() in ("ScaledDotProductAttention", "Softmax") for node in network.get_ordered_ops())


def precision_of(path: Path) -> str:
    """`FP32`, `FP16` or `INT8`: the precision of an IR's weights.

    Raises:
        ModelError: it cannot be read.
        UsageError: its preprocessing is embedded, which must not be quantised.
    """
    try:
        model = openvino_core().read_model(path)
    except RuntimeError as error:
        raise ModelError(f"{path} is damaged: {last_line(error)}", fix="export it again") from error
    if model.inputs[0].get_element_type().get_type_name() == "u8":
        raise UsageError(f"{path} was exported with --preprocessing embedded", fix="export it without, then optimize")
    operations = model.get_ordered_ops()
    if any(node.get_type_name() == "FakeQuantize" for node in operations):
        return "INT8"
    constants = (node for node in operations if node.get_type_name() == "Constant")
    return "FP16" if any(node.get_element_type().get_type_name() == "f16" for node in constants) else "FP32"


def _describe(model: Any, card: ModelCard, settings: dict[str, Any]) -> None:
    info = model_info(card, embedded=False) | {"optimization_config": json.dumps(settings)}
    for key, value in info.items():
        model.set_rt_info(value, ["model_info", key])


def _save(model: Any, path: Path) -> None:
    save_ir(model, path, half=True)
    # a third of the .xml is indentation, which matters beside weights this small
    path.write_text(re.sub(r">\s+<", "><", path.read_text(encoding="utf-8")), encoding="utf-8")
    add_checksum(path)


def halve(source: Path, path: Path) -> Path:
    """Write an IR with weights of 16 bits."""
    save_ir(openvino_core().read_model(source), path, half=True)
    add_checksum(path)
    return path


def _measure(watch: Watch, files: dict[str, Path], validation: NetworkInputs) -> list[Variant]:
    """Accuracy, size and speed of IRs by precision; runs in a child process."""
    names = ", ".join(path.name for path in files.values())
    watch.step("measuring the accuracy of", names, "openvino")
    top1 = _accuracies(files, validation, watch)
    watch.step("measuring the speed of", names, "openvino")
    with heartbeat(watch, "measuring the speed"):
        speeds = measure_speed(files)
    return [
        Variant(
            precision=precision,
            path=path,
            top1=top1[precision],
            size_bytes=sum(path.with_suffix(suffix).stat().st_size for suffix in (".xml", ".bin")),
            latency_ms=speeds[precision].median_ms,
            latency_p95_ms=speeds[precision].p95_ms,
            images_per_second=speeds[precision].images_per_second,
        )
        for precision, path in files.items()
    ]


def _accuracies(files: dict[str, Path], validation: NetworkInputs, reporter: Reporter) -> dict[str, float]:
    """Top-1 accuracy of each file; each image is decoded once and runs through all files."""
    compiled = {precision: compile_exactly(path, ("logits",), batch=1) for precision, path in files.items()}
    right = dict.fromkeys(files, 0)
    for number, (image, label) in enumerate(validation, start=1):
        for precision, network in compiled.items():
            right[precision] += int(network(image)["logits"].argmax() == label)
        if number % BATCH == 0:
            reporter.progress(Progress("judging", number, len(validation)))
    return {precision: count / number for precision, count in right.items()}


@contextlib.contextmanager
def _quiet_nncf() -> Iterator[None]:
    """Silence the messages and progress bars of NNCF and its imports, which are for its developers."""
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    import nncf

    level = nncf.nncf_logger.level
    nncf.set_log_level(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        nncf.set_log_level(level)
        drop_signal_stack()
