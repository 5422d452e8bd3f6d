"""`otx check` from the command line and from Python, with and without a model, and the warning before a training."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from conftest import SMALL, SMALL_MODEL, Recorder
from images import write_classes
from otx import Engine
from otx.cli import main
from otx.data.preprocessing import Preprocessing
from otx.findings import CheckResult
from otx.inference.predictor import load_predictor
from otx.plain import structured
from otx.recipe import Recipe
from otx.training import usable_images
from otx.training.budget import Budget
from otx.training.compute import CHECK_VARIABLE
from otx.workspace import RunFolder, latest_run


@pytest.fixture
def leaky(tmp_path: Path) -> Path:
    """Two classes in train/, val/ and test/; one training image is in test as well."""
    for number, subset in enumerate(("train", "val", "test")):
        write_classes(tmp_path / "data" / subset, {"cat": 8, "dog": 8}, seed=number)
    shutil.copy(tmp_path / "data" / "train" / "dog" / "003.png", tmp_path / "data" / "test" / "dog" / "copy.png")
    return tmp_path / "data"


def test_check_gives_the_same_from_both_sides(leaky: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(leaky), "--output", str(tmp_path / "found.json")]) == 0
    shown = capsys.readouterr().out
    assert "test/dog/copy.png" in shown and "in train: train/dog/003.png" in shown
    result = Engine(leaky).check(output=tmp_path / "found.csv")
    assert structured(CheckResult, json.loads((tmp_path / "found.json").read_text())) == result
    rows = list(csv.DictReader((tmp_path / "found.csv").read_text().splitlines()))
    assert [(row["finding"], row["path"]) for row in rows] == [
        ("leak", "test/dog/copy.png"),
        ("copies", "test/dog/copy.png"),
    ]


def test_nothing_suspicious_is_said(leaky: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (leaky / "test" / "dog" / "copy.png").unlink()
    assert main(["check", "--data_root", str(leaky)]) == 0
    assert "Nothing suspicious was found." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["check"], "--data_root is missing"),
        (["check", "nowhere"], "there is no folder nowhere"),
        (["check", "a", "--data_root", "b"], "two folders: a and --data_root b"),
        (["check", "nowhere", "--output", "found.txt"], "findings are written as .csv or .json"),
        (["check", "nowhere", "--checkpoint", "gone.xml"], "no such file: gone.xml"),
    ],
)
def test_what_cannot_be_checked_is_said_with_exit_code_2(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_without_a_model_no_torch_and_no_scikit_learn_is_imported(leaky: Path) -> None:
    code = (
        "import sys; from otx.cli import main\n"
        f"main(['check', {str(leaky)!r}])\n"
        "sys.exit(str({'torch', 'timm', 'lightning', 'openvino', 'sklearn', 'scipy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr.strip() == "set()"


def test_an_image_in_train_and_test_is_a_warning_before_the_training(
    leaky: Path, tmp_path: Path, recorder: Recorder
) -> None:
    changes = {**SMALL, "max_epochs": 1}
    Engine(leaky, model=SMALL_MODEL, work_dir=tmp_path / "ws", overrides=changes, reporter=recorder).train()
    (leak,) = structured(CheckResult, json.loads(latest_run(tmp_path / "ws").suspicions.read_text())).leaks
    assert (leak.first.path, leak.second.path) == ("train/dog/003.png", "test/dog/copy.png")
    assert recorder.warnings == [
        "1 of the images to validate and to test are in train as well: test/dog/copy.png (test) is train/dog/003.png"
    ]


def test_of_many_images_some_are_compared_and_it_is_said(
    leaky: Path, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(usable_images, "MAX_COMPARED", 40)
    recipe = Recipe(data_root=str(leaky))
    found = usable_images.load_images(recipe, None, recorder, min_classes=2)
    size = Preprocessing(32, 32, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    dataset, _ = usable_images.leave_out_unreadable(found, size, recipe, recorder, Budget())
    assert (len(dataset.train), len(dataset.val), len(dataset.test)) == (16, 16, 17)
    assert recorder.notes[-1] == "9 images were not compared with each other; `otx check` compares all of them."


@pytest.mark.parametrize("is_late", [True, False])
def test_all_processes_check_the_images_if_the_main_one_has_the_time_whatever_their_clocks_say(
    is_late: bool, leaky: Path, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = Recipe(data_root=str(leaky)).override({"engine.num_devices": 2, "engine.device": "cpu"})
    dataset = usable_images.load_images(recipe, None, recorder, min_classes=2)
    size = Preprocessing(32, 32, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    begun = {True: time.monotonic() - 3600, False: time.monotonic()}
    # removed again after the test, with what the main process has told
    monkeypatch.setenv(CHECK_VARIABLE, "")
    found = []
    for rank in (0, 1):
        monkeypatch.setenv("LOCAL_RANK", str(rank))
        budget = Budget(1800, begun[is_late == (rank == 0)])
        found.append(usable_images.leave_out_unreadable(dataset, size, recipe, recorder, budget)[1])
    assert [each is None for each in found] == [is_late, is_late]
    assert sum(note.startswith("--max_time: ") for note in recorder.notes) == is_late


def test_a_wrong_label_is_named_with_a_model_of_any_kind(trained: Engine, photos: Path, tmp_path: Path) -> None:
    """Here the colour of an image gives its class, so that any model finds a cat among the blue tits."""
    data = Path(shutil.copytree(photos, tmp_path / "data"))
    (data / "cat" / "007.png").rename(data / "blue tit" / "cat.png")
    model = latest_run(trained.work_dir).model
    exported = [trained.export(output=tmp_path, export_format=kind).path for kind in ("OPENVINO", "ONNX")]
    for path in (model, *exported):
        first, *_ = Engine(data, checkpoint=path).check().mislabelled or ()
        assert (first.path, first.label, first.suggested) == ("blue tit/cat.png", "blue tit", "cat")


# graphs round differently when they resize: only the picture of the network's input size is exactly the same
@pytest.mark.slow
@pytest.mark.parametrize("preprocessing", ["modelapi", "embedded"])
def test_features_are_the_same_whatever_runs_the_network(
    trained: Engine, pictures: list[np.ndarray], preprocessing: str, tmp_path: Path
) -> None:
    expected = load_predictor(latest_run(trained.work_dir).model).features(pictures)[:1]
    assert expected.shape == (1, 1024)
    for kind in ("OPENVINO", "ONNX"):
        path = trained.export(output=tmp_path, export_format=kind, preprocessing=preprocessing).path
        predictor = load_predictor(path)
        before = predictor.logits(pictures)
        np.testing.assert_allclose(predictor.features(pictures)[:1], expected, rtol=1e-2, atol=1e-3)
        np.testing.assert_array_equal(predictor.logits(pictures), before)


def test_a_model_brings_its_own_folder_and_split_and_its_run_keeps_what_was_found(
    trained: Engine, photos: Path
) -> None:
    run_folder = latest_run(trained.work_dir)
    before = structured(CheckResult, json.loads(run_folder.suspicions.read_text()))
    result = Engine(checkpoint=run_folder.model).check()
    assert replace(result, mislabelled=None) == before
    assert structured(CheckResult, json.loads(run_folder.suspicions.read_text())) == result
    assert (result.data_root, result.num_images) == (photos, 91)
    assert [finding.path for finding in result.broken] == ["cat/broken.jpg"]
    assert sum(item.test for item in result.classes) == 18


def test_a_run_that_cannot_be_written_to_does_not_lose_what_was_found(
    trained: Engine, tmp_path: Path, recorder: Recorder
) -> None:
    run = RunFolder(Path(shutil.copytree(latest_run(trained.work_dir).path, tmp_path / "run")))
    run.suspicions.unlink()
    (run.suspicions / "in the way").mkdir(parents=True)
    result = Engine(checkpoint=run.model, reporter=recorder).check()
    assert [finding.path for finding in result.broken] == ["cat/broken.jpg"]
    assert any("the report of the run will not show what was found" in text for text in recorder.warnings)
