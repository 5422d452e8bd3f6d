"""Small real trainings: what they write, that they are reproducible, that they can be stopped and resumed."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.fabric import Fabric
from lightning.fabric.plugins.precision import MixedPrecision

from conftest import SMALL, SMALL_MODEL, Recorder
from images import write_classes, write_noise
from otx import Engine
from otx.catalogue import load_recipe
from otx.data import loader
from otx.data.dataset import ImageSet
from otx.data.decode import decode_image
from otx.data.load import load_dataset
from otx.errors import DataError, TrainingError, UsageError
from otx.model.modelfile import load_model, read_card
from otx.recipe import Recipe
from otx.results import StopReason
from otx.training import devices, fit
from otx.training.budget import Budget
from otx.training.module import Classifier
from otx.training.run import train
from otx.verbs import train as verb
from otx.workspace import latest_run, run_of

FIGURES = ("train_loss", "val_loss", "val_accuracy", "lr", "is_best")


def figures(engine: Engine) -> list[list[Any]]:
    run = latest_run(engine.work_dir)
    rows = json.loads(run.summary.read_text())["epochs"]
    return [[row[name] for name in FIGURES] for row in rows]


def command(photos: Path, work_dir: Path, **changes: Any) -> list[str]:
    """The `otx train` command of the small training."""
    fixed = ["--data_root", str(photos), "--model", SMALL_MODEL, "--work_dir", str(work_dir)]
    options = [f"--{key}={value}" for key, value in {**SMALL, **changes}.items()]
    return [sys.executable, "-m", "otx", "train", *fixed, *options]


def small(photos: Path, work_dir: Path, recorder: Recorder | None = None, **changes: Any) -> Engine:
    return Engine(photos, model=SMALL_MODEL, work_dir=work_dir, overrides={**SMALL, **changes}, reporter=recorder)


@pytest.mark.parametrize("clip", [{}, {"optimizer.clip_norm": 1.0}])
def test_16_bit_floats_are_scaled_clipped_and_resumed(
    clip: dict[str, Any], photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU without bf16, with a gradient scaler on the CPU."""
    scaler = torch.amp.GradScaler("cpu")
    precision = MixedPrecision("16-mixed", device="cpu", scaler=scaler)
    monkeypatch.setattr(fit, "make_fabric", lambda *_: Fabric(accelerator="cpu", devices=1, plugins=[precision]))
    monkeypatch.setattr(devices, "pick_precision", lambda *_: ("16", "16, simulated"))
    result = small(photos, tmp_path, max_epochs=3, **clip, **{"optimizer.lr": 0.005}).train()
    losses = [epoch.train_loss for epoch in result.epochs]
    assert losses[2] < losses[0]
    saved = torch.load(latest_run(tmp_path).last_checkpoint, weights_only=True)["MixedPrecision"]
    assert saved["scale"] == scaler.get_scale()
    assert len(Engine(work_dir=tmp_path).train(resume=True, max_epochs=4).epochs) == 4


def test_a_training_needs_no_tensorboard(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)  # as if it were not installed
    result = small(photos, tmp_path, max_epochs=1).train()
    assert result.model_path.is_file()
    assert (result.run_dir / "checkpoints" / "last.ckpt").is_file()
    assert not (result.run_dir / "tensorboard").exists()


def test_the_run_folder_holds_what_is_promised(trained: Engine, photos: Path) -> None:
    run = latest_run(trained.work_dir)
    for name in ("model.safetensors", "configs.yaml", "metrics.csv", "run.json", "checkpoints/last.ckpt"):
        assert (run.path / name).stat().st_size > 0, name
    assert any((run.path / "tensorboard").iterdir())
    assert any(run.checkpoints.glob("epoch_*.ckpt"))
    assert load_recipe(run.config) == trained.recipe
    split = load_dataset(photos, split_file=run.split)
    assert len(split.train) + len(split.val) + len(split.test) == 90
    header, row = csv.reader(run.bad_images.read_text().splitlines())
    assert (header, row[0], bool(row[1])) == (["path", "reason"], "cat/broken.jpg", True)


def test_the_model_file_carries_all_that_others_need(trained: Engine, photos: Path) -> None:
    network, card = load_model(latest_run(trained.work_dir).model)
    assert card.classes == ("blue tit", "cat", "ähre")
    assert card.origin == "random weights"
    assert card.recipe["data_root"] == str(photos.resolve())
    assert (card.preprocessing.height, card.preprocessing.width) == (32, 32)
    assert card.metrics["val/accuracy"] == max(row[2] for row in figures(trained))
    assert network(torch.zeros(1, 3, 32, 32)).shape == (1, 3)


def test_the_same_seed_gives_the_same_figures_and_another_seed_others(
    trained: Engine, photos: Path, tmp_path: Path
) -> None:
    again, other = small(photos, tmp_path / "again"), small(photos, tmp_path / "other")
    again.train()
    other.train(seed=1)
    assert figures(again) == figures(trained)
    assert figures(other) != figures(trained)


def test_the_number_of_workers_does_not_change_the_figures(trained: Engine, photos: Path, tmp_path: Path) -> None:
    engine = small(photos, tmp_path, **{"data.num_workers": 2})
    engine.train()
    assert figures(engine) == figures(trained)


@pytest.mark.slow
def test_workers_start_in_a_process_that_has_used_opencv_on_several_threads(photos: Path, tmp_path: Path) -> None:
    program = (
        "import sys, cv2, numpy; from otx import Engine; cv2.setNumThreads(2)\n"
        "cv2.resize(numpy.zeros((2000, 2000, 3), numpy.float32), (1500, 1500))\n"
        f"Engine({str(photos)!r}, model={SMALL_MODEL!r}, work_dir={str(tmp_path)!r}, overrides={SMALL!r}).train("
        "max_epochs=1)"
    ).replace("'data.num_workers': 0", "'data.num_workers': 2")
    assert (
        subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=100, check=False).returncode == 0
    )


@pytest.mark.parametrize("stopped_after", [1, 2])
def test_a_stopped_run_ends_like_an_undisturbed_one(
    stopped_after: int, trained: Engine, photos: Path, tmp_path: Path
) -> None:
    class StopAfter(Recorder):
        def epoch(self, result: Any, max_epochs: int) -> None:
            if result.epoch + 1 == stopped_after:
                signal.raise_signal(signal.SIGINT)

    first = small(photos, tmp_path, StopAfter())
    result = first.train()
    assert (result.interrupted, result.stop_reason, len(result.epochs)) == (True, "stopped by Ctrl-C", stopped_after)
    assert result.model_path.is_file()
    resumed = Engine(work_dir=tmp_path).train(resume=True)
    assert len(resumed.epochs) == 3
    assert resumed.run_dir.resolve() == result.run_dir.resolve()
    assert figures(first) == figures(trained)
    assert read_card(resumed.model_path).origin == "random weights"


def test_ctrl_c_in_a_terminal_ends_cleanly_and_says_how_to_go_on(photos: Path, tmp_path: Path) -> None:
    process = subprocess.Popen(
        command(photos, tmp_path, **{"max_epochs": 500, "training.early_stopping.patience": "null"}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    timer = threading.Timer(120, process.kill)
    timer.start()
    for line in process.stderr:
        if line.lstrip().startswith("2/500"):
            process.send_signal(signal.SIGINT)
            break
    out, err = process.communicate()
    timer.cancel()
    assert process.returncode == 130
    assert "Traceback" not in err
    assert "stopped by Ctrl-C" in out
    assert "otx train --resume --checkpoint" in out
    assert read_card(latest_run(tmp_path).model).classes


def test_a_finished_run_is_not_resumed_without_more_epochs(trained: Engine) -> None:
    checkpoint = latest_run(trained.work_dir).last_checkpoint
    with pytest.raises(UsageError, match="has already trained 3 of 3 epochs") as caught:
        Engine().train(checkpoint=checkpoint, resume=True)
    assert "--max_epochs 13" in caught.value.fix


@pytest.mark.slow
def test_a_run_that_early_stopping_ended_goes_on_only_when_more_is_asked_for(photos: Path, tmp_path: Path) -> None:
    changes = {"max_epochs": 30, "optimizer.lr": 0.0, "training.early_stopping.patience": 2}
    assert small(photos, tmp_path, **changes).train().stop is StopReason.EARLY_STOPPING
    run = latest_run(tmp_path)

    def resumed(**more: Any) -> int:
        Engine(work_dir=tmp_path, overrides=more).train(resume=True)
        return len(run.metrics.read_text().splitlines()) - 1

    assert json.loads(run.summary.read_text())["stop"] == "early_stopping"
    for more in ({}, {"training.early_stopping.patience": 1}, {"max_epochs": 20}):
        with pytest.raises(UsageError, match="is complete: early stopping ended it after 3 of [23]0 epochs") as caught:
            resumed(**more)
        assert f"otx train --resume --checkpoint {run.last_checkpoint} --max_epochs" in caught.value.fix
        assert "--training.early_stopping.patience" in caught.value.fix
    # a patience of 4 allows two more epochs; a longer training resets the count; the last settings are kept
    assert resumed(**{"training.early_stopping.patience": 4}) == 5
    with pytest.raises(UsageError, match="is complete: early stopping ended it after 5 of 30 epochs"):
        resumed()
    assert resumed(max_epochs=40) >= 9
    assert load_recipe(run.config).max_epochs == 40
    # an old run.json
    plain = json.loads(run.summary.read_text())
    run.summary.write_text(json.dumps({k: v for k, v in plain.items() if k not in ("stop", "max_epochs", "patience")}))
    with pytest.raises(UsageError, match="is complete: early stopping ended it after [0-9]+ of 40 epochs"):
        resumed()


def test_the_best_model_of_a_resumed_run_is_measured_with_the_settings_of_the_run(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"data.val_subset.batch_size": 3, "data.max_image_pixels": 5000, "engine.device": "cpu"}
    small(photos, tmp_path, max_epochs=1, **settings).train()
    measured: list[tuple[int, int, str]] = []
    evaluate, load_predictor = verb.evaluate, verb.load_predictor

    def spy_on_evaluate(predictor: Any, images: ImageSet, **named: Any) -> Any:
        measured[-1] = (named["batch_size"], images.max_pixels, measured[-1][2])
        return evaluate(predictor, images, **named)

    def spy_on_load(path: Path, device: str) -> Any:
        measured.append((0, 0, device))
        return load_predictor(path, device)

    monkeypatch.setattr(verb, "evaluate", spy_on_evaluate)
    monkeypatch.setattr(verb, "load_predictor", spy_on_load)
    Engine(work_dir=tmp_path).train(resume=True, max_epochs=2)
    Engine(work_dir=tmp_path, overrides={"report": True}).train(resume=True, max_epochs=3)
    # the report may load the model once more, for saliency maps
    assert measured[0] == (3, 5000, "cpu")


def test_slurm_variables_without_srun_are_those_of_a_single_process(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"SLURM_NTASKS": "2", "SLURM_JOB_NAME": "j", "SLURM_JOB_ID": "7"}.items():
        monkeypatch.setenv(name, value)
    assert small(photos, tmp_path, max_epochs=1).train().stop is StopReason.ALL_EPOCHS


def test_what_lies_in_no_run_cannot_be_resumed(tmp_path: Path) -> None:
    (tmp_path / "last.ckpt").write_bytes(b"x")
    with pytest.raises(UsageError, match=r"last.ckpt lies in no run folder"):
        Engine().train(checkpoint=tmp_path / "last.ckpt", resume=True)


def test_early_stopping_and_falling_learning_rates_are_said_in_words(
    photos: Path, tmp_path: Path, recorder: Recorder
) -> None:
    changes = {"max_epochs": 30, "optimizer.lr": 0.0, "training.early_stopping.patience": 2, "scheduler.patience": 0}
    result = small(photos, tmp_path, recorder, **changes).train()
    assert result.stop_reason == (
        f"early stopping: val/accuracy has not risen above {result.best_accuracy:.4f} (epoch 1) for 2 epochs"
    )
    assert len(result.epochs) == 3
    falling = small(
        photos, tmp_path / "b", recorder, **{"scheduler.patience": 0, "max_epochs": 6, "optimizer.lr": 1e-6}
    )
    falling.train()
    assert any("val/accuracy is not rising: learning rate 1e-06 -> 5e-07." in note for note in recorder.notes)


def test_early_stopping_counts_from_the_end_of_its_warm_up(photos: Path, tmp_path: Path) -> None:
    changes = {"max_epochs": 30, "optimizer.lr": 0.0, "training.early_stopping.patience": 1}
    result = small(photos, tmp_path, **changes, **{"training.early_stopping.warmup_epochs": 2}).train()
    assert len(result.epochs) == 4


def test_the_learning_rate_rises_linearly_in_the_warm_up(photos: Path, tmp_path: Path) -> None:
    # 8 steps an epoch: the first ends inside a warm-up of 16 steps, the second at its end
    result = small(photos, tmp_path, **{"scheduler.num_warmup_steps": 16, "data.train_subset.batch_size": 9}).train()
    steps = [(epoch.epoch + 1) * 8 for epoch in result.epochs]
    assert result.epochs[0].lr == pytest.approx(0.05 * (steps[0] + 1) / 17, rel=1e-6)
    assert result.epochs[1].lr == pytest.approx(0.05)


def test_a_broken_image_is_named_and_too_many_stop_the_run(photos: Path, tmp_path: Path, recorder: Recorder) -> None:
    root = write_classes(tmp_path / "data", {"ant": 12, "bee": 12})
    for number in range(3):
        write_noise(root / "ant" / f"b{number}.jpg").write_bytes(b"\xff\xd8\xff broken")
    with pytest.raises(DataError, match="3 of the 15 images of class 'ant' cannot be decoded: ant/b0.jpg"):
        small(root, tmp_path / "ws", recorder).train()
    assert not (tmp_path / "ws").exists()
    assert sum("ant/b1.jpg" in warning for warning in recorder.warnings) == 1


def test_a_loss_that_is_no_number_stops_the_run(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="the loss became (nan|inf) in epoch 1") as caught:
        small(photos, tmp_path, **{"optimizer.lr": 1e9}).train()
    assert "--optimizer.lr, now 1000000000.0" in caught.value.fix


def test_uneven_and_tiny_classes_train(tmp_path: Path) -> None:
    root = write_classes(tmp_path / "data", {"ant": 20, "bee": 1, "cat": 3})
    result = small(root, tmp_path / "ws", max_epochs=1).train()
    assert np.isfinite(result.epochs[0].train_loss)


@pytest.mark.parametrize(
    ("efficient", "waited"), [(False, "2 epochs"), (True, "5 epochs, which draw as many images as 2 whole ones")]
)
def test_a_rare_class_does_not_end_the_training_earlier(efficient: bool, waited: str, tmp_path: Path) -> None:
    # 2 and 43 images to train: 22 of each class an epoch, or 10 where the smallest class allows it
    root = write_classes(tmp_path / "data", {"ant": 60, "bee": 4})
    changes = {"max_epochs": 30, "optimizer.lr": 0.0, "training.freeze_statistics": True}
    settings = {**changes, "training.early_stopping.patience": 2, "data.train_subset.efficient": efficient}
    result = small(root, tmp_path / "ws", **settings).train()
    assert result.stop_reason.endswith(f" (epoch 1) for {waited}")
    assert len(result.epochs) == int(waited[0]) + 1


def test_a_model_is_trained_further(trained: Engine, photos: Path, tmp_path: Path) -> None:
    model = latest_run(trained.work_dir).model
    result = small(photos, tmp_path / "ws", max_epochs=1).train(checkpoint=model)
    assert result.origin == f"the model {model}"


def test_the_split_of_a_run_can_be_given_to_another(trained: Engine, photos: Path, tmp_path: Path) -> None:
    split = latest_run(trained.work_dir).split
    result = small(photos, tmp_path, max_epochs=1, seed=7, **{"data.split_file": str(split)}).train()
    run = run_of(result.model_path)
    assert run is not None
    assert run.split.read_text() == split.read_text()


@pytest.mark.slow
def test_two_processes_train_together(photos: Path, tmp_path: Path) -> None:
    subprocess.run(command(photos, tmp_path, **{"engine.num_devices": 2}), check=True, timeout=300)
    assert [path.name for path in tmp_path.iterdir() if path.name != ".latest"] == [latest_run(tmp_path).path.name]
    assert read_card(latest_run(tmp_path).model).metrics["epoch"] >= 1


def test_images_to_train_on_grow_to_their_size_and_validation_is_at_the_whole_size(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[bool, torch.Size]] = []
    forward = Classifier.forward
    monkeypatch.setattr(
        Classifier,
        "forward",
        lambda self, images: (seen.append((self.training, images.shape[2:])), forward(self, images))[1],
    )
    asked = {"training.growing_epochs": 2, "training.start_size": 0.5, "data.input_size": 64, "max_epochs": 3}
    small(photos, tmp_path, **asked).train()
    sizes = {trains: list(dict.fromkeys(size[0] for t, size in seen if t == trains)) for trains in (True, False)}
    assert sizes == {True: [32, 64], False: [64]}


def test_stages_that_timm_does_not_tell_cannot_be_frozen(photos: Path, tmp_path: Path) -> None:
    asked = {**SMALL, "training.freeze_stages": 1}
    engine = Engine(photos, model="timm/caformer_s18", work_dir=tmp_path, overrides=asked)
    with pytest.raises(UsageError, match="timm does not say what the stages of this network are"):
        engine.train()
    assert not any(tmp_path.iterdir())


def test_a_network_of_one_size_does_not_grow(photos: Path, tmp_path: Path) -> None:
    asked = {**SMALL, "training.growing_epochs": 2, "data.input_size": 64, "max_epochs": 3}
    engine = Engine(photos, model="timm/vit_tiny_patch16_224", work_dir=tmp_path, overrides=asked)
    with pytest.raises(UsageError, match="vit_tiny_patch16_224 cannot take images of 32x32"):
        engine.train()
    assert not any(tmp_path.iterdir())


def test_images_are_decoded_once_and_the_figures_stay_the_same(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[str] = []
    monkeypatch.setattr(
        loader, "decode_image", lambda path, *rest: (decoded.append(path.name), decode_image(path, *rest))[1]
    )
    found, counts = [], []
    for room in (0, 9):
        asked = {"data.cache_mb": room, "deterministic": True, "data.num_workers": 0, "max_epochs": 2}
        engine = small(photos, tmp_path / str(room), **asked)
        engine.train()
        found.append(figures(engine))
        counts.append(len(decoded))
        decoded.clear()
    assert found[0] == found[1]
    dataset = load_dataset(photos, split_file=latest_run(tmp_path / "9").split)
    # at the end, the training images are read once more, whole
    assert 0 < counts[1] <= 2 * len(dataset.train) + len(dataset.val) < counts[0]


def test_a_limited_time_ends_the_training_with_the_best_model(photos: Path, tmp_path: Path, recorder: Recorder) -> None:
    changes = {**SMALL, "max_epochs": 100_000, "training.early_stopping.patience": None, "max_time": "30s"}
    recipe = Recipe(data_root=str(photos), work_dir=str(tmp_path)).override(
        {**changes, "model.name": "timm/test_resnet"}
    )
    result = train(recipe, recorder, budget=Budget(8.0, with_report=False))
    assert (result.stop, result.stop_reason) == ("max_time", "--max_time 30s is used up")
    assert result.model_path.is_file()
    assert sum(epoch.seconds for epoch in result.epochs) < 8
    assert any(note.startswith("--max_time: ") for note in recorder.notes)
    more = Engine(work_dir=tmp_path).train(resume=True, max_epochs=len(result.epochs) + 1)
    assert more.stop == "all_epochs"
    assert len(more.epochs) == len(result.epochs) + 1
