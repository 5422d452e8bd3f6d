"""The state of a training, and its checkpoint."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.precision import Precision
from torch.optim import lr_scheduler

from otx.errors import UsageError
from otx.files import atomic
from otx.recipe import SchedulerSettings
from otx.training.acceleration.cpu_kernels import kernel_choices_of, set_kernel_choices
from otx.training.average import Average
from otx.training.module import Classifier, asked_rate
from otx.training.recorder import EpochRecorder
from otx.training.stopping import WHOLE, EarlyStopping

# keys of the first checkpoints, which Lightning's Trainer wrote
JOURNAL, SCALER = "Journal", "MixedPrecision"
PATIENCE = "Stopper{'monitor': 'val/accuracy', 'mode': 'max'}"


class Schedule:
    """The learning rate: warm-up in the first steps, then ReduceLROnPlateau on the score of the epochs.

    Args:
        per_pass: how many epochs draw as many images as one that is not shortened. The learning rate falls after as
            many images without a better score as with whole epochs.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, settings: SchedulerSettings, per_pass: Fraction = WHOLE
    ) -> None:
        self.optimizer, self.factor = optimizer, settings.factor
        # ReduceLROnPlateau acts in the epoch after its patience
        self.patience = math.ceil((settings.patience + 1) * per_pass) - 1
        self.plateau = lr_scheduler.ReduceLROnPlateau(
            optimizer, mode="max", factor=settings.factor, patience=self.patience
        )
        steps = settings.num_warmup_steps
        self.warmup = (
            lr_scheduler.LinearLR(optimizer, start_factor=1 / (steps + 1), total_iters=steps) if steps > 0 else None
        )

    @property
    def lr(self) -> float:
        return float(self.optimizer.param_groups[0]["lr"])

    def step(self) -> None:
        """Called after each step: warm-up."""
        if self.warmup is not None:
            self.warmup.step()

    def update(self, score: float) -> None:
        """Called after each epoch, before its checkpoint is written, so that resuming loses no update."""
        self.plateau.step(score)

    def state_dicts(self) -> list[dict[str, Any]]:
        return [each.state_dict() for each in (self.plateau, self.warmup) if each is not None]

    def load_state_dicts(self, states: list[dict[str, Any]]) -> None:
        for each, state in zip((self.plateau, self.warmup), states, strict=False):
            if each is not None:
                each.load_state_dict(state)
        # from the recipe and the images, like that of early stopping: older checkpoints did not lengthen it
        self.plateau.patience, self.plateau.factor = self.patience, self.factor


def write_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write a file that `torch.load` reads, whole or not at all."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    with atomic(path, "wb") as file:
        file.write(buffer.getbuffer())


def was_fitted(path: Path) -> bool:
    """Whether the training of a checkpoint began with a fitted classifier."""
    return bool(torch.load(path, map_location="cpu", weights_only=True, mmap=True).get("is_fitted", False))


@dataclass
class State:
    """Everything that changes during a training.

    Attributes:
        precision: holds the gradient scaler of 16-bit training.
        steps: optimizer steps over all epochs.
        rates: the learning rate of each group of parameters at the start.
        average: the weights that are measured and kept.
    """

    module: Classifier
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    precision: Precision
    patience: EarlyStopping
    recorder: EpochRecorder = field(default_factory=EpochRecorder)
    steps: int = 0
    average: Average = field(init=False)
    rates: list[float] = field(init=False)

    def __post_init__(self) -> None:
        # warm-up has already lowered `lr`
        self.rates = [group.get("initial_lr", group["lr"]) for group in self.optimizer.param_groups]
        self.average = Average(self.module.network, self.module.recipe.training.average_epochs or 0.0)

    def save(self, path: Path) -> None:
        """Write a checkpoint atomically."""
        scaler = self.precision.state_dict()
        checkpoint = {
            "epoch": self.module.epoch,
            "global_step": self.steps,
            "state_dict": self.module.state_dict(),
            "optimizer_states": [self.optimizer.state_dict()],
            "lr_schedulers": self.schedule.state_dicts(),
            "callbacks": {JOURNAL: self.recorder.state_dict(), PATIENCE: self.patience.state_dict()},
            "otx": self.module.card,
            "is_fitted": self.module.is_fitted,
            "ways": kernel_choices_of(self.module.network),
            **({SCALER: scaler} if scaler else {}),
            **self.average.state_dict(),
        }
        write_checkpoint(path, checkpoint)

    def load(self, path: Path) -> None:
        """Read a checkpoint back; settings that have another value now keep it.

        Raises:
            UsageError: it has the state of another optimizer.
        """
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        self.steps = checkpoint["global_step"]
        set_kernel_choices(self.module.network, checkpoint.get("ways", []))
        self.module.load_state_dict(checkpoint["state_dict"])
        self.average.load_state_dict(checkpoint)
        before, now = asked_rate(checkpoint.get("otx", self.module.card)), asked_rate(self.module.card)
        self._load_optimizer(checkpoint["optimizer_states"][0], now / before if before else 1.0)
        self.schedule.load_state_dicts(checkpoint["lr_schedulers"])
        self.recorder.load_state_dict(checkpoint["callbacks"][JOURNAL])
        if PATIENCE in checkpoint["callbacks"]:
            self.patience.load_state_dict(checkpoint["callbacks"][PATIENCE])
        if SCALER in checkpoint:
            self.precision.load_state_dict(checkpoint[SCALER])

    def _load_optimizer(self, saved: dict[str, Any], change: float) -> None:
        """Read the optimizer's state, but for the settings.

        Args:
            change: factor on the learning rates, which keep how far they have fallen.
        """
        groups = self.optimizer.param_groups
        if _kinds(saved["param_groups"]) != _kinds(groups):
            raise UsageError(
                "the optimizer of the checkpoint is another one, or trained other groups of weights",
                fix="leave out --optimizer.name and --training.distillation, or start a new run from its model: "
                "--checkpoint MODEL",
            )
        names = ("weight_decay", "momentum")
        settings = [{name: value for name, value in group.items() if name in names} for group in groups]
        self.optimizer.load_state_dict(saved)
        for group, own in zip(self.optimizer.param_groups, settings, strict=True):
            group.update(own)
            group["lr"] *= change


def _kinds(groups: list[dict[str, Any]]) -> list[tuple[int, bool]]:
    """How many parameters each group has, and whether it is one of AdamW."""
    return [(len(group["params"]), "betas" in group) for group in groups]
