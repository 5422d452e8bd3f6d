"""The verbs give the same results from Python and from the command line, and clear errors."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from conftest import SMALL, SMALL_MODEL, Recorder
from images import write_classes, write_image
from otx import Engine, list_models
from otx.catalogue import load_recipe
from otx.cli import main
from otx.errors import DataError, UsageError
from otx.model.modelfile import read_card
from otx.results import TestResult
from otx.verbs.find import find_models
from otx.workspace import latest_run


@pytest.fixture(scope="module")
def model(trained: Engine) -> Path:
    return latest_run(trained.work_dir).model


def without_speed(result: TestResult) -> dict[str, Any]:
    figures = result.to_dict()
    del figures["images_per_second"]
    return figures


def test_find_lists_every_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["find", "--task", "MULTI_CLASS_CLS"]) == 0
    shown = capsys.readouterr().out
    for entry in find_models():
        for cell in (entry.recipe_id, entry.name, f"{entry.gflops:.2f}", f"{entry.params_m:.2f}"):
            assert cell in shown
    assert main(["find", "--pattern", "efficient"]) == 0
    assert capsys.readouterr().out.count("Custom_") == len(list_models(pattern="efficient")) == 4


@pytest.mark.parametrize("arguments", [["--help"], ["find"], ["train", "--help"]])
def test_help_and_find_import_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys; from otx.cli import main\n"
        f"try: main({arguments!r})\nexcept SystemExit: pass\n"
        "sys.exit(str({'torch', 'timm', 'lightning', 'openvino', 'numpy', 'cv2'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr.strip() == "set()"


def test_print_config_is_taken_back_unchanged(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    options = [
        "--data_root",
        "photos",
        "--data.train_subset.batch_size",
        "4",
        "--max_epochs=7",
        "--engine.device",
        "cpu",
    ]
    assert main(["train", "--config", "efficientnet_b0", *options, "--print_config"]) == 0
    first = capsys.readouterr().out
    (tmp_path / "configs.yaml").write_text(first)
    assert main(["train", "--config", str(tmp_path / "configs.yaml"), "--print_config"]) == 0
    assert capsys.readouterr().out == first
    recipe = load_recipe(tmp_path / "configs.yaml")
    assert (recipe.data_root, recipe.data.train_subset.batch_size, recipe.max_epochs) == ("photos", 4, 7)


def test_train_gives_the_same_from_both_sides(trained: Engine, photos: Path, tmp_path: Path) -> None:
    options = [f"--{key}={value}" for key, value in SMALL.items()]
    assert (
        main(["train", "--data_root", str(photos), "--model", SMALL_MODEL, "--work_dir", str(tmp_path), *options]) == 0
    )
    ours, theirs = (json.loads(latest_run(folder).summary.read_text()) for folder in (trained.work_dir, tmp_path))
    for name in ("train_loss", "val_loss", "val_accuracy", "lr"):
        assert [epoch[name] for epoch in ours["epochs"]] == [epoch[name] for epoch in theirs["epochs"]]


def test_test_gives_the_same_from_both_sides(trained: Engine, model: Path, tmp_path: Path) -> None:
    assert main(["test", "--work_dir", str(trained.work_dir), "--output", str(tmp_path / "out.json")]) == 0
    figures = json.loads((tmp_path / "out.json").read_text())
    del figures["images_per_second"]
    assert figures == without_speed(trained.test())


def test_test_is_the_same_on_model_checkpoint_ir_and_onnx(trained: Engine, model: Path, tmp_path: Path) -> None:
    best = next(latest_run(trained.work_dir).checkpoints.glob("epoch_*.ckpt"))
    # outside the run folder: the split comes from the card
    exported = [trained.export(output=tmp_path, export_format=kind).path for kind in ("OPENVINO", "ONNX")]
    results = [trained.test(checkpoint=path) for path in (model, best, *exported)]
    assert len({result.top1 for result in results}) == 1
    assert len({result.confusion for result in results}) == 1
    assert {result.subset for result in results} == {"test split"}


def test_test_writes_confusion_matrix_and_figures(trained: Engine) -> None:
    result = trained.test()
    folder = (trained.work_dir / ".latest" / "test").resolve()
    rows = list(csv.reader((folder / "confusion_matrix.csv").read_text().splitlines()))
    assert rows[0][1:] == ["blue tit", "cat", "ähre"]
    assert [[int(cell) for cell in row[1:]] for row in rows[1:]] == [list(row) for row in result.confusion]
    assert json.loads((folder / "results.json").read_text())["top1"] == result.top1
    assert sum(map(sum, result.confusion)) == result.num_images


def test_test_uses_the_images_that_were_not_trained_on(trained: Engine, photos: Path, tmp_path: Path) -> None:
    assert trained.test().num_images == 18
    moved = tmp_path / "moved"
    shutil.copytree(photos, moved)
    assert trained.test(data_root=moved).num_images == 18


def test_another_folder_is_tested_whole(trained: Engine, model: Path, tmp_path: Path, recorder: Recorder) -> None:
    # with the seed of the training's images they would be known
    data = write_classes(tmp_path / "data", {"blue tit": 3, "cat": 4}, seed=1)
    (data / "cat" / "broken.png").write_bytes(b"not an image")
    engine = Engine(work_dir=tmp_path / "ws", reporter=recorder, checkpoint=model)
    result = engine.test(data_root=data)
    assert (result.num_images, result.subset) == (7, "all images")
    assert [image.path for image in result.bad_images] == ["cat/broken.png"]
    assert any("is not the folder the model was trained on" in note for note in recorder.notes)


def test_a_data_set_that_is_gone_or_unknown_is_an_error(trained: Engine, model: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no folder .*gone"):
        trained.test(data_root=tmp_path / "gone")
    data = write_classes(tmp_path / "data", {"blue tits": 3, "cat": 4})
    with pytest.raises(DataError, match="classes that the model does not know: blue tits: did you mean 'blue tit'"):
        trained.test(data_root=data)


def test_predict_gives_the_same_from_both_sides(trained: Engine, model: Path, photos: Path, tmp_path: Path) -> None:
    for name in ("predictions.csv", "predictions.json"):
        arguments = ["predict", str(photos / "cat"), "--checkpoint", str(model), "--output", str(tmp_path / name)]
        assert main(arguments) == 0
    predictions = trained.predict(photos / "cat")
    assert json.loads((tmp_path / "predictions.json").read_text()) == [item.to_dict() for item in predictions]
    rows = list(csv.DictReader((tmp_path / "predictions.csv").read_text().splitlines()))
    assert [(row["path"], row["label"]) for row in rows] == [(item.path, item.label or "") for item in predictions]
    assert [row["error"] for row in rows if row["path"].endswith("broken.jpg")] == [predictions[-1].error]
    assert len(rows) == 31


def test_predict_takes_files_folders_and_globs_in_order(trained: Engine, photos: Path) -> None:
    sources = [photos / "cat" / "003.png", str(photos / "ähre" / "00[01].png"), photos / "blue tit"]
    paths = [Path(item.path).relative_to(photos).as_posix() for item in trained.predict(sources)]
    assert paths[:4] == ["cat/003.png", "ähre/000.png", "ähre/001.png", "blue tit/000.png"]
    assert len(paths) == 33


def test_a_prediction_is_a_probability_for_every_class(trained: Engine, photos: Path) -> None:
    (prediction,) = trained.predict(photos / "cat" / "000.png")
    assert set(prediction.probabilities) == {"blue tit", "cat", "ähre"}
    assert sum(prediction.probabilities.values()) == pytest.approx(1)
    assert prediction.probability == max(prediction.probabilities.values())


def test_predict_fails_only_when_every_image_failed(model: Path, photos: Path, tmp_path: Path) -> None:
    broken, good = str(photos / "cat" / "broken.jpg"), str(photos / "cat" / "000.png")
    assert main(["predict", broken, "--checkpoint", str(model)]) == 1
    assert main(["predict", broken, good, "--checkpoint", str(model)]) == 0


def test_export_gives_the_same_from_both_sides(trained: Engine, model: Path, tmp_path: Path) -> None:
    options = ["--export_format", "ONNX", "--export_precision", "FP16", "--output", str(tmp_path / "cli")]
    assert main(["export", "--checkpoint", str(model), *options]) == 0
    result = trained.export(export_format="ONNX", export_precision="FP16", output=tmp_path / "engine")
    assert result.path.name == next((tmp_path / "cli").iterdir()).name == "exported_model_fp16.onnx"
    assert (tmp_path / "cli" / result.path.name).stat().st_size == result.path.stat().st_size


def test_inside_a_work_directory_no_option_is_needed(
    trained: Engine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(trained.work_dir)
    assert main(["test"]) == 0
    assert main(["export"]) == 0
    assert (latest_run(trained.work_dir).path / "exported_model.xml").is_file()
    assert main(["test", "--checkpoint", ".latest/export/exported_model.xml", "--engine.device", "cpu"]) == 0
    assert capsys.readouterr().out.count("top-1 accuracy") == 2


def test_the_commands_of_otx_with_config_and_checkpoint_work(trained: Engine, photos: Path) -> None:
    checkpoint = next(latest_run(trained.work_dir).checkpoints.glob("epoch_*.ckpt"))
    recipe = "src/otx/recipe/classification/multi_class_cls/mobilenet_v3_large.yaml"
    common = ["--config", recipe, "--data_root", str(photos), "--checkpoint", str(checkpoint)]
    assert main(["test", *common]) == 0
    assert main(["export", *common]) == 0


def test_digits_stand_for_the_digits_of_scikit_learn(tmp_path: Path, digits_cache: Path) -> None:
    changes = {**SMALL, "max_epochs": 1, "data.train_subset.batch_size": 64}
    result = Engine("digits", model=SMALL_MODEL, work_dir=tmp_path, overrides=changes).train()
    assert len(list(digits_cache.glob("digits/*/*.png"))) == 1797
    assert read_card(result.model_path).classes == tuple("0123456789")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "unknown verb 'trian': did you mean 'train'?"),
        (["train"], "--data_root is missing"),
        (["train", "--max_epoch", "3"], "unknown argument '--max_epoch': did you mean '--max_epochs'?"),
        (["train", "--max_epochs", "three"], "'max_epochs' must be a whole number, got 'three'"),
        (["train", "--max_epochs"], "--max_epochs: expected one argument"),
        (
            ["train", "--config", "efficientnet_b00"],
            "unknown recipe 'efficientnet_b00': did you mean 'efficientnet_b0'?",
        ),
        (["train", "--data_root", "nowhere"], "there is no folder nowhere"),
        (["train", "--data_root", "digits", "--model", "timm/resnet180"], "timm has no network 'resnet180'"),
        (["train", "--resume", "maybe"], "--resume: must be true or false, got 'maybe'"),
        (["train", "--resume"], "there is no trained model in otx-workspace"),
        (["train", "--checkpoint", "gone.ckpt"], "no such file: gone.ckpt"),
        (["test"], "there is no trained model in otx-workspace"),
        (["test", "--checkpoint", "."], ". is a folder"),
        (["test", "--output", "figures.csv"], "--output figures.csv: tests are written as .json"),
        (["predict"], "the following arguments are required: IMAGES"),
        (["predict", "photo.jpg", "--output", "out.txt"], "--output out.txt: predictions are written as .csv or .json"),
        (["export", "--export_format", "TFLITE"], "--export_format TFLITE"),
        (["find", "--task", "DETECTION"], "unknown task 'DETECTION'"),
        (["find", "--pattern", "resnet9000"], "no recipe matches --pattern resnet9000"),
    ],
)
def test_wrong_input_is_said_in_words_with_exit_code_2(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    shown = capsys.readouterr()
    assert message in shown.err
    assert "Traceback" not in shown.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "arguments", [["check", "."], ["test"], ["predict", "photo.jpg"]], ids=lambda arguments: arguments[0]
)
def test_a_folder_is_not_written_over(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "found.json").mkdir()
    assert main([*arguments, "--output", "found.json"]) == 2
    assert "--output found.json is a folder" in capsys.readouterr().err


def test_nothing_to_predict_is_an_error(model: Path, tmp_path: Path) -> None:
    engine = Engine(checkpoint=model)
    with pytest.raises(UsageError, match="nothing to predict"):
        engine.predict([])
    with pytest.raises(UsageError, match="there is no image, folder or match for '.*gone.jpg'"):
        engine.predict(tmp_path / "gone.jpg")
    write_image(tmp_path / "photo.png").rename(tmp_path / "photo.txt")
    with pytest.raises(UsageError, match="there is no image in the folder"):
        engine.predict(tmp_path)
