"""Run a training from its parts: until its epochs are done, early stopping, or a signal."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass, replace

import lightning as L
import torch

from otx.data.transport import workers_in_words
from otx.errors import OtxError, StoppedError, StorageError, TrainingError
from otx.events import Reporter
from otx.files import cannot_write
from otx.model.card import ModelCard
from otx.model.modelfile import save_model
from otx.results import EpochResult, StopReason
from otx.signals import drop_signal_stack, name_of, signal_of
from otx.training.acceleration.threads import ThreadWatch
from otx.training.batch_size import in_memory, out_of_memory
from otx.training.callbacks import EpochRecorder, GracefulStop, Interrupted, WarmEarlyStopping
from otx.training.devices import Compute
from otx.training.inputs import Inputs
from otx.training.module import Classifier
from otx.training.trainer import make_trainer, quiet
from otx.workspace import RunFolder


@dataclass(frozen=True)
class Outcome:
    """How a training ended: the epochs of the whole run, and why it ended, for programs and as a sentence."""

    epochs: tuple[EpochResult, ...]
    best: EpochResult
    stop: StopReason
    stop_reason: str


@dataclass(frozen=True)
class Job:
    """All that a training needs to run.

    Args:
        card: what the model file says of itself, but the figures.
        watch: chooses the threads to compute with.
        before: figures of the network as it is given, where it can do something already.
        resumes: go on from the last checkpoint of the run.
    """

    module: Classifier
    inputs: Inputs
    run: RunFolder
    card: ModelCard
    compute: Compute
    watch: ThreadWatch
    reporter: Reporter
    before: EpochResult | None
    resumes: bool

    def keep(self, module: Classifier, result: EpochResult) -> None:
        """Write the model file: the network is the best so far."""
        metrics = {"val/accuracy": result.val_accuracy, "val/loss": result.val_loss, "epoch": float(result.epoch + 1)}
        state = {name: value.detach().cpu().contiguous() for name, value in module.network.state_dict().items()}
        save_model(self.run.model, state, replace(self.card, metrics=metrics))


def fit(job: Job) -> Outcome:
    """Train; the best model is in the run folder at any time.

    Raises:
        TrainingError: the loss is no number any more, or memory does not suffice.
        StoppedError: Ctrl-C or SIGTERM came before there was a model.
    """
    after = f"otx train --resume --checkpoint {job.run.last_checkpoint} goes on with this run"
    with workers_in_words(after):
        return in_memory(
            lambda: _fit(job),
            lambda is_gpu: out_of_memory(job.module, job.compute, is_gpu=is_gpu, after=after),
        )


def _fit(job: Job) -> Outcome:
    recipe, run = job.module.recipe, job.run
    recorder, graceful = EpochRecorder(job.reporter, run, job.keep), GracefulStop(job.reporter)
    # a run that has ended and is given more epochs begins to count anew
    stopper = WarmEarlyStopping(recipe.training.early_stopping, ended=run.has_ended(with_report=recipe.report))
    if job.before is not None:
        recorder.begin(job.module, job.before, recipe.max_epochs)
    callbacks: list[L.Callback] = [job.watch, recorder, graceful]
    if recipe.training.early_stopping.patience is not None:
        callbacks.insert(2, stopper)
    with quiet():
        trainer = make_trainer(recipe, run, job.compute, callbacks)
        stopped = _run(trainer, job, graceful)
    if recorder.best is None:
        raise _stopped_too_early(stopped or signal.SIGINT, run)
    if stopped is not None:
        stop = StopReason.CTRL_C if stopped == signal.SIGINT else StopReason.SIGTERM
        return Outcome(tuple(recorder.epochs), recorder.best, stop, f"stopped by {name_of(stopped)}")
    return Outcome(tuple(recorder.epochs), recorder.best, *_reason(trainer, stopper, recorder.epochs))


def _run(trainer: L.Trainer, job: Job, graceful: GracefulStop) -> signal.Signals | None:
    """Let Lightning train; returns the signal that ended it, if one did."""
    recipe, run = job.module.recipe, job.run
    train, val = job.inputs.train_batches(recipe, job.compute), job.inputs.val_batches(recipe, job.compute)
    checkpoint = run.last_checkpoint if job.resumes else None
    drop_signal_stack()
    try:
        trainer.fit(job.module, train, val, ckpt_path=checkpoint, weights_only=True if checkpoint else None)
    except (Interrupted, KeyboardInterrupt, SystemExit) as error:
        # Lightning leaves the program by SystemExit when a signal comes where it listens itself
        return graceful.pressed or signal_of(error)
    except OSError as error:
        raise _storage_error(run, error) from error
    except RuntimeError as error:
        # a signal reaches every process, each between two steps of its own: the first to leave is lost to the rest
        if graceful.pressed is not None:
            return graceful.pressed
        if _is_lost_process(error):
            raise _lost_process(trainer, run) from error
        raise
    finally:
        graceful.close()
    return None


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


def _reason(trainer: L.Trainer, stopper: WarmEarlyStopping, epochs: list[EpochResult]) -> tuple[StopReason, str]:
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
