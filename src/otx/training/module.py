"""The LightningModule: one network, its loss, its optimizer, and what is measured on the validation images."""

from __future__ import annotations

import math
from typing import Any

import lightning as L
import torch
from torch import nn
from torch.nn import functional
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy

from otx.data.loader import Batch
from otx.data.preprocessing import Preprocessing
from otx.errors import DataError, TrainingError
from otx.recipe import OptimizerSettings, SchedulerSettings


class Classifier(L.LightningModule):
    """Trains a network that maps images (N, 3, H, W) to logits (N, C) with cross-entropy.

    Logs `val/accuracy` (top-1, 0 to 1) and `val/loss` (nats) over all processes; keeps `train_loss`, the mean of
    the epoch. `card` is written into every checkpoint, so that a checkpoint says what it is.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(
        self,
        network: nn.Module,
        *,
        num_classes: int,
        preprocessing: Preprocessing,
        optimizer: OptimizerSettings,
        scheduler: SchedulerSettings,
        seed: int,
        card: str,
    ) -> None:
        super().__init__()
        self.network = network.to(memory_format=torch.channels_last)
        self.optimizer_settings, self.scheduler_settings = optimizer, scheduler
        self.seed, self.card = seed, card
        self.bad_images: set[str] = set()
        self.register_buffer("mean", torch.tensor(preprocessing.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(preprocessing.std).view(1, 3, 1, 1), persistent=False)
        self.train_loss = MeanMetric()
        # a validation loss may be no number where an untrained network explodes; it is shown as such
        self.val_loss = MeanMetric(nan_strategy="disable")
        self.val_accuracy = MulticlassAccuracy(num_classes, average="micro")

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (N, C) of images (N, 3, H, W) uint8."""
        pixels = images.to(dtype=torch.float32, memory_format=torch.channels_last)
        logits: torch.Tensor = self.network((pixels - self.mean) / self.std)
        return logits.float()

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        return Batch(batch.images.to(device, non_blocking=True), batch.labels.to(device, non_blocking=True), batch.bad)

    def on_train_epoch_start(self) -> None:
        # an epoch's random numbers depend on its number alone, so that a resumed run repeats them
        torch.manual_seed(self.seed * 1_000_003 + self.current_epoch)
        self.train_loss.reset()

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        self._note_bad(batch)
        loss = functional.cross_entropy(self(batch.images), batch.labels)
        if not math.isfinite(loss.item()):
            raise TrainingError(
                f"the loss became {loss.item()} in epoch {self.current_epoch + 1}, step {batch_idx + 1}",
                fix=f"lower the learning rate (--optimizer.lr, now {self.optimizer_settings.lr}); "
                "the best model so far is kept",
            )
        self.train_loss.update(loss.detach())
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        if len(batch.labels) == 0:
            return
        logits = self(batch.images)
        self.val_loss.update(functional.cross_entropy(logits, batch.labels), weight=len(batch.labels))
        self.val_accuracy.update(logits, batch.labels)

    def on_validation_epoch_end(self) -> None:
        self.log("val/accuracy", self.val_accuracy.compute())
        self.log("val/loss", self.val_loss.compute())
        self.val_accuracy.reset()
        self.val_loss.reset()

    def _note_bad(self, batch: Batch) -> None:
        self.bad_images.update(batch.bad)
        if len(batch.labels) == 0:
            raise DataError(f"no image of a whole batch could be decoded: {', '.join(batch.bad[:3])}")

    def configure_optimizers(self) -> Any:
        optimizer = _optimizer(self.network, self.optimizer_settings)
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(
            optimizer, mode="max", factor=self.scheduler_settings.factor, patience=self.scheduler_settings.patience
        )
        schedulers: list[dict[str, Any]] = [
            {"scheduler": plateau, "interval": "epoch", "monitor": "val/accuracy", "strict": True}
        ]
        steps = self.scheduler_settings.num_warmup_steps
        if steps > 0:
            warmup = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=1 / (steps + 1), total_iters=steps)
            schedulers.append({"scheduler": warmup, "interval": "step"})
        return [optimizer], schedulers

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["otx"] = self.card


def _optimizer(network: nn.Module, settings: OptimizerSettings) -> torch.optim.Optimizer:
    """The optimizer; biases and normalisation are spared the weight decay of AdamW, as is usual for transformers."""
    if settings.name == "sgd":
        return torch.optim.SGD(
            network.parameters(), lr=settings.lr, momentum=settings.momentum, weight_decay=settings.weight_decay
        )
    decayed = [parameter for parameter in network.parameters() if parameter.ndim > 1]
    spared = [parameter for parameter in network.parameters() if parameter.ndim <= 1]
    groups: list[dict[str, Any]] = [{"params": decayed}, {"params": spared, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=settings.lr, weight_decay=settings.weight_decay)
