"""A trained model is calibrated once, in every runtime, and its checkpoints are not."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import SMALL, Recorder
from images import write_digit_splits
from otx import Engine
from otx.data.decode import decode_image
from otx.inference.classify import softmax
from otx.inference.predictor import load_predictor
from otx.model.modelfile import load_model, read_card
from otx.workspace import RunFolder

SETTINGS = {**SMALL, "data.input_size": 48, "data.check_images": False, "data.train_subset.augmentation.flip": 0.0}


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four digits with 20 images to train on, 26 to validate and 10 to test each."""
    splits = {"train": (0, 20), "val": (20, 46), "test": (46, 56)}
    return write_digit_splits(tmp_path_factory.mktemp("digits"), ("0", "1", "2", "3"), splits)


def engine_for(digits: Path, work_dir: Path, recorder: Recorder | None = None, **changes: object) -> Engine:
    return Engine(
        digits, model="timm/resnet10t", work_dir=work_dir, overrides={**SETTINGS, **changes}, reporter=recorder
    )


@pytest.fixture(scope="module")
def run(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return RunFolder(engine_for(digits, tmp_path_factory.mktemp("ws")).train().run_dir)


def pictures(digits: Path) -> list[np.ndarray]:
    return [decode_image(path) for path in sorted((digits / "test").glob("*/*.png"))]


def temperature_of(file: Path) -> float:
    value = read_card(file).temperature
    assert value is not None
    return value


def assert_calibrated_once(run: RunFolder, digits: Path) -> None:
    """The model file holds the best checkpoint, with its logits divided by the temperature of the card."""
    (best,) = run.checkpoints.glob("epoch_*.ckpt")
    plain, calibrated = (load_predictor(path, "cpu").logits(pictures(digits)) for path in (best, run.model))
    np.testing.assert_allclose(calibrated * temperature_of(run.model), plain, rtol=1e-3, atol=1e-3)
    assert np.array_equal(calibrated.argmax(axis=1), plain.argmax(axis=1))


def test_the_model_is_the_best_checkpoint_with_a_temperature(run: RunFolder, digits: Path) -> None:
    assert temperature_of(run.model) != 1
    (best,) = run.checkpoints.glob("epoch_*.ckpt")
    assert read_card(best).temperature is None
    assert_calibrated_once(run, digits)


def test_the_card_has_the_errors_of_the_validation_images(run: RunFolder, digits: Path) -> None:
    from otx.model.calibration import calibrate

    card = read_card(run.model)
    files = sorted((digits / "val").glob("*/*.png"))
    logits = load_predictor(run.model, "cpu").logits([decode_image(path) for path in files])
    labels = np.asarray([card.classes.index(path.parent.name) for path in files])
    found = calibrate(logits * np.float32(temperature_of(run.model)), labels)
    assert found.temperature == pytest.approx(temperature_of(run.model), rel=0.01)
    assert card.metrics["val/calibration_error_before"] == pytest.approx(found.error_before, abs=0.02)
    assert card.metrics["val/calibration_error"] < card.metrics["val/calibration_error_before"]


@pytest.mark.parametrize("kind", ["OPENVINO", "ONNX"])
def test_every_runtime_gives_the_calibrated_probabilities(
    run: RunFolder, digits: Path, tmp_path: Path, kind: str
) -> None:
    from model_api.models import ClassificationModel

    engine = Engine(checkpoint=run.model)
    file = engine.export(export_format=kind, output=tmp_path).path
    images = pictures(digits)
    expected = softmax(load_predictor(run.model, "cpu").logits(images))
    np.testing.assert_allclose(softmax(load_predictor(file, "cpu").logits(images)), expected, atol=2e-3)
    assert read_card(file).temperature == temperature_of(run.model)
    if kind == "OPENVINO":
        model = ClassificationModel.create_model(str(file))
        answers = [model(image) for image in images]
        assert [int(each.top_labels[0].id) for each in answers] == expected.argmax(axis=1).tolist()
        np.testing.assert_allclose([each.top_labels[0].confidence for each in answers], expected.max(axis=1), atol=2e-2)


def test_int8_is_calibrated_anew_and_modelapi_loads_it(run: RunFolder, digits: Path, tmp_path: Path) -> None:
    from model_api.models import ClassificationModel

    result = Engine(digits, checkpoint=run.model).optimize(output=tmp_path)
    card, images = read_card(result.path), pictures(digits)
    assert card.temperature is not None
    assert "val/calibration_error" in card.metrics
    own = load_predictor(result.path, "cpu").logits(images)
    agreement = own.argmax(axis=1) == load_predictor(run.model, "cpu").logits(images).argmax(axis=1)
    assert agreement.mean() >= 0.9
    model = ClassificationModel.create_model(str(result.path))
    assert [int(model(image).top_labels[0].id) for image in images] == own.argmax(axis=1).tolist()


def test_the_logits_of_a_graph_are_divided(run: RunFolder, tmp_path: Path) -> None:
    from otx.export.optimize import _divide_logits
    from otx.inference.runtime import compile_exactly, openvino_core

    file = Engine(checkpoint=run.model).export(output=tmp_path, explain=True).path
    model = openvino_core().read_model(file)
    image = np.random.default_rng(0).normal(size=(1, 3, 48, 48)).astype(np.float32)
    before = compile_exactly(model.clone(), ("logits",), batch=1)(image)["logits"].copy()
    _divide_logits(model, 4.0)
    assert {name for port in model.outputs for name in port.names} >= {"logits", "saliency_map", "feature_vector"}
    np.testing.assert_allclose(compile_exactly(model, ("logits",), batch=1)(image)["logits"], before / 4, rtol=1e-5)


def test_without_the_setting_the_model_is_the_checkpoint(digits: Path, tmp_path: Path) -> None:
    run = RunFolder(engine_for(digits, tmp_path, **{"training.calibrate": False}).train(max_epochs=1).run_dir)
    (best,) = run.checkpoints.glob("epoch_*.ckpt")
    plain, kept = (load_model(path)[0].state_dict() for path in (best, run.model))
    assert all(torch.equal(value, kept[name]) for name, value in plain.items())
    assert read_card(run.model).temperature is None


def test_a_resumed_run_that_finds_nothing_better_is_not_calibrated_twice(
    run: RunFolder, digits: Path, tmp_path: Path
) -> None:
    copy = RunFolder(Path(shutil.copytree(run.path, tmp_path / "ws" / "run")))
    before = copy.model.read_bytes()
    still = {"optimizer.lr": 0.0, "training.freeze_statistics": True}
    engine = Engine(checkpoint=copy.last_checkpoint, overrides=still)
    resumed = engine.train(resume=True, max_epochs=4)
    assert not resumed.epochs[-1].is_best
    assert copy.model.read_bytes() == before
    assert_calibrated_once(copy, digits)


@pytest.mark.slow
def test_a_resumed_run_that_finds_a_better_model_calibrates_that(run: RunFolder, digits: Path, tmp_path: Path) -> None:
    copy = RunFolder(Path(shutil.copytree(run.path, tmp_path / "ws" / "run")))
    resumed = Engine(checkpoint=copy.last_checkpoint).train(resume=True, max_epochs=8)
    assert any(epoch.is_best for epoch in resumed.epochs[3:])
    assert_calibrated_once(copy, digits)


def test_a_training_that_continues_a_calibrated_model_has_its_own_temperature(
    run: RunFolder, digits: Path, tmp_path: Path
) -> None:
    result = engine_for(digits, tmp_path).train(checkpoint=run.model, max_epochs=2)
    assert_calibrated_once(RunFolder(result.run_dir), digits)


def test_few_validation_images_leave_it_at_1_and_say_so(digits: Path, tmp_path: Path, recorder: Recorder) -> None:
    few = Path(shutil.copytree(digits, tmp_path / "few"))
    for path in (few / "val").glob("*/*.png"):
        if path not in sorted(path.parent.iterdir())[:3]:
            path.unlink()
    result = engine_for(few, tmp_path / "ws", recorder).train(max_epochs=1)
    assert temperature_of(result.model_path) == 1
    assert any(note.startswith("Not calibrated: 12 validation images are too few") for note in recorder.notes)
