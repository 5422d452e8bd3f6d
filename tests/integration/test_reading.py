"""Deep images, bands and resizes go through every verb alike, and openvino-model-api sees the same."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from model_api.adapters import ONNXRuntimeAdapter
from model_api.models import ClassificationModel
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_sample_images

from conftest import SMALL, Recorder
from otx import Engine
from otx.data.decode import decode_image
from otx.data.reading import Reading
from otx.errors import DataError, RecipeError, UsageError
from otx.inference.classify import softmax
from otx.inference.predictor import load_predictor
from otx.model.modelfile import read_card
from otx.workspace import latest_run

TWELVE_BITS = (0.0, 4095.0)
SIDE = 60


def crops(count: int = 24) -> list[tuple[str, NDArray[np.uint8]]]:
    """Crops (60, 90, 3) of scikit-learn's two photos, with the name of the photo."""
    places = [(y, x) for y in range(0, 360, SIDE) for x in range(0, 540, 90)][:count]
    photos = zip(("temple", "flower"), load_sample_images().images, strict=True)
    return [(name, photo[y : y + SIDE, x : x + 90]) for name, photo in photos for y, x in places]


def folder_of(root: Path, suffix: str, save: Any) -> Path:
    for number, (name, pixels) in enumerate(crops()):
        path = root / name / f"{number}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        save(path, pixels)
    return root


def save_12_bits(path: Path, pixels: NDArray[np.uint8]) -> None:
    Image.fromarray(pixels.mean(axis=2).round().astype(np.uint16) * 16).save(path)


def save_4_bands(path: Path, pixels: NDArray[np.uint8]) -> None:
    infrared = (pixels[:, :, :1] // 3).astype(np.uint8)
    tifffile.imwrite(path, np.concatenate([pixels, infrared], axis=2), photometric="rgb", extrasamples=["unassalpha"])


def trained_on(photos: Path, work_dir: Path, **changes: Any) -> tuple[Engine, Recorder]:
    recorder = Recorder()
    data = {f"data.{key}": value for key, value in changes.items()}
    settings = {**SMALL, "optimizer.lr": 0.002, "max_epochs": 2, "report": True, **data}
    engine = Engine(photos, model="timm/test_resnet", work_dir=work_dir, overrides=settings, reporter=recorder)
    engine.train()
    return engine, recorder


@pytest.fixture(scope="module")
def xray(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder_of(tmp_path_factory.mktemp("xray"), ".tif", save_12_bits)


@pytest.fixture(scope="module")
def deep(xray: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Engine, Recorder]:
    return trained_on(xray, tmp_path_factory.mktemp("deep"))


def raw_of(path: Path) -> NDArray[np.uint16]:
    return np.repeat(np.asarray(Image.open(path))[:, :, None], 3, axis=2)


def test_twelve_bits_are_measured_said_and_kept(deep: tuple[Engine, Recorder], xray: Path) -> None:
    engine, recorder = deep
    assert any("from 0 (black) to 4095 (white) are used (12 bits)" in note for note in recorder.notes)
    assert read_card(latest_run(engine.work_dir).model).preprocessing.intensity == TWELVE_BITS
    assert decode_image(next(xray.glob("flower/*")), Reading(intensity=TWELVE_BITS)).max() > 100
    # the report shows what the network sees, not black
    assert engine.test().num_images == 10


def test_every_runtime_sees_the_whole_range(deep: tuple[Engine, Recorder], xray: Path, tmp_path: Path) -> None:
    engine, _ = deep
    paths = sorted(xray.glob("*/*"))[::6]
    expected = [item.probabilities["flower"] for item in engine.predict(paths)]
    assert np.ptp(expected) > 1e-4
    for kind in ("OPENVINO", "ONNX"):
        exported = engine.export(export_format=kind, output=tmp_path / kind).path
        found = [item.probabilities["flower"] for item in engine.predict(paths, checkpoint=exported)]
        np.testing.assert_allclose(found, expected, atol=2e-3)
        peer = ClassificationModel.create_model(
            str(exported) if kind == "OPENVINO" else ONNXRuntimeAdapter(str(exported)),
            **({"device": "CPU"} if kind == "OPENVINO" else {}),
        )
        if kind == "OPENVINO":
            assert (peer.params.input_dtype, peer.params.intensity_mode) == ("u16", "range_scale")
            theirs = [softmax(peer(raw_of(path)).raw_scores[None])[0] for path in paths]
            labels = [int(scores.argmax()) for scores in theirs]
            assert labels == [int(value <= 0.5) for value in expected]


@pytest.mark.slow
def test_int8_explain_and_check_read_the_range(deep: tuple[Engine, Recorder], xray: Path, tmp_path: Path) -> None:
    engine, _ = deep
    engine.export()
    assert engine.optimize().variants[-1].precision == "INT8"
    explained = engine.explain(sorted(xray.glob("*/*"))[:2], output=tmp_path / "maps")
    overlay = explained.explanations[0].overlay
    assert overlay is not None
    assert np.asarray(Image.open(overlay)).std() > 10
    assert engine.check(checkpoint=latest_run(engine.work_dir).model).broken == ()


def test_the_deploy_folder_reads_raw_values(deep: tuple[Engine, Recorder], xray: Path, tmp_path: Path) -> None:
    engine, _ = deep
    engine.export(output=tmp_path, deploy=tmp_path / "deploy")
    paths = sorted(xray.glob("*/*"))[::8]
    assert answers(tmp_path / "deploy", paths) == [item.label for item in engine.predict(paths)]


def answers(folder: Path, paths: list[Path]) -> list[str]:
    done = subprocess.run(
        [sys.executable, folder / "predict.py", *paths], capture_output=True, text=True, timeout=200, check=True
    )
    return [line.rpartition(": ")[2].partition(" (")[0] for line in done.stdout.splitlines()]


def test_a_range_that_is_given_is_not_measured(xray: Path, tmp_path: Path) -> None:
    engine, recorder = trained_on(xray, tmp_path, intensity=[100, 3000])
    assert read_card(latest_run(engine.work_dir).model).preprocessing.intensity == (100, 3000)
    assert not any("are used" in note for note in recorder.notes)
    resumed = engine.train(checkpoint=latest_run(tmp_path).last_checkpoint, resume=True, max_epochs=3)
    assert read_card(resumed.model_path).preprocessing.intensity == (100, 3000)
    with pytest.raises(RecipeError, match=r"'data.intensity' must rise"):
        trained_on(xray, tmp_path, intensity=[3000, 100])


def test_four_bands_are_refused_until_three_are_named(tmp_path: Path) -> None:
    photos = folder_of(tmp_path / "bands", ".tif", save_4_bands)
    with pytest.raises(
        DataError, match=r"images of class 'flower' cannot be decoded.*it has 4 bands.*--data\.bands 3,2,1"
    ):
        trained_on(photos, tmp_path / "ws")
    engine, _ = trained_on(photos, tmp_path / "ws", bands=[4, 2, 1])
    paths = sorted(photos.glob("*/*"))[::8]
    np.testing.assert_array_equal(
        decode_image(paths[0], Reading(bands=(4, 2, 1))), tifffile.imread(paths[0])[:, :, [3, 1, 0]]
    )
    engine.export(output=tmp_path, deploy=tmp_path / "deploy")
    paths.append(tmp_path / "deploy" / "sample.tif")
    found = answers(tmp_path / "deploy", paths)
    assert found == [item.label for item in engine.predict(paths)]
    assert f"sample.tif: {found[-1]} (" in (tmp_path / "deploy" / "README.md").read_text()


@pytest.mark.parametrize("resize", ["letterbox", "crop"])
def test_a_resize_is_the_same_in_training_test_export_and_modelapi(resize: str, tmp_path: Path) -> None:
    photos = folder_of(tmp_path / "photos", ".png", lambda path, pixels: Image.fromarray(pixels).save(path))
    engine, _ = trained_on(photos, tmp_path / "ws", resize=resize)
    paths = sorted(photos.glob("*/*"))[::6]
    expected = [item.probabilities["flower"] for item in engine.predict(paths)]
    exported = engine.export(output=tmp_path).path
    found = [item.probabilities["flower"] for item in engine.predict(paths, checkpoint=exported)]
    np.testing.assert_allclose(found, expected, atol=2e-3)
    peer = ClassificationModel.create_model(str(exported), device="CPU")
    assert peer.params.resize_type == {"letterbox": "fit_to_window_letterbox", "crop": "crop"}[resize]
    ours = load_predictor(exported)
    for path in paths:
        pixels = decode_image(path)
        scores = softmax(ours.logits([pixels]))[0]
        np.testing.assert_allclose(peer(pixels).raw_scores, scores, atol=2e-2)
    overlay = engine.explain(paths[:1], output=tmp_path / "maps").explanations[0].overlay
    assert overlay is not None
    with pytest.raises(UsageError, match=f"trained with --data.resize {resize}"):
        engine.export(output=tmp_path, preprocessing="embedded")


def test_a_crop_that_is_no_square_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"'data.resize' crop takes a square, and data.input_size is \[32, 64\]"):
        trained_on(tmp_path, tmp_path, resize="crop", input_size=[32, 64])
