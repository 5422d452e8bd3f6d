"""The training loop: steps, validation, checkpoints, reports, and when to stop."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import torch
from lightning.fabric import Fabric
from lightning.fabric.loggers.tensorboard import TensorBoardLogger
from torch import nn

from otx.data.transport import Batch
from otx.errors import StorageError
from otx.events import Reporter
from otx.model.card import ModelCard
from otx.model.modelfile import save_model
from otx.recipe import ACCURACY, LOSS
from otx.results import EpochResult
from otx.training.acceleration.threads import ThreadWatch
from otx.training.average import Weights
from otx.training.budget import STEP_PER_FEATURE, Budget
from otx.training.defaults import in_words, suits
from otx.training.devices import Compute
from otx.training.inputs import Inputs
from otx.training.module import Classifier, Measured, asked_rate
from otx.training.recorder import BEST, EpochRecorder, LiveLine
from otx.training.state import State
from otx.training.stopping import GracefulStop
from otx.workspace import RunFolder

# tell how fast a training is
FIRST_STEPS = 5


@dataclass(frozen=True)
class Job:
    """All that a training needs to run.

    Args:
        card: the model card, without the metrics.
        watch: chooses the number of threads.
        before: the figures of the linear probe, if there is one.
        resumes: continue from the last checkpoint of the run.
        budget: how long it may take.
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
    budget: Budget

    def recorder(self) -> EpochRecorder:
        """Keeps the epochs, and knows the figures that choose among them."""
        settings = self.module.recipe.training
        return EpochRecorder(best_by=settings.best_by, monitor=settings.monitor)

    def keep(self, result: EpochResult, weights: Weights | None = None) -> None:
        """Write the model file, with these weights of the network, or its own. Called when it is the best so far."""
        metrics = {"val/accuracy": result.val_accuracy, "val/loss": result.val_loss, "epoch": float(result.epoch + 1)}
        chosen = self.module.network.state_dict() if weights is None else weights
        state = {name: value.detach().cpu().contiguous() for name, value in chosen.items()}
        save_model(self.run.model, state, replace(self.card, metrics=metrics))


class Loop:
    """Trains the network of a job.

    Args:
        stop: checked between two steps; raises Interrupted after a signal.
    """

    def __init__(self, job: Job, fabric: Fabric, state: State, stop: GracefulStop) -> None:
        self.job, self.fabric, self.state, self.stop = job, fabric, state, stop
        self.run, self.reporter, self.recipe = job.run, job.reporter, job.module.recipe
        self.module, self.recorder = job.module, state.recorder
        # with several processes, gradients are averaged and batch norm statistics are those of rank 0
        self.model, self.optimizer = fabric.setup(job.module, state.optimizer)
        self.batches = job.inputs.train_batches(self.recipe, job.compute)
        self.val_batches = job.inputs.val_batches(self.recipe, job.compute)
        self.log = TensorBoardLogger(self.run.path, name="tensorboard", version="") if has_tensorboard() else None
        self._told: set[str] = set()

    def close(self) -> None:
        """End the thread that writes for TensorBoard."""
        if self.log is not None:
            self.log.finalize("")

    def train(self) -> None:
        """Train until all epochs are done or early stopping ends it."""
        self._say_plan()
        schedule, patience, budget = self.state.schedule, self.state.patience, self.job.budget
        for epoch in range(self.recorder.next_epoch, self.recipe.max_epochs):
            if patience.is_over or not self.fabric.broadcast(budget.allows_epoch()):
                return
            self.tell_fall()
            line = LiveLine(self.reporter, f"epoch {epoch + 1}/{self.recipe.max_epochs}")
            train_loss = self.train_epoch(epoch, line)
            trained = line.seconds
            measured = self.validate(line)
            self._note_time(line.seconds, line.seconds - trained)
            result = self.recorder.add(
                EpochResult(
                    epoch=epoch,
                    train_loss=train_loss,
                    val_loss=measured.loss,
                    val_accuracy=measured.accuracy,
                    lr=schedule.lr,
                    images_per_second=line.images_per_second,
                    seconds=line.seconds,
                    is_best=False,
                    val_probability=measured.probability,
                )
            )
            schedule.update(self.recorder.score(result))
            patience.update(epoch, self.recorder.score(result))
            self.keep(result)
            self.tell(result)
            self.save(self.run.last_checkpoint)

    def train_epoch(self, epoch: int, line: LiveLine) -> float:
        """Train for one epoch; return the mean loss over all processes."""
        self.batches.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        drawn = iter(self.batches)  # draws a random number, so it comes before the epoch's seed is set
        self.module.begin_epoch(epoch)
        for number, batch in enumerate(drawn, 1):
            with self.job.watch.step(batch.images):
                loss = self._step(self._moved(batch), number)
            line.trained(len(batch.labels) * self.fabric.world_size, loss, number, len(self.batches))
            self.stop.check()
            if number == FIRST_STEPS:
                self._expect_time(line.images_per_second)
            # several processes have to agree, which they do before each epoch
            if self.fabric.world_size == 1 and self.job.budget.ends_epoch():
                break
        return self.module.train_loss.compute().item()

    def _expect_time(self, images_per_second: float) -> None:
        """Estimate what an epoch takes from its first steps, where no features were computed before them."""
        budget, inputs = self.job.budget, self.job.inputs
        if budget.limit is not None and not budget.epoch_seconds:
            seconds = 1 / (STEP_PER_FEATURE * max(images_per_second, 1e-9))
            budget.expect(seconds, len(inputs.train), len(inputs.val))

    def _note_time(self, epoch: float, validation: float) -> None:
        """Add the seconds of an epoch to the budget; after the first one, say how many more fit."""
        budget, is_first = self.job.budget, self.state.steps <= len(self.batches)
        budget.measured(epoch, validation)
        if is_first:
            self._say_plan()

    def _say_plan(self) -> None:
        """Report how many epochs fit into a limited time, as soon as the speed is known."""
        if self.job.budget.limit is not None and self.job.budget.epoch_seconds:
            self.reporter.note(self.job.budget.plan_in_words())

    def _step(self, batch: Batch, number: int) -> torch.Tensor:
        with self.fabric.autocast():
            loss: torch.Tensor = self.model.training_step(batch, number)
        self.optimizer.zero_grad()
        self.fabric.backward(loss)
        if (norm := self.recipe.optimizer.clip_norm) is not None:
            self.state.precision.unscale_gradients(self.state.optimizer)
            nn.utils.clip_grad_norm_(self.module.network.parameters(), norm)
        self.optimizer.step()
        self.state.schedule.step()
        self.state.steps += 1
        self.state.average.update()
        return loss.detach()

    @torch.no_grad()
    def validate(self, line: LiveLine) -> Measured:
        """Figures of the averaged weights on the validation images of all processes."""
        self.module.eval()
        with self.state.average.shown():
            for number, batch in enumerate(self.val_batches, 1):
                with self.fabric.autocast():
                    self.model.validation_step(self._moved(batch))
                line.validated(number, len(self.val_batches))
                self.stop.check()
        self.module.train()
        return self.module.measured()

    def _moved(self, batch: Batch) -> Batch:
        place = self.fabric.device
        return Batch(batch.images.to(place, non_blocking=True), batch.labels.to(place, non_blocking=True), batch.bad)

    def begin(self) -> None:
        """Save the linear probe, which may stay the best model, and a first checkpoint to resume from."""
        before = self.job.before
        if before is not None:
            self.recorder.epochs.append(before)
            self.job.keep(before)
            self.recorder.write(self.run.metrics)
            self.reporter.epoch(before, self.recipe.max_epochs)
        # only rank 0 has fitted the probe, and all ranks must agree on the best epoch
        self.recorder.epochs = self.fabric.broadcast(self.recorder.epochs)
        self._look_at_start()
        if self.recorder.next_epoch < self.recipe.max_epochs:
            self.state.average.begin(len(self.batches))
            self._say_choice()
            if self.fabric.is_global_zero:
                self.run.summary.unlink(missing_ok=True)
            if self.state.steps == 0:
                # so that a run killed in its first epoch can be resumed
                self.save(self.run.last_checkpoint)

    def _say_choice(self) -> None:
        """Report the optimizer and its batches, and that another figure than accuracy chooses the epoch to keep."""
        self.reporter.note(in_words(self.recipe, self.job.card.recipe))
        if self.recorder.best_by != ACCURACY:
            count = len(self.job.inputs.val)
            self.reporter.note(
                f"The epoch with {BEST[self.recorder.best_by]} on the {count} validation images is kept, not the one "
                "with the highest accuracy (--training.best_by)."
            )

    def _look_at_start(self) -> None:
        """Train the statistics of batch norm, too, if the fitted classifier shows that they do not suit the images."""
        first, classes = next(iter(self.recorder.epochs), None), self.job.card.classes
        if first is None or first.is_trained or suits(first, len(classes)):
            return
        size = self.job.card.preprocessing
        self.reporter.warn(
            f"The fitted classifier hardly tells the classes apart: the true one gets a probability of "
            f"{first.val_probability:.2f} on average, by chance {1 / len(classes):.2f}. The network's features do not "
            f"suit images of {size.height}x{size.width} pixels; a larger --data.input_size or another network may help."
        )
        if self.job.card.recipe["training"]["freeze_statistics"] is None:
            self.recipe = replace(self.recipe, training=replace(self.recipe.training, freeze_statistics=False))
            self.module.recipe = self.recipe

    def save(self, path: Path) -> None:
        """Write a checkpoint, on rank 0 only."""
        if self.fabric.is_global_zero:
            self.state.save(path)

    def keep(self, result: EpochResult) -> None:
        """Write the metrics of an epoch, and the model if it is the best so far, on rank 0 only."""
        if not self.fabric.is_global_zero:
            return
        if not self.run.config.is_file():
            raise StorageError(f"the run folder {self.run.path} was removed while the training was running")
        if result.is_best:
            self.job.keep(result, self.state.average.weights())
            best = self.run.epoch_checkpoint(result.epoch)
            self.save(best)
            for older in self.run.checkpoints.glob("epoch_*.ckpt"):
                if older != best:
                    older.unlink(missing_ok=True)
        self.recorder.write(self.run.metrics)
        if self.log is not None:
            figures = {"val/accuracy": result.val_accuracy, "val/loss": result.val_loss, "epoch": result.epoch}
            self.log.log_metrics(figures, self.state.steps)
            self.log.save()

    def tell(self, result: EpochResult) -> None:
        """Report an epoch, and the images that could not be decoded in it."""
        for path in sorted(self.module.bad_images - self._told):
            self.reporter.warn(f"left out, cannot be decoded: {path}")
        self._told |= self.module.bad_images
        if not math.isfinite(result.val_loss):
            self.reporter.warn(
                f"The network's answers to the validation images are no numbers after epoch {result.epoch + 1}: the "
                f"learning rate is probably too high (--optimizer.lr, now {asked_rate(self.module.card)})."
            )
        self.reporter.epoch(result, self.recipe.max_epochs)

    def tell_fall(self) -> None:
        """Report that the learning rate has fallen since the last epoch."""
        lr, before = self.state.schedule.lr, self.recorder.epochs[-1].lr if self.recorder.epochs else 0.0
        if 0 < lr < before:
            direction = "falling" if self.recorder.monitor == LOSS else "rising"
            figure = f"val/{self.recorder.monitor} is not {direction}"
            self.reporter.note(f"{figure}: learning rate {before:.2g} -> {lr:.2g}.")


def has_tensorboard() -> bool:
    """Whether TensorBoard is installed."""
    return find_spec("tensorboard") is not None
