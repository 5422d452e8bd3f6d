"""Exported files give the model's answers, in otx and in openvino-model-api."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import compile_spy
from otx import Engine
from otx.data.dataset import DataRequest
from otx.errors import ExportError, RunError, UsageError
from otx.events import SilentReporter
from otx.inference.predictor import load_predictor
from otx.model.modelfile import read_card
from otx.model.trained import TrainedModel
from otx.workspace import latest_run

CLASSES = ["blue tit", "cat", "ähre"]
# openvino-model-api does not support spaces in labels
MODELAPI_LABELS = ["blue_tit", "cat", "ähre"]
VARIANTS = [
    ("OPENVINO", "FP32", "modelapi"),
    ("OPENVINO", "FP16", "modelapi"),
    ("OPENVINO", "FP32", "embedded"),
    ("ONNX", "FP32", "modelapi"),
    ("ONNX", "FP16", "modelapi"),
    ("ONNX", "FP32", "embedded"),
]


@pytest.fixture(scope="module")
def model(trained: Engine) -> Path:
    return latest_run(trained.work_dir).model


@pytest.fixture(scope="module")
def exported(trained: Engine, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str, str], Any]:
    folder = tmp_path_factory.mktemp("exported")
    return {
        variant: trained.export(
            export_format=variant[0], export_precision=variant[1], preprocessing=variant[2], output=folder
        )
        for variant in VARIANTS
    }


@pytest.mark.parametrize("variant", VARIANTS, ids="-".join)
def test_an_export_gives_the_models_logits_for_any_batch(
    variant: tuple[str, str, str], exported: dict[Any, Any], model: Path, pictures: list[np.ndarray]
) -> None:
    result = exported[variant]
    assert result.num_checked > 10
    assert result.max_difference <= result.tolerance
    predictor, reference = load_predictor(result.path), load_predictor(model)
    if variant[2] == "embedded":
        pictures = [reference.card.preprocessing.resize(picture) for picture in pictures]
    for batch in (pictures, pictures[:1]):
        np.testing.assert_allclose(predictor.logits(batch), reference.logits(batch), atol=result.tolerance)


@pytest.mark.parametrize("variant", VARIANTS, ids="-".join)
def test_an_export_carries_its_card(variant: tuple[str, str, str], exported: dict[Any, Any], model: Path) -> None:
    card = read_card(model)
    # no ONNX file has the unknown score
    expected = card if variant[0] == "OPENVINO" else replace(card, unknown_limit=None)
    assert read_card(exported[variant].path) == expected


def test_a_half_precision_file_is_half_as_large(exported: dict[Any, Any]) -> None:
    for kind in ("OPENVINO", "ONNX"):
        sizes = [exported[(kind, precision, "modelapi")].size_bytes for precision in ("FP32", "FP16")]
        assert sizes[1] < 0.6 * sizes[0]


def test_the_ir_carries_every_key_of_modelapi(exported: dict[Any, Any]) -> None:
    tree = ElementTree.parse(exported[VARIANTS[0]].path)
    info = {item.tag: item.get("value") for item in tree.iterfind("rt_info/model_info/*")}
    label_info = json.loads(info.pop("label_info") or "")
    assert label_info == {"label_names": CLASSES, "label_ids": ["0", "1", "2"], "label_groups": [CLASSES]}
    assert info.pop("otx")
    assert info.pop("otx_seal")
    assert float(info.pop("unknown_limit") or "") == pytest.approx(
        load_predictor(exported[VARIANTS[0]].path).card.unknown_limit
    )
    assert info == {
        "model_type": "Classification",
        "model_name": "mobilenetv3_small_100",
        "task_type": "classification",
        "labels": " ".join(MODELAPI_LABELS),
        "label_ids": "0 1 2",
        "multilabel": "False",
        "hierarchical": "False",
        "output_raw_scores": "True",
        "mean_values": "123.675 116.28 103.53",
        "scale_values": "58.395 57.12 57.375",
        "resize_type": "standard",
        "pad_value": "0",
        "reverse_input_channels": "False",
        "optimization_config": "{}",
    }


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("variant", [VARIANTS[0], VARIANTS[1], VARIANTS[2]], ids="-".join)
def test_modelapi_reads_the_ir_and_gives_the_same_labels(
    variant: tuple[str, str, str], exported: dict[Any, Any], pictures: list[np.ndarray]
) -> None:
    from model_api.models import ClassificationModel

    theirs = ClassificationModel.create_model(str(exported[variant].path), device="CPU")
    ours = load_predictor(exported[variant].path)
    for picture in pictures:
        expected = MODELAPI_LABELS[int(ours.logits([picture]).argmax())]
        assert theirs(picture).top_labels[0].name == expected


@pytest.mark.filterwarnings("ignore")
def test_modelapi_reads_the_onnx_file_with_its_onnx_adapter(
    exported: dict[Any, Any], pictures: list[np.ndarray]
) -> None:
    from model_api.adapters import ONNXRuntimeAdapter
    from model_api.models import ClassificationModel

    path = exported[("ONNX", "FP32", "modelapi")].path
    theirs = ClassificationModel.create_model(ONNXRuntimeAdapter(str(path)))
    ours = load_predictor(path)
    for picture in pictures:
        expected = MODELAPI_LABELS[int(ours.logits([picture]).argmax())]
        assert theirs(picture).top_labels[0].name == expected


@pytest.mark.parametrize("kind", ["OPENVINO", "ONNX"])
def test_an_embedded_graph_takes_blue_first_when_asked(
    kind: str, trained: Engine, exported: dict[Any, Any], tmp_path: Path, pictures: list[np.ndarray]
) -> None:
    path = trained.export(export_format=kind, preprocessing="embedded", input_color="BGR", output=tmp_path).path
    assert read_card(path).input_color == "BGR"
    expected = load_predictor(exported[(kind, "FP32", "embedded")].path).logits(pictures)
    np.testing.assert_allclose(load_predictor(path).logits(pictures), expected, atol=1e-3)


def test_a_checkpoint_can_be_exported(trained: Engine, tmp_path: Path) -> None:
    checkpoint = next(latest_run(trained.work_dir).checkpoints.glob("epoch_*.ckpt"))
    assert trained.export(checkpoint=checkpoint, output=tmp_path).path == tmp_path / "exported_model.xml"


def test_an_export_that_differs_is_not_kept(trained: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # no real export of these networks fails; a tolerance below rounding shows that the check can
    monkeypatch.setattr("otx.export.export.TOLERANCES", {"FP32": 0.0, "FP16": 1e-9})
    (tmp_path / "exported_model_fp16.xml").write_text("the old one")
    with pytest.raises(ExportError, match="is not kept: a logit differs by"):
        trained.export(export_precision="FP16", output=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["exported_model_fp16.xml"]
    assert (tmp_path / "exported_model_fp16.xml").read_text() == "the old one"


def test_a_crash_of_the_check_is_said_and_nothing_is_kept(
    trained: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spy, output = tmp_path / "spy", tmp_path / "exported"
    spy.mkdir()
    for name, value in compile_spy.environment(spy, crash="Convolution").items():
        monkeypatch.setenv(name, value)
    with pytest.raises(RunError, match=r"^openvino 20[\d.]+ crashed \(SIGSEGV\) when checking the answers of .*\.xml"):
        trained.export(output=output)
    assert list(output.iterdir()) == []


@pytest.mark.parametrize(("torch", "onednn"), [("default", "SSE41"), ("avx2", "AVX2")])
def test_older_processors_give_the_same_answers(
    torch: str, onednn: str, files: Path, pictures: list[np.ndarray], tmp_path: Path
) -> None:
    """PyTorch and oneDNN are told to use older instructions, the closest that this processor gets to an older one."""
    names = ["model.safetensors", "exported_model.xml", "exported_model.onnx"]
    np.savez(tmp_path / "pictures.npz", *pictures)
    program = (
        "import sys, numpy; from pathlib import Path; from otx.inference.predictor import load_predictor\n"
        "pictures = list(numpy.load('pictures.npz').values())\n"
        "numpy.savez('answers.npz', *[load_predictor(Path(path), 'cpu').logits(pictures) for path in sys.argv[1:]])"
    )
    older = {**os.environ, "ATEN_CPU_CAPABILITY": torch, "ONEDNN_MAX_CPU_ISA": onednn}
    command = [sys.executable, "-c", program, *(files / name for name in names)]
    subprocess.run(command, cwd=tmp_path, env=older, timeout=100, check=True)
    for name, answer in zip(names, np.load(tmp_path / "answers.npz").values(), strict=True):
        here = load_predictor(files / name, "cpu").logits(pictures)
        np.testing.assert_allclose(answer, here, atol=1e-3 * max(1, float(np.abs(here).max())))
        np.testing.assert_array_equal(answer.argmax(axis=1), here.argmax(axis=1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"export_format": "TFLITE"}, "--export_format TFLITE"),
        ({"export_precision": "INT8"}, "--export_precision INT8"),
        ({"preprocessing": "none"}, "--preprocessing none"),
        ({"input_color": "CMYK"}, "--input_color CMYK"),
    ],
)
def test_a_wrong_option_lists_what_is_allowed(options: dict[str, Any], message: str, trained: Engine) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        trained.export(**options)
    assert len(caught.value.allowed) == 2


def test_an_exported_file_is_not_exported_again(trained: Engine, exported: dict[Any, Any]) -> None:
    with pytest.raises(UsageError, match=r"exported_model.xml is exported already"):
        trained.export(checkpoint=exported[VARIANTS[0]].path)


@pytest.mark.parametrize("variant", [VARIANTS[0], VARIANTS[3]], ids="-".join)
def test_a_prediction_with_an_exported_file_imports_no_torch(
    variant: tuple[str, str, str], exported: dict[Any, Any], photos: Path
) -> None:
    code = (
        "import sys; from otx.cli import main; "
        f"code = main(['predict', {str(photos / 'cat')!r}, '--checkpoint', {str(exported[variant].path)!r}]); "
        "heavy = {'torch', 'timm', 'lightning', 'torchvision', 'sklearn'} & set(sys.modules); "
        "sys.exit(code or (f'imported {heavy}' if heavy else 0))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr


def test_the_images_of_a_check_take_little_memory(trained: Engine, model: Path, tmp_path: Path) -> None:
    for number, side in enumerate((90, 70, 50)):
        folder = tmp_path / "photos" / ("blue tit", "cat", "ähre")[number]
        folder.mkdir(parents=True)
        Image.fromarray(np.full((side, side, 3), 7, np.uint8)).save(folder / "a.png")
    found = TrainedModel.open(model).sample_images(DataRequest(tmp_path / "photos", None, 10**6), SilentReporter())
    assert [image.shape[0] for image in found] == [90, 32, 32]
