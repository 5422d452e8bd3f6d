"""Run a training from its parts."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch.utils.data import DataLoader

from otx.data.loader import Batch
from otx.deploy.card import ModelCard
from otx.deploy.modelfile import save_model
from otx.deploy.runtime import drop_signal_stack
from otx.errors import OtxError, StorageError, TrainingError
from otx.events import Reporter
from otx.recipe import Recipe
from otx.results import EpochResult
from otx.training.callbacks import CtrlC, Interrupted, Journal, Stopper
from otx.training.module import Classifier
from otx.training.threads import ThreadWatch
from otx.workspace import RunFolder, atomic, cannot_write

PRECISIONS = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}


@dataclass(frozen=True)
class Outcome:
    """How a training ended: the epochs of the whole run, why it ended, and whether by Ctrl-C."""

    epochs: tuple[EpochResult, ...]
    best: EpochResult
    stop_reason: str
    interrupted: bool


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
        TrainingError: a GPU was asked for and there is none.
    """
    if wanted == "gpu" and not torch.cuda.is_available():
        raise TrainingError("--engine.device gpu: torch sees no GPU on this machine", fix="use --engine.device cpu")
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
    reporter: Reporter,
    watch: ThreadWatch,
    resume_from: Path | None,
    before: EpochResult | None = None,
) -> Outcome:
    """Train until the epochs are done, early stopping or Ctrl-C; the best model is in the run folder at any time.

    Args:
        watch: chooses the threads to compute with.
        before: figures of the network as it is given, where it can do something already.

    Raises:
        TrainingError: the loss is no number any more.
    """

    def keep(model: Classifier, result: EpochResult) -> None:
        metrics = {"val/accuracy": result.val_accuracy, "val/loss": result.val_loss, "epoch": float(result.epoch + 1)}
        state = {name: value.detach().cpu().contiguous() for name, value in model.network.state_dict().items()}
        save_model(run.model, state, replace(card, metrics=metrics))

    journal, ctrl_c = Journal(reporter, run, keep), CtrlC(reporter)
    # a run that has ended and is given more epochs begins to count anew
    stopper = Stopper(recipe.training.early_stopping, ended=run.has_ended(with_report=recipe.report))
    if before is not None:
        journal.begin(module, before, recipe.max_epochs)
    callbacks: list[L.Callback] = [watch, journal, ctrl_c, _checkpoints(run)]
    if recipe.training.early_stopping.patience is not None:
        callbacks.insert(2, stopper)
    with _quiet():
        trainer = _trainer(recipe, run, device, precision, callbacks)
        interrupted = False
        drop_signal_stack()
        try:
            trainer.fit(module, train, val, ckpt_path=resume_from, weights_only=True if resume_from else None)
        except (Interrupted, KeyboardInterrupt):
            interrupted = True
        except OSError as error:
            raise _storage_error(run, error) from error
        except RuntimeError as error:
            if not _is_lost_process(error):
                raise
            # Ctrl-C reaches every process, each between two steps of its own
            interrupted = ctrl_c.pressed
            if not interrupted:
                raise _lost_process(trainer, run) from error
        except SystemExit:
            # Lightning leaves the program when Ctrl-C comes where it listens itself
            interrupted = True
    if journal.best is None:
        raise TrainingError(
            "the training was stopped before its first epoch was over; there is no model yet",
            fix="otx train --resume goes on with it",
        )
    reason = "stopped by Ctrl-C" if interrupted else _reason(trainer, stopper, journal.epochs)
    return Outcome(tuple(journal.epochs), journal.best, reason, interrupted)


def _is_lost_process(error: RuntimeError) -> bool:
    """Whether an error says that another process of this training is gone; gloo has no class for that."""
    return isinstance(error, torch.distributed.DistError) or "gloo" in str(error)


def _lost_process(trainer: L.Trainer, run: RunFolder) -> TrainingError:
    others = [str(rank) for rank in range(trainer.world_size) if rank != trainer.global_rank]
    return TrainingError(
        f"process {trainer.global_rank} lost the connection to the other processes of this training "
        f"({', '.join(others[:8])}): one of them ended, or its machine cannot be reached",
        fix=f"see what that process said last; then: otx train --resume --checkpoint {run.last_checkpoint} "
        "(the best model so far is kept)",
    )


def _storage_error(run: RunFolder, error: OSError) -> OtxError:
    if not run.config.is_file():
        return StorageError(f"the run folder {run.path} was removed while the training was running")
    return cannot_write(run.path if error.filename is None else os.fsdecode(error.filename), error)


def _checkpoints(run: RunFolder) -> ModelCheckpoint:
    """Keeps `last.ckpt`, written at the end of every epoch; the journal keeps the best."""
    return ModelCheckpoint(dirpath=run.checkpoints, filename="last", save_top_k=1, enable_version_counter=False)


def _trainer(recipe: Recipe, run: RunFolder, device: str, precision: str, callbacks: list[L.Callback]) -> L.Trainer:
    return L.Trainer(
        accelerator=device,
        devices=recipe.engine.num_devices,
        num_nodes=recipe.engine.num_nodes,
        strategy="auto" if recipe.engine.num_devices * recipe.engine.num_nodes == 1 else "ddp",
        precision=PRECISIONS[precision],  # type: ignore[arg-type]
        max_epochs=recipe.max_epochs,
        deterministic=recipe.deterministic,
        callbacks=callbacks,
        plugins=[WholeCheckpoints()],
        logger=TensorBoardLogger(str(run.path), name="tensorboard", version=""),
        default_root_dir=str(run.path),
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=10,
    )


def _reason(trainer: L.Trainer, stopper: Stopper, epochs: list[EpochResult]) -> str:
    if stopper.stopped_epoch and trainer.current_epoch < (trainer.max_epochs or 0):
        best = max(epochs, key=lambda epoch: (epoch.val_accuracy, -epoch.epoch))
        return (
            f"early stopping: val/accuracy has not risen above {best.val_accuracy:.4f} (epoch {best.epoch + 1}) "
            f"for {stopper.patience} epochs"
        )
    if trainer.max_epochs == 0:
        return "only the classifier was to be fitted (--max_epochs 0)"
    return f"all {trainer.max_epochs} epochs are done"


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
