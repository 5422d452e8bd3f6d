"""Run the training loop, and turn its end into an outcome or an error."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass

import torch
from lightning.fabric import Fabric

from otx.data.transport import workers_in_words
from otx.errors import OtxError, StoppedError, StorageError, TrainingError
from otx.files import cannot_write
from otx.recipe import LOSS, Recipe
from otx.results import EpochResult, StopReason
from otx.signals import drop_signal_stack, name_of, signal_of
from otx.training.batch_size import in_memory, out_of_memory
from otx.training.loop import Job, Loop
from otx.training.processes import make_fabric, quiet
from otx.training.recorder import EpochRecorder
from otx.training.soup import Soup, keep_start
from otx.training.state import Schedule, State
from otx.training.stopping import EarlyStopping, GracefulStop, Interrupted, tell
from otx.workspace import RunFolder


@dataclass(frozen=True)
class Outcome:
    """How a training ended: the epochs of the whole run, and the reason as an enum and as a sentence.

    Attributes:
        best: what the model reaches on the validation images; that of a model soup has the number of its first epoch.
        trainings: how many are in the model.
        late: a signal that came when the last step was done.
    """

    epochs: tuple[EpochResult, ...]
    best: EpochResult
    stop: StopReason
    stop_reason: str
    trainings: int = 1
    late: signal.Signals | None = None


def fit(job: Job) -> Outcome:
    """Train. The best model so far is always in the run folder.

    Raises:
        TrainingError: the loss is no number any more, memory does not suffice, or the time not for one epoch.
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
    recorder, stop = job.recorder(), GracefulStop(job.reporter)
    patience = EarlyStopping(recipe.training.early_stopping, job.inputs.epochs_per_pass(recipe))
    with quiet():
        fabric = make_fabric(recipe, job.compute)
        stopped = _run(fabric, job, stop, lambda: _train(fabric, job, recorder, patience, stop))
    if recorder.best is None:
        raise _no_time(recipe) if stopped is None else _stopped_too_early(stopped, run)
    if stopped is not None:
        reason = StopReason.CTRL_C if stopped == signal.SIGINT else StopReason.SIGTERM
        end = reason, f"stopped by {name_of(stopped)}"
    elif job.budget.is_used_up:
        end = StopReason.MAX_TIME, f"--max_time {recipe.max_time} is used up"
    else:
        end = _reason(recipe, patience, recorder)
    late = stop.pressed if stopped is None else None
    return Outcome(tuple(recorder.epochs), recorder.soup or recorder.best, *end, recorder.trainings, late)


def _train(fabric: Fabric, job: Job, recorder: EpochRecorder, patience: EarlyStopping, stop: GracefulStop) -> None:
    recipe, module = job.module.recipe, job.module
    fabric.launch()
    stop.listen(fabric.strategy.launcher)
    module.to(fabric.device)
    module.move_teacher()
    # Fabric does not clip for a fused optimizer with a gradient scaler
    optimizer = module.make_optimizer(fused=job.compute.precision != "16")
    schedule = Schedule(optimizer, recipe.scheduler, job.inputs.epochs_per_pass(recipe))
    state = State(module, optimizer, schedule, fabric.strategy.precision, patience, recorder)
    if job.resumes:
        state.load(job.run.last_checkpoint)
        if job.run.has_ended(with_report=recipe.report) and not job.run.soup.is_file():
            patience.begin_anew()
    loop = Loop(job, fabric, state, stop)
    try:
        loop.begin()
        if state.steps == 0:
            keep_start(loop)
        loop.train()
        Soup(loop).train()
    finally:
        loop.close()


def _run(fabric: Fabric, job: Job, stop: GracefulStop, train: Callable[[], None]) -> signal.Signals | None:
    """Train; return the signal that ended it, if any."""
    drop_signal_stack()
    try:
        train()
    except (Interrupted, KeyboardInterrupt) as error:
        tell(getattr(fabric.strategy.launcher, "procs", []), signal.SIGKILL)
        return stop.pressed or signal_of(error)
    except OSError as error:
        raise _storage_error(job.run, error) from error
    except RuntimeError as error:
        # after a signal to all ranks, the first one to stop is a lost connection for the others
        if stop.pressed is not None:
            return stop.pressed
        if _is_lost_process(error):
            raise _lost_process(fabric, job.run) from error
        raise
    finally:
        stop.close()
    return None


def _stopped_too_early(number: signal.Signals, run: RunFolder) -> StoppedError:
    return StoppedError(
        number,
        f"{name_of(number)} stopped the training before its first epoch was over; there is no model yet",
        fix=run.how_to_go_on,
    )


def _no_time(recipe: Recipe) -> TrainingError:
    return TrainingError(
        f"--max_time {recipe.max_time} left no time for an epoch, and there is no fitted classifier to keep",
        fix="give more time, or pretrained weights (--model.weights FILE): a classifier is fitted to them first",
    )


def _is_lost_process(error: RuntimeError) -> bool:
    """Whether an error means that another rank is gone. Gloo has no exception class for that."""
    return isinstance(error, torch.distributed.DistError) or "gloo" in str(error)


def _lost_process(fabric: Fabric, run: RunFolder) -> TrainingError:
    others = [str(rank) for rank in range(fabric.world_size) if rank != fabric.global_rank]
    return TrainingError(
        f"process {fabric.global_rank} lost the connection to the other processes of this training "
        f"({', '.join(others[:8])}): one of them ended, or its machine cannot be reached",
        fix=f"see what that process said last; then: {run.resume_command} (the best model so far is kept)",
    )


def _storage_error(run: RunFolder, error: OSError) -> OtxError:
    if not run.config.is_file():
        return StorageError(f"the run folder {run.path} was removed while the training was running")
    return cannot_write(run.path if error.filename is None else os.fsdecode(error.filename), error)


def _reason(recipe: Recipe, patience: EarlyStopping, recorder: EpochRecorder) -> tuple[StopReason, str]:
    if patience.is_over and recorder.next_epoch < recipe.max_epochs:
        best = max(recorder.epochs, key=lambda epoch: (recorder.score(epoch), -epoch.epoch))
        is_loss, value = recorder.monitor == LOSS, getattr(best, f"val_{recorder.monitor}")
        figure = f"val/{recorder.monitor} has not {'fallen below' if is_loss else 'risen above'} {value:.4f}"
        return (
            StopReason.EARLY_STOPPING,
            f"early stopping: {figure} (epoch {best.epoch + 1}) for {patience.in_words}",
        )
    if recipe.max_epochs == 0:
        return StopReason.CLASSIFIER_ONLY, "only the classifier was to be fitted (--max_epochs 0)"
    count = recipe.max_epochs
    return StopReason.ALL_EPOCHS, "the only epoch is done" if count == 1 else f"all {count} epochs are done"
