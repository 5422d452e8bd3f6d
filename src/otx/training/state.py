"""All that changes while a network is trained, and the checkpoint it is kept in."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.precision import Precision
from torch.optim import lr_scheduler

from otx.files import atomic
from otx.recipe import SchedulerSettings
from otx.training.acceleration.cpu_kernels import kernel_choices_of, set_kernel_choices
from otx.training.journal import Journal
from otx.training.module import Classifier
from otx.training.stopping import Patience

# names in the checkpoints of the first otx, which Lightning's Trainer wrote
JOURNAL, SCALER = "Journal", "MixedPrecision"
PATIENCE = "Stopper{'monitor': 'val/accuracy', 'mode': 'max'}"


class Schedule:
    """The learning rate of an optimizer: it rises in the first steps, and falls where `val/accuracy` does not rise."""

    def __init__(self, optimizer: torch.optim.Optimizer, settings: SchedulerSettings) -> None:
        self.optimizer = optimizer
        self.plateau = lr_scheduler.ReduceLROnPlateau(
            optimizer, mode="max", factor=settings.factor, patience=settings.patience
        )
        steps = settings.num_warmup_steps
        self.warmup = (
            lr_scheduler.LinearLR(optimizer, start_factor=1 / (steps + 1), total_iters=steps) if steps > 0 else None
        )

    @property
    def lr(self) -> float:
        return float(self.optimizer.param_groups[0]["lr"])

    def step(self) -> None:
        """A step is done."""
        if self.warmup is not None:
            self.warmup.step()

    def look(self, accuracy: float) -> None:
        """An epoch is done; called before its checkpoint is written, so that a resumed run misses no look."""
        self.plateau.step(accuracy)

    def state_dicts(self) -> list[dict[str, Any]]:
        return [each.state_dict() for each in (self.plateau, self.warmup) if each is not None]

    def load_state_dicts(self, states: list[dict[str, Any]]) -> None:
        for each, state in zip((self.plateau, self.warmup), states, strict=False):
            if each is not None:
                each.load_state_dict(state)


@dataclass
class State:
    """A training between two steps.

    Attributes:
        precision: knows by which factor 16-bit gradients are multiplied.
        steps: of the optimizer, in all epochs.
    """

    module: Classifier
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    precision: Precision
    patience: Patience
    journal: Journal = field(default_factory=Journal)
    steps: int = 0

    def save(self, path: Path) -> None:
        """Write a checkpoint, whole or not at all: in memory first, then beside its place."""
        scaler = self.precision.state_dict()
        checkpoint = {
            "epoch": self.module.epoch,
            "global_step": self.steps,
            "state_dict": self.module.state_dict(),
            "optimizer_states": [self.optimizer.state_dict()],
            "lr_schedulers": self.schedule.state_dicts(),
            "callbacks": {JOURNAL: self.journal.state_dict(), PATIENCE: self.patience.state_dict()},
            "otx": self.module.card,
            "is_fitted": self.module.is_fitted,
            "ways": kernel_choices_of(self.module.network),
            **({SCALER: scaler} if scaler else {}),
        }
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        with atomic(path, "wb") as file:
            file.write(buffer.getbuffer())

    def load(self, path: Path) -> None:
        """Go on from a checkpoint."""
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        self.steps = checkpoint["global_step"]
        self.module.is_fitted = checkpoint.get("is_fitted", False)
        set_kernel_choices(self.module.network, checkpoint.get("ways", []))
        self.module.load_state_dict(checkpoint["state_dict"])
        self.optimizer.load_state_dict(checkpoint["optimizer_states"][0])
        self.schedule.load_state_dicts(checkpoint["lr_schedulers"])
        self.journal.load_state_dict(checkpoint["callbacks"][JOURNAL])
        if PATIENCE in checkpoint["callbacks"]:
            self.patience.load_state_dict(checkpoint["callbacks"][PATIENCE])
        if SCALER in checkpoint:
            self.precision.load_state_dict(checkpoint[SCALER])
