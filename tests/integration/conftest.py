"""Shared fixtures: above all one small training that many tests read."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from images import write_classes, write_noise
from otx import Engine
from otx.events import Progress
from otx.networks.build import build_network
from otx.results import EpochResult
from otx.workspace import latest_run

SMALL = {
    "model.pretrained": False,
    "data.input_size": 32,
    "data.num_workers": 0,
    "data.train_subset.batch_size": 8,
    "optimizer.lr": 0.05,
    # without it, random weights explode at this size: to numbers of 1e15 on some processors, to none on others
    "optimizer.clip_norm": 5.0,
    "scheduler.num_warmup_steps": 0,
    "max_epochs": 3,
    "precision": "32",
    "report": False,
}
SMALL_MODEL = "tv_mobilenet_v3_small"


class Recorder:
    """A reporter that records what is reported."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.warnings: list[str] = []
        self.epochs: list[EpochResult] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def warn(self, text: str) -> None:
        self.warnings.append(text)

    def progress(self, progress: Progress) -> None:
        assert progress.total == 0 or 0 < progress.done <= progress.total

    def epoch(self, result: EpochResult, max_epochs: int) -> None:
        self.epochs.append(result)


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of coloured noise; one file is cut off."""
    root = write_classes(tmp_path_factory.mktemp("photos"), {"blue tit": 30, "cat": 30, "ähre": 30})
    write_noise(root / "cat" / "broken.jpg")
    (root / "cat" / "broken.jpg").write_bytes((root / "cat" / "broken.jpg").read_bytes()[:300])
    return root


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of random weights for the small network, in place of trained ones."""
    torch.manual_seed(3)
    path = tmp_path_factory.mktemp("weights") / "weights.safetensors"
    state = build_network("mobilenetv3_small_100", 3, 32, 32).state_dict()
    save_file({name: value for name, value in state.items() if not name.startswith("classifier")}, path)
    return path


@pytest.fixture(scope="session")
def trained(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Engine:
    """An engine that has trained three epochs; many tests read its run folder, none changes it."""
    engine = Engine(photos, model=SMALL_MODEL, work_dir=tmp_path_factory.mktemp("ws"), overrides=SMALL)
    engine.train()
    return engine


@pytest.fixture(scope="session")
def files(trained: Engine, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one file of every kind that can be loaded."""
    folder = tmp_path_factory.mktemp("files")
    run = latest_run(trained.work_dir)
    shutil.copy(run.model, folder / "model.safetensors")
    shutil.copy(run.last_checkpoint, folder / "last.ckpt")
    trained.export(output=folder)
    trained.export(output=folder, export_format="ONNX")
    return folder


@pytest.fixture
def pictures() -> Iterator[list[np.ndarray]]:
    """Images of several sizes, including the network's input size."""
    rng = np.random.default_rng(1)
    yield [rng.integers(0, 256, (height, width, 3), dtype=np.uint8) for height, width in ((32, 32), (50, 81), (20, 16))]
