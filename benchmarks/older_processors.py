"""A model's answers on simulated older processors: are the FP32 labels the same, and what is the accuracy of INT8?

    python benchmarks/older_processors.py RUN/model.safetensors

PyTorch and oneDNN (in OpenVINO and PyTorch) choose their instructions by the processor; `ATEN_CPU_CAPABILITY` and
`ONEDNN_MAX_CPU_ISA` make them use older ones. Processors before VNNI add products of 8-bit numbers in 16 bits, which
saturates for large weights; NNCF's overflow fix limits weights to half their range, in the first layer or in all of
them. Every file classifies the validation and test images of its run, in a process of its own.
"""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import nncf

from otx import Engine
from otx.data.dataset import ImageSet, pick_evenly
from otx.data.reading import MAX_PIXELS
from otx.export.optimize import NetworkInputs, _compress, _describe, _quiet_nncf, _save
from otx.inference.runtime import fix_batch, openvino_core
from otx.model.trained import TrainedModel

PROCESSORS = {
    "this one": {},
    "AVX-512 without VNNI": {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"},
    "AVX2": {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"},
    "before AVX2": {"ONEDNN_MAX_CPU_ISA": "SSE41", "ATEN_CPU_CAPABILITY": "default"},
}


def write_files(model: Path, folder: Path) -> Iterator[tuple[str, Path]]:
    """Each kind of file of one model."""
    yield "PyTorch", model
    engine = Engine(checkpoint=model, work_dir=folder / "work")
    yield "ONNX", engine.export(export_format="ONNX", output=folder).path
    ir = engine.export(output=folder).path
    yield "IR FP32", ir
    trained = TrainedModel.open(model)
    card, dataset = trained.card, trained.dataset(trained.own_data(MAX_PIXELS))
    chosen = pick_evenly(dataset.train, 300, trained.recipe.seed)
    photos = NetworkInputs(ImageSet(dataset.root, chosen, "training split", MAX_PIXELS), card.preprocessing)
    inputs = [image for image, _ in photos]
    for fix in (nncf.OverflowFix.DISABLE, nncf.OverflowFix.FIRST_LAYER, nncf.OverflowFix.ENABLE):
        network = openvino_core().read_model(ir)
        fix_batch(network, 1)
        options = nncf.AdvancedQuantizationParameters(overflow_fix=fix)
        with _quiet_nncf():
            small = nncf.quantize(
                network,
                nncf.Dataset(inputs),
                preset=nncf.QuantizationPreset.MIXED,
                subset_size=len(inputs),
                advanced_parameters=options,
            )
            small = _compress(small)
        _describe(small, card, {})
        path = folder / f"int8_{fix.value}.xml"
        _save(small, path)
        yield f"INT8, overflow fix: {fix.value}", path


def labels_of(file: Path, images: list[Path], environment: dict[str, str], folder: Path) -> list[str]:
    output = folder / "predictions.csv"
    command = [sys.executable, "-m", "otx", "predict", "--checkpoint", str(file), "--output", str(output)]
    subprocess.run([*command, *map(str, images)], env={**os.environ, **environment}, check=True, capture_output=True)
    with output.open(newline="", encoding="utf-8") as lines:
        labels = [row["label"] for row in csv.DictReader(lines)]
    output.unlink()
    return labels


def main(model: Path) -> None:
    trained = TrainedModel.open(model)
    card, dataset = trained.card, trained.dataset(trained.own_data(MAX_PIXELS))
    names = [*dataset.val.paths, *dataset.test.paths]
    images = [dataset.root / name for name in names]
    true = [card.classes[label] for label in (*dataset.val.labels, *dataset.test.labels)]
    print(f"{len(images)} images: accuracy, and labels other than PyTorch's on this processor", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        reference: list[str] = []
        for name, file in write_files(model, Path(scratch)):
            for processor, environment in PROCESSORS.items():
                labels = labels_of(file, images, environment, Path(scratch))
                reference = reference or labels
                right = sum(a == b for a, b in zip(labels, true, strict=True)) / len(true)
                other = sum(a != b for a, b in zip(labels, reference, strict=True))
                print(f"{name:28} {processor:22} {right:.4f} {other:4}", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
