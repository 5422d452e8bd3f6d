"""A training that goes on: with settings given now, from another model, after a signal or without any time left."""

from __future__ import annotations

import csv
import json
import shutil
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
from torch.optim import Optimizer

from conftest import SMALL, SMALL_MODEL, Recorder
from otx import Engine
from otx.cli import main
from otx.errors import ModelError, StoppedError, TrainingError, UsageError
from otx.model.modelfile import read_card
from otx.results import BEFORE_TRAINING, EpochResult
from otx.training import budget, linear_probe, soup
from otx.training import fit as fit_module
from otx.training.budget import Budget
from otx.training.loop import has_tensorboard
from otx.training.recorder import EpochRecorder
from otx.training.state import Schedule
from otx.workspace import latest_run


def train(photos: Path, work_dir: Path, recorder: Recorder | None = None, **changes: Any) -> Any:
    settings = {**SMALL, "max_epochs": 1, **changes}
    return Engine(photos, model=SMALL_MODEL, work_dir=work_dir, overrides=settings, reporter=recorder).train()


def resume(work_dir: Path, recorder: Recorder | None = None, **changes: Any) -> Any:
    return Engine(work_dir=work_dir, overrides=changes, reporter=recorder).train(resume=True)


def rows(work_dir: Path) -> list[dict[str, str]]:
    with latest_run(work_dir).metrics.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_settings_given_now_are_those_that_train(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, float]] = []
    step = Schedule.update

    def spy(self: Schedule, score: float) -> None:
        step(self, score)
        group = self.optimizer.param_groups[0]
        seen.append({"factor": self.plateau.factor, "decay": group["weight_decay"], "momentum": group["momentum"]})

    monkeypatch.setattr(Schedule, "update", spy)
    changed = {"optimizer.lr": 0.01, "optimizer.weight_decay": 0.5, "optimizer.momentum": 0.5, "scheduler.factor": 0.25}
    train(photos, tmp_path)
    resume(tmp_path, max_epochs=2, **changed)
    assert [float(row["lr"]) for row in rows(tmp_path)] == [0.05, pytest.approx(0.01)]
    assert seen[1] == {"factor": 0.25, "decay": 0.5, "momentum": 0.5}
    # without a change everything stays
    resume(tmp_path, max_epochs=3)
    assert float(rows(tmp_path)[2]["lr"]) == pytest.approx(0.01)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"optimizer.name": "adamw"}, "optimizer.name sgd, adamw was asked for"),
        ({"data.input_size": 64}, "data.input_size 32,32, 64,64 was asked for"),
    ],
)
def test_what_a_run_cannot_change_is_refused(photos: Path, tmp_path: Path, changes: dict[str, Any], text: str) -> None:
    train(photos, tmp_path, **{"optimizer.name": "sgd"})
    with pytest.raises(UsageError, match=text):
        resume(tmp_path, max_epochs=2, **changes)
    with pytest.raises(UsageError, match="--resume and --rename"):
        Engine(work_dir=tmp_path).train(resume=True, rename={"cat": "tiger"})
    assert len(rows(tmp_path)) == 1


def test_old_answers_are_kept_after_a_resume_too(photos: Path, tmp_path: Path) -> None:
    first = train(photos, tmp_path / "first").model_path
    settings = {**SMALL, "max_epochs": 1, "training.distillation": True}
    Engine(photos, model=SMALL_MODEL, work_dir=tmp_path, overrides=settings).train(checkpoint=first)
    run = latest_run(tmp_path)
    assert run.base.is_file()
    # a kill takes the summary with it
    run.summary.unlink()
    said = Recorder()
    resume(tmp_path, said, max_epochs=2)
    assert any(note.startswith("Learning without forgetting") for note in said.notes)
    assert json.loads(run.summary.read_text())["checkpoint"] == str(first.resolve())
    with pytest.raises(UsageError, match="trained other groups of weights"):
        resume(tmp_path, max_epochs=3, **{"training.distillation": False})


class Late(Recorder):
    """Presses Ctrl-C when an epoch is told: no step comes after the last one."""

    def epoch(self, result: EpochResult, max_epochs: int) -> None:
        super().epoch(result, max_epochs)
        if result.epoch == max_epochs - 1:
            signal.raise_signal(signal.SIGINT)


def test_a_signal_after_the_last_step_is_not_lost(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(StoppedError, match="Ctrl-C came when the epochs were over") as caught:
        train(photos, tmp_path, Late(), max_epochs=2)
    assert "otx train --resume" in caught.value.fix
    run = latest_run(tmp_path)
    assert not run.summary.is_file()
    assert read_card(run.model).temperature is None
    result = resume(tmp_path)
    assert len(result.epochs) == 2
    assert not result.interrupted
    assert read_card(run.model).temperature is not None


def test_without_time_for_an_epoch_nobody_pressed_anything(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budget, "REPORT_SECONDS", 1e6)
    with pytest.raises(TrainingError, match="--max_time 30s left no time for an epoch"):
        train(photos, tmp_path, report=True, max_time="30s")


def test_the_time_that_is_needed_at_the_end_is_known_without_a_fitted_classifier(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[float, int, int]] = []
    expect = Budget.expect

    def spy(self: Budget, seconds: float, num_train: int, num_val: int) -> None:
        seen.append((seconds, num_train, num_val))
        expect(self, seconds, num_train, num_val)

    monkeypatch.setattr(Budget, "expect", spy)
    train(photos, tmp_path, max_time="10m")
    ((seconds, num_train, num_val),) = seen
    assert 0 < seconds < 10
    assert num_train > num_val > 0


def test_a_part_of_the_validation_images_suffices_for_the_classifier(
    photos: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linear_probe, "MAX_FEATURES", 4)
    result = train(photos, tmp_path, max_epochs=0, **{"model.weights": str(weights), "model.pretrained": True})
    assert result.best_epoch == BEFORE_TRAINING


def test_a_transformer_of_another_size_is_refused_in_words(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {**SMALL, "max_epochs": 1, "optimizer.lr": 0.001}
    model = Engine(photos, model="timm/vit_tiny_patch16_224", work_dir=tmp_path, overrides=settings).train().model_path
    larger = {**settings, "data.input_size": 64}
    with pytest.raises(ModelError, match=r"takes images of 32x32 alone, those of this training are 64x64") as caught:
        Engine(photos, model="timm/vit_tiny_patch16_224", work_dir=tmp_path, overrides=larger).train(checkpoint=model)
    assert caught.value.fix == "--data.input_size 32,32"
    arguments = ["--checkpoint", str(model), "--data.input_size", "64", "--work_dir", str(tmp_path / "work")]
    assert main(["train", str(photos), *arguments]) == 2
    assert "Traceback" not in capsys.readouterr().err


def soup_of(photos: Path, weights: Path, work_dir: Path, recorder: Recorder | None = None, **changes: Any) -> Any:
    own = {"optimizer.lr": 0.002, "model.pretrained": True, "model.weights": str(weights), "training.soup": 2}
    return train(photos, work_dir, recorder, **{**own, "max_epochs": 2, **changes})


def test_a_soup_is_not_trained_again_for_what_comes_after_it(photos: Path, weights: Path, tmp_path: Path) -> None:
    soup_of(photos, weights, tmp_path)
    run = latest_run(tmp_path)
    before, model = json.loads(run.summary.read_text()), run.model.read_bytes()
    # killed while the report was written
    run.summary.unlink()
    said = Recorder()
    resume(tmp_path, said)
    assert not any(note.startswith("Training 2 of 2") for note in said.notes)
    after = json.loads(run.summary.read_text())
    assert after["trainings"] == before["trainings"] == 2
    assert after["best_accuracy"] == before["best_accuracy"]
    assert run.model.read_bytes() == model


def test_the_trainings_of_a_soup_begin_with_the_same_rates(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates: list[list[float]] = []

    def spy(optimizer: Optimizer, *given: Any) -> Schedule:
        rates.append([group["lr"] for group in optimizer.param_groups])
        return Schedule(optimizer, *given)

    monkeypatch.setattr(soup, "Schedule", spy)
    monkeypatch.setattr(fit_module, "Schedule", spy)
    # noise teaches nothing, and the classifier alone would be the best
    monkeypatch.setattr(EpochRecorder, "_rank", lambda _, epoch: (True, float(epoch.epoch), 0.0))
    two = tmp_path / "two"
    for name in ("cat", "ähre"):
        shutil.copytree(photos / name, two / name)
    first = train(two, tmp_path / "first").model_path
    own = {"training.soup": 2, "training.distillation": True, "scheduler.num_warmup_steps": 3, "optimizer.lr": 0.002}
    settings = {**SMALL, "max_epochs": 2, **own}
    rates.clear()
    Engine(photos, model=SMALL_MODEL, work_dir=tmp_path, overrides=settings).train(checkpoint=first)
    assert len(rates) == 2
    assert rates[0] == rates[1]
    assert len(set(rates[0])) > 1


@pytest.mark.skipif(not has_tensorboard(), reason="TensorBoard is not installed")
def test_a_training_leaves_no_thread(photos: Path, tmp_path: Path) -> None:
    before = set(threading.enumerate())
    train(photos, tmp_path)
    assert not [thread for thread in set(threading.enumerate()) - before if "Writer" in type(thread).__name__]
