"""Classifier first: fitted to features computed once, kept if no later epoch is better, and resumed exactly."""

from __future__ import annotations

import csv
import html
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from conftest import SMALL, SMALL_MODEL, Recorder
from images import write_folders
from otx import Engine
from otx.errors import UsageError
from otx.model.modelfile import load_model
from otx.networks.build import build_network
from otx.training.linear_probe import fit_linear_probe, has_linear_head
from otx.workspace import latest_run


class Headed(nn.Module):
    """The part of a timm network that `fit_head` needs."""

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.classifier = nn.Linear(width, num_classes)

    def get_classifier(self) -> nn.Linear:
        return self.classifier


def blobs(counts: list[int], seed: int, spread: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Features (N, 8) in one cluster for each class."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(0).normal(0, 3, (len(counts), 8))
    labels = np.repeat(np.arange(len(counts)), counts)
    return (centres[labels] + rng.normal(0, spread, (len(labels), 8))).astype(np.float32), labels


@pytest.mark.parametrize("counts", [[40, 40], [100, 30, 3], [50] * 6])
def test_a_fitted_head_separates_what_can_be_separated(counts: list[int]) -> None:
    network = Headed(8, len(counts))
    val = blobs([20] * len(counts), seed=2)
    before = fit_linear_probe(network, blobs(counts, seed=1), val, len(counts))
    assert before.val_accuracy > 0.9
    logits = network.classifier(torch.from_numpy(val[0])).detach()
    labels = torch.from_numpy(val[1])
    assert before.val_accuracy == pytest.approx(float((logits.argmax(1) == labels).float().mean()))
    assert before.val_loss == pytest.approx(float(nn.functional.cross_entropy(logits, labels)), rel=1e-4)
    assert (before.epoch, before.is_best) == (-1, True)


def test_rare_classes_weigh_as_much_as_others() -> None:
    network, spread = Headed(8, 2), 4.0
    val = blobs([500, 500], 2, spread)
    fit_linear_probe(network, blobs([900, 60], 1, spread), val, 2)
    right = network.classifier(torch.from_numpy(val[0])).argmax(1).numpy() == val[1]
    assert abs(right[:500].mean() - right[500:].mean()) < 0.2


def train(photos: Path, weights: Path, work_dir: Path, **changes: Any) -> tuple[Any, Recorder]:
    recorder = Recorder()
    # on random weights a fitted classifier makes the loss steep: take smaller steps than the other tests
    small = {**SMALL, "optimizer.lr": 0.002}
    given = {**small, "model.weights": str(weights), "data.check_images": True, **changes}
    engine = Engine(photos, model=SMALL_MODEL, work_dir=work_dir, overrides=given, reporter=recorder)
    return engine.train(), recorder


def test_a_training_from_weights_begins_with_a_fitted_head(photos: Path, weights: Path, tmp_path: Path) -> None:
    result, said = train(photos, weights, tmp_path, max_epochs=1)
    assert any(note.startswith("The classifier alone, fitted to features of ") for note in said.notes)
    assert [epoch.epoch for epoch in said.epochs] == [-1, 0]
    # classes of one colour each: even features of random weights tell them apart
    assert said.epochs[0].val_accuracy > 0.8
    assert result.best_accuracy == max(epoch.val_accuracy for epoch in said.epochs)
    if result.best_epoch == -1:
        network, _ = load_model(result.model_path)
        fresh = torch.load(latest_run(tmp_path).last_checkpoint, weights_only=True)["state_dict"]
        assert not torch.equal(network.state_dict()["conv_stem.weight"], fresh["network.conv_stem.weight"])


def statistics_of(work_dir: Path, name: str) -> torch.Tensor:
    state = torch.load(latest_run(work_dir).last_checkpoint, weights_only=True)["state_dict"]
    value: torch.Tensor = state[f"network.{name}"]
    return value


def test_after_it_gradients_are_clipped_and_statistics_kept(photos: Path, weights: Path, tmp_path: Path) -> None:
    given, name = load_file(weights), "bn1.running_mean"
    train(photos, weights, tmp_path / "kept", max_epochs=2, **{"optimizer.lr": 0.5})
    assert torch.equal(statistics_of(tmp_path / "kept", name), given[name])
    train(photos, weights, tmp_path / "own", max_epochs=1, **{"training.freeze_statistics": False})
    assert not torch.equal(statistics_of(tmp_path / "own", name), given[name])
    # a step is at most the learning rate times the norm that gradients are clipped to
    changes = {"optimizer.name": "sgd", "optimizer.clip_norm": 1e-3, "optimizer.lr": 1.0}
    changes |= {"optimizer.momentum": 0, "optimizer.weight_decay": 0}
    train(photos, weights, tmp_path / "clipped", max_epochs=1, **changes, **{"data.train_subset.batch_size": 200})
    moved = statistics_of(tmp_path / "clipped", "conv_stem.weight") - given["conv_stem.weight"]
    assert 0 < float(moved.norm()) < 1e-2


def test_statistics_that_do_not_suit_the_images_are_not_kept(weights: Path, tmp_path: Path) -> None:
    """As with images of 32x32 pixels and weights of 224x224: such a network would never learn."""
    alike = write_folders(tmp_path / "alike", {"a": 20, "b": 20})
    given, name = load_file(weights), "bn1.running_mean"
    _, said = train(alike, weights, tmp_path / "own", max_epochs=1)
    assert any(text.startswith("The fitted classifier hardly tells the classes apart") for text in said.warnings)
    filled = json.loads(latest_run(tmp_path / "own").summary.read_text())["filled_in"]
    assert filled["training.freeze_statistics"] is False
    first = statistics_of(tmp_path / "own", name)
    assert not torch.equal(first, given[name])
    Engine(work_dir=tmp_path / "own").train(resume=True, max_epochs=2)
    assert not torch.equal(statistics_of(tmp_path / "own", name), first)
    train(alike, weights, tmp_path / "kept", max_epochs=1, **{"training.freeze_statistics": True})
    assert torch.equal(statistics_of(tmp_path / "kept", name), given[name])


def test_it_can_be_left_out_and_random_weights_do_without(photos: Path, weights: Path, tmp_path: Path) -> None:
    _, said = train(photos, weights, tmp_path, max_epochs=1, **{"training.head_first": False})
    assert [epoch.epoch for epoch in said.epochs] == [0]
    _, said = train(photos, weights, tmp_path, max_epochs=1, **{"model.weights": None})
    assert [epoch.epoch for epoch in said.epochs] == [0]


def test_the_classifier_alone(photos: Path, weights: Path, tmp_path: Path) -> None:
    result, recorder = train(photos, weights, tmp_path, max_epochs=0, report=True)
    assert [epoch.epoch for epoch in result.epochs] == [-1]
    assert result.stop_reason == "only the classifier was to be fitted (--max_epochs 0)"
    network, _ = load_model(result.model_path)
    body = load_file(weights)
    assert all(
        torch.equal(network.state_dict()[name], value) for name, value in body.items() if "classifier" not in name
    )
    assert (result.run_dir / "report.html").is_file()
    assert Engine(work_dir=tmp_path).test().num_images > 0
    assert not [warning for warning in recorder.warnings if "report" in warning]
    with pytest.raises(UsageError, match="--max_epochs 0 fits the classifier alone"):
        train(photos, weights, tmp_path, max_epochs=0, **{"training.head_first": False})


def test_what_more_photos_would_bring_is_said_kept_and_shown(photos: Path, weights: Path, tmp_path: Path) -> None:
    result, _ = train(photos, weights, tmp_path, max_epochs=0, report=True)
    found = result.learning_curve
    assert found is not None and found.num_images == 66 and len(found.points) == 4
    page = result.run_dir / "report.html"
    assert html.escape(found.sentence) in page.read_text()
    page.unlink()
    assert found.sentence in Engine(work_dir=tmp_path).report().read_text()
    assert json.loads((result.run_dir / "learning_curve.json").read_text()) == found.to_dict()


def test_a_resumed_run_ends_like_an_undisturbed_one(photos: Path, weights: Path, tmp_path: Path) -> None:
    train(photos, weights, tmp_path / "whole", max_epochs=3)
    train(photos, weights, tmp_path / "half", max_epochs=1)
    Engine(work_dir=tmp_path / "half").train(resume=True, max_epochs=3)
    figures = [
        [line.split(",")[:5] for line in latest_run(tmp_path / name).metrics.read_text().splitlines()]
        for name in ("whole", "half")
    ]
    assert figures[0] == figures[1]
    assert [row[0] for row in figures[0][1:]] == ["-1", "0", "1", "2"]


def accuracy_on_val(work_dir: Path, photos: Path) -> float:
    """Accuracy of the model file of the latest run on its validation images."""
    with latest_run(work_dir).split.open(newline="") as file:
        val = {photos / row["path"]: row["class"] for row in csv.DictReader(file) if row["subset"] == "val"}
    said = Engine(work_dir=work_dir).predict(list(val))
    return sum(each.label == label for each, label in zip(said, val.values(), strict=True)) / len(val)


def test_what_is_kept_is_the_average_that_was_measured(photos: Path, weights: Path, tmp_path: Path) -> None:
    result, _ = train(photos, weights, tmp_path, max_epochs=2)
    last = torch.load(latest_run(tmp_path).last_checkpoint, weights_only=True)
    averaged, name = last["average"], "conv_stem.weight"
    kept, read = (
        load_model(path)[0].state_dict()[name] for path in (result.model_path, latest_run(tmp_path).last_checkpoint)
    )
    assert torch.equal(read, averaged[name])
    assert not torch.equal(averaged[name], last["state_dict"][f"network.{name}"])
    assert torch.equal(kept, averaged[name]) == (result.best_epoch == 1)
    assert accuracy_on_val(tmp_path, photos) == pytest.approx(result.best_accuracy)


@pytest.mark.slow
def test_two_processes_keep_what_they_have_measured(photos: Path, weights: Path, tmp_path: Path) -> None:
    asked = {
        **SMALL,
        "optimizer.lr": 0.002,
        "engine.num_devices": 2,
        "model.weights": weights,
    }
    options = [f"--{key}={value}" for key, value in asked.items()]
    fixed = ["--data_root", str(photos), "--model", SMALL_MODEL, "--work_dir", str(tmp_path)]
    subprocess.run([sys.executable, "-m", "otx", "train", *fixed, *options], check=True, timeout=300)
    reported = json.loads(latest_run(tmp_path).summary.read_text())["best_accuracy"]
    assert accuracy_on_val(tmp_path, photos) == pytest.approx(reported)


def test_few_validation_images_choose_by_their_loss(photos: Path, weights: Path, tmp_path: Path) -> None:
    result, said = train(photos, weights, tmp_path, max_epochs=3)
    assert result.best_epoch == min(result.epochs, key=lambda epoch: epoch.val_loss).epoch
    assert any(note.startswith("The epoch with the highest val/probability on the ") for note in said.notes)


def test_a_head_of_another_kind_is_left_alone() -> None:
    assert has_linear_head(build_network("resnet10t", 3, 32, 32))
    assert not has_linear_head(build_network("deit_tiny_distilled_patch16_224", 3, 32, 32))


@pytest.mark.slow
@pytest.mark.parametrize("freezes_statistics", [True, False])
def test_frozen_stages_keep_weights_and_statistics(
    freezes_statistics: bool, photos: Path, weights: Path, tmp_path: Path
) -> None:
    asked = {"training.freeze_stages": 2, "training.freeze_statistics": freezes_statistics}
    train(photos, weights, tmp_path, max_epochs=1, **asked)
    for name, value in load_file(weights).items():
        is_first = name.startswith(("conv_stem.", "bn1.", "blocks.0."))
        is_kept = is_first or (freezes_statistics and "running" in name)
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(statistics_of(tmp_path, name), value) == is_kept, name


def test_something_is_left_to_learn(photos: Path, weights: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--training.freeze_stages 9: the network has 7 stages before its classifier"):
        train(photos, weights, tmp_path, **{"training.freeze_stages": 9})
    assert not any(tmp_path.iterdir())
