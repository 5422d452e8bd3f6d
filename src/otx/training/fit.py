"""Run a training from its parts."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import signal
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch.utils.data import DataLoader

from otx.data.transport import Batch
from otx.deploy.card import ModelCard
from otx.deploy.modelfile import save_model
from otx.deploy.runtime import drop_signal_stack
from otx.errors import OtxError, StoppedError, StorageError, TrainingError, UsageError
from otx.events import Reporter
from otx.recipe import Recipe
from otx.results import EpochResult, StopReason
from otx.signals import name_of, signal_of
from otx.training.callbacks import GracefulStop, Interrupted, Journal, Stopper
from otx.training.compute import Launcher, Shard, meeting_place
from otx.training.module import Classifier
from otx.training.threads import ThreadWatch
from otx.workspace import RunFolder, atomic, cannot_write

PRECISIONS = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}


@dataclass(frozen=True)
class Outcome:
    """How a training ended: the epochs of the whole run, and why it ended, for programs and as a sentence."""

    epochs: tuple[EpochResult, ...]
    best: EpochResult
    stop: StopReason
    stop_reason: str


class WholeCheckpoints(TorchCheckpointIO):
    """Checkpoints that are there whole or not at all.

    Lightning writes them into the system's temporary folder and moves them: from another disk, that is a copy.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        with atomic(Path(path), "wb") as file:
            file.write(buffer.getbuffer())


def pick_device(wanted: str) -> str:
    """`gpu` or `cpu`; `auto` is the GPU where there is one.

    Raises:
        UsageError: a GPU was asked for and there is none.
    """
    if wanted == "gpu" and not torch.cuda.is_available():
        raise UsageError(
            "--engine.device gpu: torch sees no GPU on this machine",
            allowed=["auto", "cpu"],
            fix="leave --engine.device out",
        )
    return "gpu" if wanted == "gpu" or (wanted == "auto" and torch.cuda.is_available()) else "cpu"


def pick_precision(wanted: str, device: str) -> tuple[str, str]:
    """The precision to train in (`32`, `bf16` or `16`) and the reason in words."""
    if wanted == "16" and device == "cpu":
        return "bf16", "bf16, since 16-bit floats cannot be trained on a CPU"
    if wanted != "auto":
        return wanted, f"{wanted}, as asked for"
    native = torch.cuda.is_bf16_supported(including_emulation=False) if device == "gpu" else _cpu_has_bf16()
    if native:
        return "bf16", "bf16, which this processor has"
    return (
        ("16", "16, since this GPU has no bf16") if device == "gpu" else ("32", "32, since this processor has no bf16")
    )


def _cpu_has_bf16() -> bool:
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") or capabilities.get("bf16"))


def fit(
    module: Classifier,
    train: DataLoader[Batch],
    val: DataLoader[Batch],
    *,
    recipe: Recipe,
    run: RunFolder,
    card: ModelCard,
    device: str,
    precision: str,
    shard: Shard,
    reporter: Reporter,
    watch: ThreadWatch,
    resume_from: Path | None,
    before: EpochResult | None = None,
) -> Outcome:
    """Train until the epochs are done, early stopping or a signal; the best model is in the run folder at any time.

    Args:
        watch: chooses the threads to compute with.
        before: figures of the network as it is given, where it can do something already.

    Raises:
        TrainingError: the loss is no number any more.
        StoppedError: Ctrl-C or SIGTERM came before there was a model.
    """

    def keep(model: Classifier, result: EpochResult) -> None:
        metrics = {"val/accuracy": result.val_accuracy, "val/loss": result.val_loss, "epoch": float(result.epoch + 1)}
        state = {name: value.detach().cpu().contiguous() for name, value in model.network.state_dict().items()}
        save_model(run.model, state, replace(card, metrics=metrics))

    journal, graceful = Journal(reporter, run, keep), GracefulStop(reporter)
    # a run that has ended and is given more epochs begins to count anew
    stopper = Stopper(recipe.training.early_stopping, ended=run.has_ended(with_report=recipe.report))
    if before is not None:
        journal.begin(module, before, recipe.max_epochs)
    callbacks: list[L.Callback] = [watch, journal, graceful, _checkpoints(run)]
    if recipe.training.early_stopping.patience is not None:
        callbacks.insert(2, stopper)
    with _quiet():
        trainer = _trainer(recipe, run, device, precision, shard, callbacks)
        stopped: signal.Signals | None = None
        drop_signal_stack()
        try:
            trainer.fit(module, train, val, ckpt_path=resume_from, weights_only=True if resume_from else None)
        except (Interrupted, KeyboardInterrupt, SystemExit) as error:
            # Lightning leaves the program by SystemExit when a signal comes where it listens itself
            stopped = graceful.pressed or signal_of(error)
        except OSError as error:
            raise _storage_error(run, error) from error
        except RuntimeError as error:
            # a signal reaches every process, each between two steps of its own: the first to leave is lost to the rest
            stopped = graceful.pressed
            if stopped is None and _is_lost_process(error):
                raise _lost_process(trainer, run) from error
            if stopped is None:
                raise
        finally:
            graceful.close()
    if journal.best is None:
        raise _stopped_too_early(stopped or signal.SIGINT, run)
    if stopped is not None:
        stop = StopReason.CTRL_C if stopped == signal.SIGINT else StopReason.SIGTERM
        return Outcome(tuple(journal.epochs), journal.best, stop, f"stopped by {name_of(stopped)}")
    return Outcome(tuple(journal.epochs), journal.best, *_reason(trainer, stopper, journal.epochs))


def _stopped_too_early(number: signal.Signals, run: RunFolder) -> StoppedError:
    return StoppedError(
        number,
        f"{name_of(number)} stopped the training before its first epoch was over; there is no model yet",
        fix=run.resume_command if run.last_checkpoint.is_file() else "start the training again",
    )


def _is_lost_process(error: RuntimeError) -> bool:
    """Whether an error says that another process of this training is gone; gloo has no class for that."""
    return isinstance(error, torch.distributed.DistError) or "gloo" in str(error)


def _lost_process(trainer: L.Trainer, run: RunFolder) -> TrainingError:
    others = [str(rank) for rank in range(trainer.world_size) if rank != trainer.global_rank]
    return TrainingError(
        f"process {trainer.global_rank} lost the connection to the other processes of this training "
        f"({', '.join(others[:8])}): one of them ended, or its machine cannot be reached",
        fix=f"see what that process said last; then: {run.resume_command} (the best model so far is kept)",
    )


def _storage_error(run: RunFolder, error: OSError) -> OtxError:
    if not run.config.is_file():
        return StorageError(f"the run folder {run.path} was removed while the training was running")
    return cannot_write(run.path if error.filename is None else os.fsdecode(error.filename), error)


def _checkpoints(run: RunFolder) -> ModelCheckpoint:
    """Keeps `last.ckpt`, written at the end of every epoch; the journal keeps the best."""
    return ModelCheckpoint(dirpath=run.checkpoints, filename="last", save_top_k=1, enable_version_counter=False)


class _Started(ClusterEnvironment):
    """Tells Lightning which of the processes that another program started this one is, so that it need not guess."""

    def __init__(self, shard: Shard, num_devices: int) -> None:
        super().__init__()
        self.shard, self.num_devices = shard, num_devices

    @property
    def creates_processes_externally(self) -> bool:
        return True

    @property
    def main_address(self) -> str:
        return meeting_place()[0]

    @property
    def main_port(self) -> int:
        return int(meeting_place()[1])

    @staticmethod
    def detect() -> bool:
        return False

    def world_size(self) -> int:
        return self.shard.world_size

    def set_world_size(self, size: int) -> None: ...

    def global_rank(self) -> int:
        return self.shard.rank

    def set_global_rank(self, rank: int) -> None: ...

    def local_rank(self) -> int:
        return self.shard.local_rank

    def node_rank(self) -> int:
        return self.shard.rank // self.num_devices


def _trainer(
    recipe: Recipe, run: RunFolder, device: str, precision: str, shard: Shard, callbacks: list[L.Callback]
) -> L.Trainer:
    is_alone = shard.launcher is Launcher.OTX
    processes = LightningEnvironment() if is_alone else _Started(shard, recipe.engine.num_devices)
    trainer = L.Trainer(
        accelerator=device,
        devices=recipe.engine.num_devices,
        num_nodes=recipe.engine.num_nodes,
        strategy="auto" if recipe.engine.num_devices * recipe.engine.num_nodes == 1 else "ddp",
        precision=PRECISIONS[precision],  # type: ignore[arg-type]
        max_epochs=recipe.max_epochs,
        deterministic=recipe.deterministic,
        callbacks=callbacks,
        plugins=[WholeCheckpoints(), processes],
        logger=TensorBoardLogger(str(run.path), name="tensorboard", version=""),
        default_root_dir=str(run.path),
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=10,
    )
    # Lightning's own would let processes wait for each other inside a signal handler, and put a job into SLURM's queue
    # again; it cannot be asked to leave SIGTERM alone
    trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
    return trainer


def _reason(trainer: L.Trainer, stopper: Stopper, epochs: list[EpochResult]) -> tuple[StopReason, str]:
    if stopper.stopped_epoch and trainer.current_epoch < (trainer.max_epochs or 0):
        best = max(epochs, key=lambda epoch: (epoch.val_accuracy, -epoch.epoch))
        return (
            StopReason.EARLY_STOPPING,
            f"early stopping: val/accuracy has not risen above {best.val_accuracy:.4f} (epoch {best.epoch + 1}) "
            f"for {stopper.patience} epochs",
        )
    if trainer.max_epochs == 0:
        return StopReason.CLASSIFIER_ONLY, "only the classifier was to be fitted (--max_epochs 0)"
    return StopReason.ALL_EPOCHS, f"all {trainer.max_epochs} epochs are done"


@contextlib.contextmanager
def _quiet() -> Iterator[Any]:
    """Lightning's own messages are for programmers; what matters is told by the journal."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric", "lightning")]
    levels = [logger.level for logger in loggers]
    hook = threading.excepthook
    # what the thread that writes TensorBoard's log stumbles over is raised in this one, too
    threading.excepthook = lambda _: None
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning.*")
        warnings.filterwarnings("ignore", category=UserWarning, module="torch.optim.lr_scheduler")
        try:
            yield
        finally:
            threading.excepthook = hook
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
