"""The epochs of a run so far, and the progress of the current one."""

from __future__ import annotations

import csv
import dataclasses
import math
import time
from pathlib import Path
from typing import Any

import torch

from otx.errors import UsageError
from otx.events import Progress, Reporter
from otx.files import write_csv
from otx.recipe import ACCURACY, LOSS, PROBABILITY
from otx.results import EpochResult

COLUMNS = tuple(field.name for field in dataclasses.fields(EpochResult))
SHOW_SECONDS = 0.2
# in words
BEST = {ACCURACY: "the highest accuracy", LOSS: "the lowest val/loss", PROBABILITY: "the highest val/probability"}


class EpochRecorder:
    """The epochs of a run, the best of them, and which comes next.

    Args:
        best_by: the figure that chooses the best epoch: the highest accuracy or probability, or the lowest loss.
        monitor: the figure that lowers the learning rate and stops.
    """

    def __init__(self, *, best_by: str = ACCURACY, monitor: str = ACCURACY) -> None:
        self.epochs: list[EpochResult] = []
        self.best_by, self.monitor = best_by, monitor
        # of a model soup: its figures, and how many trainings are in the model
        self.soup: EpochResult | None = None
        self.trainings = 1

    @property
    def best(self) -> EpochResult | None:
        """The epoch with the best figure; among equals the loss decides, or the accuracy if it was not the figure."""
        return max(self.epochs, key=self._rank, default=None)

    def score(self, epoch: EpochResult) -> float:
        """What is to rise, 0 to 1."""
        return score_of(epoch, self.monitor)

    def _rank(self, epoch: EpochResult) -> tuple[bool, float, float]:
        """The sort key for the best epoch; one whose loss is not finite comes after all others."""
        if not math.isfinite(epoch.val_loss):
            return False, 0.0, 0.0
        second = -epoch.val_loss if self.best_by == ACCURACY else epoch.val_accuracy
        return True, score_of(epoch, self.best_by), second

    @property
    def next_epoch(self) -> int:
        """The next epoch to train, counted from 0."""
        return self.epochs[-1].epoch + 1 if self.epochs else 0

    def add(self, result: EpochResult) -> EpochResult:
        """Add an epoch; return it with `is_best` set."""
        is_best = self.best is None or self._rank(result) > self._rank(self.best)
        self.epochs.append(dataclasses.replace(result, is_best=is_best))
        return self.epochs[-1]

    def write(self, path: Path) -> None:
        write_csv(path, COLUMNS, ([getattr(epoch, name) for name in COLUMNS] for epoch in self.epochs))

    def state_dict(self) -> dict[str, Any]:
        return {"epochs": [epoch.to_dict() for epoch in self.epochs], "best_by": self.best_by, "monitor": self.monitor}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.epochs = [EpochResult(**epoch) for epoch in state["epochs"]]
        # what the best epoch and score so far mean; the first checkpoints knew accuracy alone, and then loss
        self.best_by = state.get("best_by", LOSS if state.get("by_loss") else ACCURACY)
        self.monitor = state.get("monitor", LOSS if state.get("monitors_loss") else ACCURACY)


def score_of(epoch: EpochResult, figure: str) -> float:
    """A figure of an epoch as a number from 0 to 1 that is to rise; of the loss, the geometric mean probability."""
    if figure == LOSS:
        return math.exp(-epoch.val_loss)
    return epoch.val_accuracy if figure == ACCURACY else epoch.val_probability or 0.0


def count_epochs(path: Path) -> int:
    """The number of epochs in a `metrics.csv`.

    Raises:
        UsageError: it is damaged.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return max(int(row["epoch"]) for row in csv.DictReader(file)) + 1
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise UsageError(f"{path} is damaged: {error}", fix="remove it: --resume writes it again") from error


class LiveLine:
    """Reports the progress of an epoch a few times a second, and measures its speed.

    Args:
        name: of the epoch, for the user.
    """

    def __init__(self, reporter: Reporter, name: str) -> None:
        self.reporter, self.name = reporter, name
        self._started = self._trained = self._shown = time.perf_counter()
        self._images = 0

    @property
    def images_per_second(self) -> float:
        return self._images / max(self._trained - self._started, 1e-9)

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._started

    def trained(self, images: int, loss: torch.Tensor, done: int, total: int) -> None:
        """Report a training step on some images, the `done`-th of `total`."""
        self._images += images
        self._trained = time.perf_counter()
        if self._is_time():
            remaining = (self._trained - self._started) / done * (total - done)
            # reading the loss waits for the GPU, so it is read only when shown
            detail = f"loss {float(loss):.3f}, {self.images_per_second:.0f} images/s"
            self.reporter.progress(Progress(self.name, done, total, detail, remaining))

    def validated(self, done: int, total: int) -> None:
        """Report a validation batch, the `done`-th of `total`."""
        if self._is_time():
            self.reporter.progress(Progress(f"{self.name}, validation", done, total))

    def _is_time(self) -> bool:
        now = time.perf_counter()
        if now - self._shown <= SHOW_SECONDS:
            return False
        self._shown = now
        return True
