"""A model soup: several trainings from the same fitted classifier, and the mean of what they keep."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from conftest import SMALL, SMALL_MODEL, Recorder
from otx import Engine
from otx.errors import UsageError
from otx.results import StopReason
from otx.training import soup
from otx.training.budget import Budget
from otx.workspace import latest_run

NAME = "conv_stem.weight"


class Stopping(Recorder):
    """Presses Ctrl-C as soon as a note begins with a text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text

    def note(self, text: str) -> None:
        super().note(text)
        if text.startswith(self.text):
            signal.raise_signal(signal.SIGINT)


def train(photos: Path, weights: Path, work_dir: Path, recorder: Recorder | None = None, **changes: Any) -> Any:
    given = {**SMALL, "optimizer.lr": 0.002, "model.weights": str(weights), "max_epochs": 2, "training.soup": 3}
    engine = Engine(photos, model=SMALL_MODEL, work_dir=work_dir, overrides={**given, **changes}, reporter=recorder)
    return engine.train()


def stem(work_dir: Path) -> torch.Tensor:
    return load_file(latest_run(work_dir).model)[NAME]


def test_the_mean_of_the_trainings_is_kept(
    photos: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts: list[torch.Tensor] = []
    fold = soup._fold

    def folded(mean: dict[str, torch.Tensor], own: dict[str, torch.Tensor], share: float) -> None:
        parts.extend([mean[NAME].clone()] if not parts else [])
        parts.append(own[NAME].clone())
        fold(mean, own, share)

    monkeypatch.setattr(soup, "_fold", folded)
    said = Recorder()
    result = train(photos, weights, tmp_path, said)
    run = latest_run(tmp_path)
    assert len(parts) == 3
    assert not torch.equal(parts[0], parts[1])
    assert not torch.equal(parts[1], parts[2])
    torch.testing.assert_close(stem(tmp_path), torch.stack(parts).mean(0))
    assert json.loads(run.summary.read_text())["trainings"] == 3
    # the epochs are those of the first training, the figures those of the mean
    assert [epoch.epoch for epoch in result.epochs] == [-1, 0, 1]
    note = next(note for note in said.notes if note.startswith("The mean of 3 trainings: "))
    assert f"val/accuracy {result.best_accuracy:.4f}" in note
    assert note.endswith("The mean is kept.")


@pytest.mark.parametrize("text", ["Training 2 of 3", "Training 3 of 3"])
def test_a_run_that_was_stopped_goes_on_like_an_undisturbed_one(
    photos: Path, weights: Path, tmp_path: Path, text: str
) -> None:
    train(photos, weights, tmp_path / "whole")
    stopped = train(photos, weights, tmp_path / "half", Stopping(text))
    assert stopped.stop is StopReason.CTRL_C
    first = stem(tmp_path / "half")
    said = Recorder()
    resumed = Engine(work_dir=tmp_path / "half", reporter=said).train(resume=True)
    assert resumed.stop is StopReason.ALL_EPOCHS
    assert sum(note.startswith("Training ") for note in said.notes) == (2 if "2" in text[:10] else 1)
    # not to the bit: where kernels are chosen by their speed, two runs may choose differently
    torch.testing.assert_close(stem(tmp_path / "half"), stem(tmp_path / "whole"), rtol=1e-3, atol=1e-5)
    assert not torch.equal(stem(tmp_path / "half"), first)
    # the first training is over, and so is the run
    with pytest.raises(UsageError, match="has already trained 2 of 2 epochs"):
        Engine(work_dir=tmp_path / "half").train(resume=True)


def test_a_mean_that_is_clearly_worse_is_not_kept(
    photos: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoilt(mean: dict[str, torch.Tensor], own: dict[str, torch.Tensor], share: float) -> None:
        for value in mean.values():
            value.zero_()

    monkeypatch.setattr(soup, "_fold", spoilt)
    said = Recorder()
    train(photos, weights, tmp_path, said)
    assert any(note.endswith("The first is kept.") for note in said.notes)
    assert stem(tmp_path).abs().sum() > 0
    assert json.loads(latest_run(tmp_path).summary.read_text())["trainings"] == 1


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"model.weights": None, "max_epochs": 1}, "it takes a fitted classifier"),
        ({"training.freeze_statistics": False, "max_epochs": 1}, "it takes a fitted classifier"),
        ({"optimizer.lr": 0.0, "max_epochs": 1}, "the fitted classifier was better than each epoch"),
    ],
)
def test_it_is_said_why_there_is_one_training(
    photos: Path, weights: Path, tmp_path: Path, changes: dict[str, Any], why: str
) -> None:
    said = Recorder()
    train(photos, weights, tmp_path, said, **changes)
    assert any(note.startswith("--training.soup 3: trained once, since ") and why in note for note in said.notes)
    assert json.loads(latest_run(tmp_path).summary.read_text())["trainings"] == 1


def test_a_training_that_does_not_fit_into_the_time_is_left_to_resume(
    photos: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = Recorder()
    with monkeypatch.context() as patch:
        patch.setattr(Budget, "affords", lambda *_: False)
        train(photos, weights, tmp_path, said)
    assert any(note.startswith("--max_time: no time is left for another training") for note in said.notes)
    assert json.loads(latest_run(tmp_path).summary.read_text())["trainings"] == 1
    Engine(work_dir=tmp_path).train(resume=True)
    assert json.loads(latest_run(tmp_path).summary.read_text())["trainings"] == 3


def test_two_processes_make_one_mean(photos: Path, weights: Path, tmp_path: Path) -> None:
    given = {**SMALL, "optimizer.lr": 0.002, "model.weights": weights, "max_epochs": 2, "training.soup": 2}
    options = [text for key, value in given.items() for text in (f"--{key}", str(value).lower())]
    # a path keeps its capitals
    options[options.index("--model.weights") + 1] = str(weights)
    command = [sys.executable, "-m", "otx", "train", str(photos), "--model", SMALL_MODEL, *options]
    places = ["--engine.num_devices", "2", "--engine.device", "cpu", "--work_dir", str(tmp_path)]
    ended = subprocess.run([*command, *places], capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 0, ended.stderr
    assert "The mean of 2 trainings" in ended.stdout + ended.stderr
    assert json.loads(latest_run(tmp_path).summary.read_text())["trainings"] == 2
