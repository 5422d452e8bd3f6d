"""`otx check NEW --checkpoint MODEL`: whether photos without labels look like those of a model."""

from __future__ import annotations

import csv
import json
import random
import shutil
from pathlib import Path

import pytest
from PIL import Image, ImageOps
from safetensors.torch import load_file, save_file

from conftest import SMALL, SMALL_MODEL, Recorder
from otx import Engine
from otx.cli import main
from otx.data.digits import write_digits
from otx.findings import CheckResult
from otx.model.checksum import CHECKSUM_KEY
from otx.model.modelfile import load_sample
from otx.plain import structured
from otx.workspace import latest_run

SPLITS = {"train": (0, 40), "val": (40, 60), "test": (60, 80)}
SETTINGS = {**SMALL, "max_epochs": 1, "data.train_subset.batch_size": 32}


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four digits, 20 validation and 20 test images of each; drawn, since they are sorted by who wrote them."""
    folder = tmp_path_factory.mktemp("digits")
    for label in "0123":
        files = sorted((write_digits(folder / "source") / label).iterdir())
        random.Random(0).shuffle(files)
        for split, (first, last) in SPLITS.items():
            (folder / "split" / split / label).mkdir(parents=True)
            for file in files[first:last]:
                shutil.copy(file, folder / "split" / split / label)
    return folder / "split"


@pytest.fixture(scope="module")
def model(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    engine = Engine(digits, model=SMALL_MODEL, work_dir=tmp_path_factory.mktemp("ws"), overrides=SETTINGS)
    return engine.train().model_path


@pytest.fixture
def flat(digits: Path, tmp_path: Path) -> Path:
    """The test images in one folder, without labels."""
    folder = tmp_path / "new"
    folder.mkdir()
    for image in sorted((digits / "test").rglob("*.png")):
        shutil.copy(image, folder / f"{image.parent.name}_{image.name}")
    return folder


def invert(folder: Path) -> None:
    for path in folder.glob("*.png"):
        with Image.open(path) as image:
            ImageOps.invert(image.convert("L")).save(path)


def test_held_back_images_look_alike_without_labels(model: Path, flat: Path) -> None:
    found = Engine().check(data_root=flat, checkpoint=model)
    assert found.shift is not None and found.shift.looks_alike and found.shift.is_mixed_alike
    assert (found.classes, found.mislabelled, found.num_images) == ((), None, 80)
    assert found.notes[0].startswith("Read as photos without labels, since it is no folder to train on: ")


def test_inverted_images_look_different_from_both_sides(
    model: Path, flat: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    invert(flat)
    output = tmp_path / "found.json"
    assert main(["check", str(flat), "--checkpoint", str(model), "--output", str(output)]) == 0
    assert "They look different from the photos that it learned from" in capsys.readouterr().out
    found = Engine().check(data_root=flat, checkpoint=model)
    assert found.shift is not None and found.shift.looks_alike is False
    assert structured(CheckResult, json.loads(output.read_text())) == found


def test_the_strangest_are_named_in_the_table(model: Path, flat: Path, tmp_path: Path) -> None:
    Image.effect_noise((40, 40), 120).convert("RGB").save(flat / "noise.png")
    Engine().check(data_root=flat, checkpoint=model, output=tmp_path / "found.csv")
    rows = list(csv.DictReader((tmp_path / "found.csv").read_text().splitlines()))
    strangest = [row["path"] for row in rows if row["finding"] == "strangest"]
    assert len(strangest) == 10 and all((flat / path).is_file() for path in strangest)


def test_folders_of_classes_are_searched_for_wrong_labels_too(model: Path, digits: Path) -> None:
    found = Engine().check(data_root=digits / "test", checkpoint=model)
    assert found.mislabelled is not None and found.shift is not None
    assert found.shift.num_images == found.num_images == 80


def test_folders_of_any_names_are_photos_without_labels(model: Path, flat: Path) -> None:
    inner = flat / "camera" / "monday"
    inner.mkdir(parents=True)
    for image in sorted(flat.glob("*.png"))[::2]:
        image.rename(inner / image.name)
    found = Engine().check(data_root=flat, checkpoint=model)
    assert found.shift is not None and found.shift.num_images == 80
    assert any(item.path.startswith("camera/monday/") for item in found.shift.strangest)


def test_the_images_of_the_model_itself_are_not_compared(model: Path) -> None:
    assert Engine().check(checkpoint=model).shift is None


def test_the_split_file_of_a_model_does_not_speak_of_new_photos(digits: Path, flat: Path, tmp_path: Path) -> None:
    first = Engine(digits, model=SMALL_MODEL, work_dir=tmp_path / "a", overrides=SETTINGS).train()
    again = {**SETTINGS, "data.split_file": str(first.run_dir / "split.csv")}
    second = Engine(digits, model=SMALL_MODEL, work_dir=tmp_path / "b", overrides=again).train()
    found = Engine().check(data_root=flat, checkpoint=second.model_path)
    assert found.shift is not None and found.shift.num_images == 80


def test_an_exported_file_sends_to_the_model_file(model: Path, flat: Path, tmp_path: Path, recorder: Recorder) -> None:
    exported = Engine(checkpoint=model).export(output=tmp_path).path
    assert Engine(reporter=recorder).check(data_root=flat, checkpoint=exported).shift is None
    (said,) = [note for note in recorder.notes if "look like those of the model" in note]
    assert "exported_model.xml holds nothing to compare with; give --checkpoint" in said


def test_a_model_of_an_older_version_is_called_that(
    model: Path, flat: Path, tmp_path: Path, recorder: Recorder
) -> None:
    from safetensors import safe_open

    with safe_open(model, "pt") as file:
        metadata = {key: value for key, value in file.metadata().items() if key != CHECKSUM_KEY}
    tensors = {name: value for name, value in load_file(model).items() if name != "unknown.sample"}
    save_file(tensors, tmp_path / "old.safetensors", metadata)
    assert Engine(reporter=recorder).check(data_root=flat, checkpoint=tmp_path / "old.safetensors").shift is None
    assert any("old.safetensors was written by an older otx; train it again" in note for note in recorder.notes)


def test_without_a_model_a_flat_folder_is_refused(flat: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(flat)]) == 2
    assert "error: " in capsys.readouterr().err


def test_the_sample_is_small_and_of_the_validation_images(model: Path) -> None:
    sample = load_sample(model)
    assert sample is not None and len(sample) == 80 and sample.nbytes // 2 <= 256_000
    assert latest_run(model.parents[1]).model == model
