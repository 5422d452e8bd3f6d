"""Classes are added to a trained model, with and without images of the old ones."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from conftest import SMALL, SMALL_MODEL, Recorder
from images import write_classes
from otx import Engine
from otx.cli import main
from otx.data.digits import write_digits
from otx.errors import DataError, ModelError, UsageError
from otx.model.modelfile import read_card
from otx.workspace import RunFolder, latest_run

NAMES = ("ant", "bee", "cow", "dog", "elk", "fox")
SETTINGS = {**SMALL, "optimizer.name": "adamw", "optimizer.lr": 0.003, "training.early_stopping.patience": None}


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders `old`, `new` and `all`: six classes, each with its own colour."""
    root = tmp_path_factory.mktemp("colours")
    write_classes(root / "all", dict.fromkeys(NAMES, 40))
    for part, names in (("old", NAMES[1:4]), ("new", (NAMES[0], *NAMES[4:]))):
        for name in names:
            shutil.copytree(root / "all" / name, root / part / name)
    return root


@pytest.fixture(scope="module")
def old(colours: Path, tmp_path_factory: pytest.TempPathFactory) -> Engine:
    engine = Engine(colours / "old", model="timm/resnet10t", work_dir=tmp_path_factory.mktemp("ws"), overrides=SETTINGS)
    assert engine.train(max_epochs=3).best_accuracy == 1.0
    return engine


def further(old: Engine, data: Path, work_dir: Path, **changes: Any) -> tuple[Engine, Recorder]:
    recorder = Recorder()
    engine = Engine(data, work_dir=work_dir, overrides={**SETTINGS, **changes}, reporter=recorder)
    engine.train(checkpoint=latest_run(old.work_dir).model, max_epochs=4)
    return engine, recorder


@pytest.mark.slow
def test_new_classes_alone_keep_the_old_by_distillation_and_lose_them_without(tmp_path: Path) -> None:
    digits = write_digits(tmp_path / "digits")
    for name in map(str, range(10)):
        part = tmp_path / ("old" if name < "5" else "new")
        part.mkdir(exist_ok=True)
        (part / name).symlink_to(digits / name)
    changes = {"data.train_subset.batch_size": 32, "data.train_subset.augmentation.scale": (0.6, 1.0), "max_epochs": 5}
    settings = {**SETTINGS, "optimizer.lr": 0.002, **changes, "data.train_subset.augmentation.flip": 0.0}
    old = Engine(tmp_path / "old", model="timm/resnet10t", work_dir=tmp_path / "ws", overrides=settings).train()
    shown = {}
    for kept in (True, False):
        recorder, work_dir = Recorder(), tmp_path / f"kept{kept}"
        given = {**settings, "training.distillation": None if kept else False}
        engine = Engine(tmp_path / "new", work_dir=work_dir, overrides=given, reporter=recorder)
        engine.train(checkpoint=old.model_path)
        assert any(note.startswith("Learning without forgetting") for note in recorder.notes) == kept
        assert any("will be forgotten" in warning for warning in recorder.warnings) != kept
        shown[kept] = engine.test(data_root=digits).old_and_new
    assert shown[True].old_before == shown[False].old_before > 0.9
    assert shown[False].old_after < 0.05
    assert shown[True].old_after > 0.6
    assert shown[True].new_after > 0.6


@pytest.fixture(scope="module")
def grown(old: Engine, colours: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Engine, Recorder]:
    return further(old, colours / "all", tmp_path_factory.mktemp("grown"))


def test_all_classes_together_use_cross_entropy(grown: tuple[Engine, Recorder], old: Engine) -> None:
    engine, said = grown
    assert said.notes[0].startswith("The settings are those ")
    assert "Classes the model knows and the data has: bee, cow, dog." in said.notes
    assert "New classes: ant, elk, fox." in said.notes
    assert any(note.startswith("The loss is cross-entropy: where classes join a model") for note in said.notes)
    card = read_card(latest_run(engine.work_dir).model)
    assert card.classes == ("bee", "cow", "dog", "ant", "elk", "fox")
    assert (card.num_old, card.network) == (3, "resnet10t")
    assert card.origin == f"the model {latest_run(old.work_dir).model}"
    # the file of the old model keeps nothing to compute its unknown score from
    before = replace(read_card(latest_run(old.work_dir).model), unknown_limit=None)
    assert read_card(latest_run(engine.work_dir).base) == before


def test_new_classes_begin_with_a_classifier_fitted_to_features(grown: tuple[Engine, Recorder]) -> None:
    engine, said = grown
    assert any(note.startswith("The classifier alone, fitted to features of ") for note in said.notes)
    first = said.epochs[0]
    found = engine.test().old_and_new
    assert first.epoch == -1 and first.val_accuracy > 0.5
    assert found is not None and found.new_after > 0.6


def test_a_test_shows_old_and_new_before_and_after(grown: tuple[Engine, Recorder], tmp_path: Path) -> None:
    engine, _ = grown
    result = engine.test(output=tmp_path / "figures.json")
    shown = result.old_and_new
    assert shown is not None
    rows = [item.recall for item in result.classes]
    assert shown.old_after == pytest.approx(sum(rows[:3]) / 3)
    assert shown.new_after == pytest.approx(sum(rows[3:]) / 3)
    assert (shown.num_old, shown.old_before) == (3, 1.0)
    assert shown.forgetting == pytest.approx(shown.old_before - shown.old_after)
    assert json.loads((tmp_path / "figures.json").read_text())["old_and_new"]["num_old"] == 3


@pytest.mark.parametrize(("damage", "said"), [(b"", "is damaged"), (None, "is gone")])
def test_a_base_that_is_damaged_or_gone_leaves_the_test_whole(
    damage: bytes | None, said: str, grown: tuple[Engine, Recorder], tmp_path: Path, recorder: Recorder
) -> None:
    run = RunFolder(Path(shutil.copytree(latest_run(grown[0].work_dir).path, tmp_path / "run")))
    run.base.unlink()
    if damage is not None:
        state = latest_run(grown[0].work_dir).base.read_bytes()
        run.base.write_bytes(state[:-1] + bytes([state[-1] ^ 1]))
    result = Engine(checkpoint=run.model, work_dir=tmp_path, reporter=recorder).test()
    assert result.old_and_new is not None and result.old_and_new.old_before is None
    assert any(said in text and "no accuracy before to compare with" in text for text in recorder.warnings)


def test_an_export_of_a_grown_model_is_tested_alike(grown: tuple[Engine, Recorder]) -> None:
    engine, _ = grown
    path = engine.export().path
    assert engine.test(checkpoint=path).old_and_new == engine.test().old_and_new


def test_the_command_line_prints_old_and_new(
    grown: tuple[Engine, Recorder], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["test", "--work_dir", str(grown[0].work_dir)]) == 0
    printed = capsys.readouterr().out
    assert "old classes (3)" in printed
    assert "forgetting" in printed


@pytest.mark.slow
@pytest.mark.parametrize("part", ["new", "all"])
def test_a_stopped_run_goes_on_with_the_same_classes_and_the_same_lesson(
    part: str, old: Engine, colours: Path, tmp_path: Path
) -> None:
    changes = {"training.loss": "influence_balanced", "training.start_epoch": 1}
    whole, said = further(old, colours / part, tmp_path / "whole", **changes)
    assert "Influence-balanced loss from epoch 2 on." in said.notes
    first = Engine(colours / part, work_dir=tmp_path / "half", overrides={**SETTINGS, **changes})
    first.train(checkpoint=latest_run(old.work_dir).model, max_epochs=2)
    Engine(work_dir=tmp_path / "half").train(resume=True, max_epochs=4)
    figures = [
        [line.split(",")[1:4] for line in latest_run(tmp_path / name).metrics.read_text().splitlines()]
        for name in ("whole", "half")
    ]
    assert figures[0] == figures[1]
    assert whole.test().num_images


@pytest.mark.slow
def test_more_photos_of_the_same_classes_and_of_some_of_them(old: Engine, colours: Path, tmp_path: Path) -> None:
    same, _ = further(old, colours / "old", tmp_path / "same")
    assert read_card(latest_run(same.work_dir).model).num_old == 0
    assert same.test().old_and_new is None
    shutil.copytree(colours / "old" / "cow", tmp_path / "some" / "cow")
    some, said = further(old, tmp_path / "some", tmp_path / "ws")
    assert "Classes the model knows and the data lacks: bee, dog." in said.notes
    shown = some.test(data_root=colours / "old").old_and_new
    assert shown is not None
    assert shown.new_after is None
    assert shown.old_after > 0.6


def test_a_split_file_may_lack_training_images_of_classes_that_the_model_knows_and_of_no_others(
    old: Engine, colours: Path, tmp_path: Path
) -> None:
    split, model = tmp_path / "split.csv", latest_run(old.work_dir).model
    rows = [
        f"{name}/{number:03}.png,{label},{'train' if number < 12 and name != 'dog' else 'val'}"
        for name, label in (("ant", "ant"), ("bee", "BEE"), ("dog", "dog"))
        for number in range(16)
    ]
    split.write_text("\n".join(["path,class,subset", *rows, ""]))
    places = ["train", "--data_root", str(colours / "all"), "--work_dir", str(tmp_path / "ws")]
    asked = [*places, "--data.split_file", str(split), "--checkpoint", str(model), "--rename", "bee=BEE"]
    assert main([*asked, "--max_epochs", "1"]) == 0
    assert main(["train", "--work_dir", str(tmp_path / "ws"), "--resume", "--max_epochs", "2"]) == 0
    assert read_card(latest_run(tmp_path / "ws").model).classes == ("BEE", "cow", "dog", "ant")
    assert Engine(work_dir=tmp_path / "ws").test().num_images == 24
    split.write_text(split.read_text().replace("bee/015.png,BEE,val", "bee/015.png,BEEE,val"))
    with pytest.raises(DataError, match="split.csv lists classes without a training image: BEEE: did you mean 'BEE'"):
        Engine(colours / "all", work_dir=tmp_path, overrides={**SETTINGS, "data.split_file": str(split)}).train(
            checkpoint=model, rename={"bee": "BEE"}
        )


def test_a_renamed_folder_is_the_class_it_was(old: Engine, colours: Path, tmp_path: Path) -> None:
    root = tmp_path / "photos"
    shutil.copytree(colours / "old", root)
    (root / "cow").rename(root / "Cow")
    model = latest_run(old.work_dir).model
    warned = Recorder()
    Engine(root, work_dir=tmp_path / "ws", overrides=SETTINGS, reporter=warned).train(checkpoint=model, max_epochs=1)
    assert "--rename 'cow=Cow'" in warned.warnings[0]
    places = ["--data_root", str(root), "--work_dir", str(tmp_path / "ws"), "--checkpoint", str(model)]
    assert main(["train", *places, "--rename", "cow=Cow", "--max_epochs", "1"]) == 0
    assert read_card(latest_run(tmp_path / "ws").model).classes == ("bee", "Cow", "dog")
    assert RunFolder(latest_run(tmp_path / "ws").path).base.exists() is False


def test_print_config_shows_the_settings_of_the_model(
    old: Engine, colours: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = latest_run(old.work_dir).model
    arguments = ["train", "--data_root", str(colours / "all"), "--checkpoint", str(model), "--print_config"]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "name: timm/resnet10t" in printed
    assert "input_size: [32, 32]" in printed
    assert f"data_root: {colours / 'all'}" in printed


def test_a_second_training_of_an_engine_begins_anew(colours: Path, tmp_path: Path) -> None:
    engine = Engine(colours / "old", model=SMALL_MODEL, work_dir=tmp_path, overrides=SETTINGS)
    origins = [engine.train(max_epochs=1).origin for _ in range(2)]
    assert origins == ["random weights", "random weights"]


def test_what_does_not_fit_is_said(old: Engine, colours: Path, tmp_path: Path) -> None:
    model = latest_run(old.work_dir).model
    with pytest.raises(ModelError, match="holds a resnet10t, the recipe asks for a mobilenetv3_small_100"):
        Engine(colours / "all", model=SMALL_MODEL, work_dir=tmp_path, overrides=SETTINGS).train(checkpoint=model)
    with pytest.raises(UsageError, match="--rename renames classes of a model"):
        Engine(colours / "all", work_dir=tmp_path, overrides=SETTINGS).train(rename={"a": "b"})
    assert main(["train", "--data_root", str(colours / "all"), "--rename", "cow"]) == 2
    assert not tmp_path.joinpath(".latest").exists()


@pytest.mark.parametrize("loss", ["influence_balanced", "class_balanced"])
def test_every_loss_trains_uneven_classes(loss: str, tmp_path: Path) -> None:
    root = write_classes(tmp_path / "data", {"many": 40, "few": 4})
    changes = {**SMALL, "training.loss": loss, "training.start_epoch": 1, "training.label_smoothing": 0.1}
    result = Engine(root, model=SMALL_MODEL, work_dir=tmp_path, overrides=changes).train(max_epochs=2)
    assert len(result.epochs) == 2


@pytest.mark.parametrize(("sampler", "is_said"), [("balanced", True), ("random", False)])
def test_a_loss_that_the_sampler_makes_useless_is_said(sampler: str, is_said: bool, tmp_path: Path) -> None:
    root = write_classes(tmp_path / "data", {"many": 12, "few": 4})
    reporter = Recorder()
    changes = {**SMALL, "training.loss": "class_balanced", "data.train_subset.sampler": sampler}
    Engine(root, model=SMALL_MODEL, work_dir=tmp_path, overrides=changes, reporter=reporter).train(max_epochs=1)
    assert any("class_balanced changes nothing here" in text for text in reporter.warnings) is is_said
