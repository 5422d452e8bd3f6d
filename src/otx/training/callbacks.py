"""What happens at the edges of an epoch: the best model is kept, a row is written, the person is told."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import math
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import EarlyStopping

from otx.errors import StorageError, UsageError
from otx.events import Progress, Reporter
from otx.files import write_csv
from otx.recipe import EarlyStoppingSettings
from otx.results import EpochResult
from otx.signals import SecondSigterm, name_of
from otx.training.module import Classifier
from otx.workspace import RunFolder

STOPS = (signal.SIGINT, signal.SIGTERM)
COLUMNS = tuple(field.name for field in dataclasses.fields(EpochResult))


class Interrupted(Exception):
    """Ctrl-C or SIGTERM came; raised between two steps, so that nothing is half done."""


class WarmEarlyStopping(EarlyStopping):
    """Lightning's early stopping, with epochs at the start that are not counted.

    Args:
        ended: the run had ended before and is given more to do, so it counts anew; one that was killed after its last
            epoch has not, and stops again.
    """

    def __init__(self, settings: EarlyStoppingSettings, *, ended: bool) -> None:
        super().__init__(
            monitor="val/accuracy",
            mode="max",
            patience=settings.patience or 1,
            min_delta=settings.min_delta,
            verbose=False,
            check_on_train_epoch_end=False,
        )
        self.warmup_epochs = settings.warmup_epochs
        self.ended = ended

    @property
    def state_key(self) -> str:
        """The name of its state in checkpoints: that of this class when the first of them were written."""
        return f"Stopper{ {'monitor': self.monitor, 'mode': self.mode}!r}"

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        # a checkpoint has the patience of before; what is asked for now counts
        super().load_state_dict({**state_dict, "patience": self.patience})

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.wait_count < self.patience:
            return
        if self.ended:
            self.wait_count = self.stopped_epoch = 0
        else:
            trainer.should_stop = True

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.current_epoch >= self.warmup_epochs:
            super().on_validation_end(trainer, pl_module)


class EpochRecorder(L.Callback):
    """Measures and reports every epoch, writes `metrics.csv`, and hands over the model when it is the best so far."""

    state_key = "Journal"  # its name in checkpoints: that of this class when the first of them were written

    def __init__(self, reporter: Reporter, run: RunFolder, on_best: Callable[[Classifier, EpochResult], None]) -> None:
        self.reporter, self.on_best = reporter, on_best
        self.run = run
        self.epochs: list[EpochResult] = []
        self.lr = 0.0
        self._started = self._trained = self._shown = time.perf_counter()
        self._images = 0
        self._told: set[str] = set()

    @property
    def best(self) -> EpochResult | None:
        """The epoch with the highest validation accuracy; among equals the one with the lowest validation loss."""
        return max(self.epochs, key=rank, default=None)

    def begin(self, module: Classifier, before: EpochResult, max_epochs: int) -> None:
        """Keep the network as it is before the first epoch: nothing may be better."""
        self.epochs.append(before)
        self.on_best(module, before)
        self._write()
        self.reporter.epoch(before, max_epochs)

    def state_dict(self) -> dict[str, Any]:
        return {"epochs": [epoch.to_dict() for epoch in self.epochs]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.epochs = [EpochResult(**epoch) for epoch in state_dict["epochs"]]

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.is_global_zero:
            self.run.summary.unlink(missing_ok=True)
        # what came before the first epoch is known to the main process alone, and all have to agree on what is best
        self.epochs = trainer.strategy.broadcast(self.epochs)
        if trainer.global_step == 0:
            # so that a run that is killed in its first epoch can go on, too
            trainer.save_checkpoint(self.run.last_checkpoint)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        lr = trainer.optimizers[0].param_groups[0]["lr"]
        if self.epochs and 0 < lr < self.epochs[-1].lr:
            before = self.epochs[-1].lr
            self.reporter.note(f"val/accuracy is not rising: learning rate {before:.2g} -> {lr:.2g}.")
        self._started = self._trained = time.perf_counter()
        self._images = 0

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._images += len(batch.labels) * trainer.world_size
        self._trained = time.perf_counter()
        if self._trained - self._shown > 0.2:
            self._shown = self._trained
            self.reporter.progress(self._progress(trainer, float(outputs["loss"]), batch_idx + 1))

    def _progress(self, trainer: L.Trainer, loss: float, done: int) -> Progress:
        total, elapsed = int(trainer.num_training_batches), self._trained - self._started
        remaining = elapsed / done * (total - done)
        detail = f"loss {loss:.3f}, {self._images / max(elapsed, 1e-9):.0f} images/s"
        return Progress(f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}", done, total, detail, remaining)

    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int, *_: Any
    ) -> None:
        if time.perf_counter() - self._shown > 0.2:
            self._shown = time.perf_counter()
            what = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}, validation"
            self.reporter.progress(Progress(what, batch_idx + 1, int(sum(trainer.num_val_batches))))

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, Classifier)
        result = EpochResult(
            epoch=trainer.current_epoch,
            train_loss=float(pl_module.train_loss.compute()),
            val_loss=float(trainer.callback_metrics["val/loss"]),
            val_accuracy=float(trainer.callback_metrics["val/accuracy"]),
            lr=float(trainer.optimizers[0].param_groups[0]["lr"]),
            images_per_second=self._images / max(self._trained - self._started, 1e-9),
            seconds=time.perf_counter() - self._started,
            is_best=False,
        )
        result = dataclasses.replace(result, is_best=self.best is None or rank(result) > rank(self.best))
        self.epochs.append(result)
        pl_module.end_epoch(result.val_accuracy)
        self._keep(trainer, pl_module, result)
        for path in sorted(pl_module.bad_images - self._told):
            self.reporter.warn(f"left out, cannot be decoded: {path}")
        self._told |= pl_module.bad_images
        self.reporter.epoch(result, int(trainer.max_epochs or 0))

    def _keep(self, trainer: L.Trainer, module: Classifier, result: EpochResult) -> None:
        main = trainer.is_global_zero
        if main and not self.run.config.is_file():
            raise StorageError(f"the run folder {self.run.path} was removed while the training was running")
        if result.is_best and main:
            self.on_best(module, result)
        if result.is_best:
            # every process takes part: the strategy waits for all of them
            best = self.run.checkpoints / f"epoch_{result.epoch:03}.ckpt"
            trainer.save_checkpoint(best)
            if main:
                for older in self.run.checkpoints.glob("epoch_*.ckpt"):
                    if older != best:
                        older.unlink(missing_ok=True)
        if main:
            self._write()

    def _write(self) -> None:
        write_csv(self.run.metrics, COLUMNS, ([getattr(e, name) for name in COLUMNS] for e in self.epochs))


def rank(epoch: EpochResult) -> tuple[float, float]:
    """What makes one epoch better than another; a loss that is no number is the worst."""
    return epoch.val_accuracy, -epoch.val_loss if math.isfinite(epoch.val_loss) else -math.inf


def count_epochs(path: Path) -> int:
    """The number of epochs that are in a `metrics.csv`.

    Raises:
        UsageError: it is damaged.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return max(int(row["epoch"]) for row in csv.DictReader(file)) + 1
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise UsageError(f"{path} is damaged: {error}", fix="remove it: --resume writes it again") from error


class GracefulStop(L.Callback):
    """Lets the first Ctrl-C or SIGTERM end the training between two steps; the second one ends it at once."""

    def __init__(self, reporter: Reporter) -> None:
        self.reporter = reporter
        self.pressed: signal.Signals | None = None
        self._trainer: L.Trainer | None = None
        is_main = threading.current_thread() is threading.main_thread()
        self._before = {number: signal.getsignal(number) for number in STOPS} if is_main else {}
        self._second: SecondSigterm | None = None
        self._owner = os.getpid()

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self._trainer = trainer
        for number in self._before:
            signal.signal(number, self._press)

    def close(self) -> None:
        """Let signals do again what they did before; Lightning leaves Ctrl-C without effect."""
        if self._second is not None:
            self._second.close()
            self._second = None
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _press(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._owner:
            return  # a data worker that was just forked: its parent ends it
        if self.pressed is None:
            self.pressed = signal.Signals(number)
            signal.signal(signal.SIGINT, self._before[signal.SIGINT])
            with contextlib.suppress(OSError, RuntimeError):
                self._second = SecondSigterm()
            self._tell_children()
            again = name_of(self.pressed)
            self.reporter.note(f"{again}: stopping after this step; {again} again stops at once.")

    def _tell_children(self) -> None:
        """Lightning's own processes stop as well, and Lightning does not kill this one because they have ended."""
        children = getattr(self._trainer.strategy.launcher, "procs", []) if self._trainer is not None else []
        for child in children:
            child.send_signal(signal.SIGTERM)
        children.clear()

    def on_train_batch_end(self, *_: Any) -> None:
        if self.pressed is not None:
            raise Interrupted

    def on_validation_batch_end(self, *_: Any) -> None:
        if self.pressed is not None:
            raise Interrupted
