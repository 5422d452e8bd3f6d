"""One network, its loss, its optimizer, and what is measured on the validation images."""

from __future__ import annotations

import json
import math
import warnings
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional
from torchmetrics import MeanMetric

from otx.data.loader import normalise
from otx.data.transport import Batch
from otx.errors import DataError, TrainingError
from otx.networks.build import head_names
from otx.networks.head import classifier_input
from otx.recipe import OptimizerSettings, Recipe
from otx.training.class_counts import ClassCounts
from otx.training.frozen import freeze_statistics
from otx.training.incremental import BODY_FACTOR, HEAD_FACTOR
from otx.training.losses import distillation_loss
from otx.training.objective import Objective
from otx.training.starting_point import StartingPoint


def asked_rate(card: str) -> float:
    """The learning rate that a model card's recipe asks for, before `defaults.py` adapted it to the optimizer."""
    return float(json.loads(card)["recipe"]["optimizer"]["lr"])


class Measured(NamedTuple):
    """Figures of validation images.

    Args:
        accuracy: top-1, 0 to 1; with a balanced objective the mean over the classes that have images, so that rare ones
            count like others.
        loss: cross-entropy in nats.
        probability: the mean probability of the true class, 0 to 1.
    """

    accuracy: float
    loss: float
    probability: float


class Classifier(nn.Module):
    """Trains a network that maps images (N, 3, H, W) to logits (N, C).

    Args:
        start: the network, its classes and its preprocessing.
        objective: its loss is called with logits (N, C), labels (N,), features (N, D) and the epoch, from 0.
        card: the model card, which goes into every checkpoint.
        is_fitted: the classifier was fitted as a linear probe before, so this is fine tuning.

    Attributes:
        epoch: the current epoch, counted from 0.
        train_loss: the mean loss of the epoch.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(
        self, start: StartingPoint, objective: Objective, recipe: Recipe, *, card: str, is_fitted: bool = False
    ) -> None:
        super().__init__()
        self.network = start.network.to(memory_format=torch.channels_last)
        self.recipe, self.card, self.is_fitted = recipe, card, is_fitted
        self.loss, self.distillation = objective.loss, objective.distillation
        self.is_balanced = objective.is_balanced
        self.bad_images: set[str] = set()
        self.epoch = 0
        self.register_buffer("mean", torch.tensor(start.preprocessing.mean), persistent=False)
        self.register_buffer("std", torch.tensor(start.preprocessing.std), persistent=False)
        self.train_loss = MeanMetric()
        # the validation loss of an untrained network may be NaN; it is shown as such
        self.val_loss = MeanMetric(nan_strategy="disable")
        self.val_counts = ClassCounts(len(start.classes))
        self.val_probability = MeanMetric(nan_strategy="disable")

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (N, C) of images (N, 3, H, W) uint8."""
        logits: torch.Tensor = self.network(self._input(images))
        return logits.float()

    def _input(self, images: torch.Tensor) -> torch.Tensor:
        return normalise(images, self.mean, self.std)

    def _with_features(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits (N, C), and what enters the classifier (N, D), as plain values.

        No gradient goes through the features: a loss that divides by them could be lowered by making them larger.
        """
        with classifier_input(self.network) as entered:
            logits = self(images)
        return logits, entered[0].detach().float()

    def move_teacher(self) -> None:
        """Move the distillation teacher to the device of this network."""
        if self.distillation is not None:
            self.distillation.teacher.to(self.mean.device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def begin_epoch(self, epoch: int) -> None:
        """Set what depends on the epoch, also the random seed, so that a resumed run repeats it."""
        self.epoch = epoch
        torch.manual_seed(self.recipe.seed * 1_000_003 + epoch)
        self.train_loss.reset()
        freeze_statistics(self.network, whole=self.is_frozen())

    def training_step(self, batch: Batch, number: int) -> torch.Tensor:
        """The loss of a step, counted from 1 in each epoch.

        Raises:
            TrainingError: the loss is not finite.
        """
        self._note_bad(batch)
        if len(batch.labels) == 1:
            # batch norm cannot take a single image if its feature map is 1x1
            freeze_statistics(self.network)
        loss = self.loss_of(batch)
        if len(batch.labels) == 1 and not self.is_frozen():
            self.network.train()
            freeze_statistics(self.network, whole=False)
        if not math.isfinite(loss.item()):
            raise TrainingError(
                f"the loss became {loss.item()} in epoch {self.epoch + 1}, step {number}: {self._reason(number)}",
                fix=f"lower the learning rate (--optimizer.lr, now {asked_rate(self.card)}), or begin from other "
                "weights; the best model so far is kept",
            )
        self.train_loss.update(loss.detach())
        return loss

    def is_frozen(self) -> bool:
        """Whether batch norm keeps its running statistics.

        Images of new classes alone would move what normalises those of the old ones; and a few steps move what the
        fitted classifier was fitted to.
        """
        return self.distillation is not None or bool(self.recipe.training.freeze_statistics)

    def _reason(self, number: int) -> str:
        """Why the loss is probably not finite. Images are integers from 0 to 255, so they are not the reason."""
        if (self.epoch, number) == (0, 1):
            broken = [name for name, value in self.network.state_dict().items() if not value.isfinite().all()]
            if broken:
                return f"the weights that the training began from hold values that are no numbers ({broken[0]})"
        return "most likely the learning rate is too high"

    def loss_of(self, batch: Batch) -> torch.Tensor:
        """The loss of a batch, which a training step minimises: a single value."""
        logits, features = self._with_features(batch.images)
        if self.distillation is None:
            loss: torch.Tensor = self.loss(logits, batch.labels, features, self.epoch)
            return loss
        with torch.no_grad():
            wanted = self.distillation.teacher(self._input(batch.images)).float()
        own, labels = self.distillation.among_present(logits, batch.labels)
        kept = distillation_loss(logits[:, : wanted.shape[1]], wanted)
        learnt: torch.Tensor = self.loss(own, labels, features, self.epoch)
        return learnt + self.distillation.weight * kept

    def validation_step(self, batch: Batch) -> None:
        """Measure the network on some validation images."""
        self.bad_images.update(batch.bad)
        if len(batch.labels) == 0:
            return
        logits = self(batch.images)
        self.val_loss.update(functional.cross_entropy(logits, batch.labels), weight=len(batch.labels))
        self.val_counts.update(logits, batch.labels)
        self.val_probability.update(logits.softmax(dim=1).gather(1, batch.labels[:, None]))

    def measured(self) -> Measured:
        """What the network reached on the validation images of all processes since it was asked for last."""
        # first, since it says so where there was no image
        accuracy = self._accuracy().item()
        measured = Measured(accuracy, self.val_loss.compute().item(), self.val_probability.compute().item())
        for metric in (self.val_counts, self.val_loss, self.val_probability):
            metric.reset()
        return measured

    def _accuracy(self) -> torch.Tensor:
        with warnings.catch_warnings():
            # of images that could not be decoded there was no update; that is said below
            warnings.filterwarnings("ignore", message=".*was called before the ``update`` method")
            hits, images = self.val_counts.compute()
        if images.sum() == 0:
            raise DataError(f"no validation image could be decoded: {', '.join(sorted(self.bad_images)[:3])}")
        if self.is_balanced:
            return (hits / images)[images > 0].mean()
        return hits.sum() / images.sum()

    def _note_bad(self, batch: Batch) -> None:
        self.bad_images.update(batch.bad)
        if len(batch.labels) == 0:
            raise DataError(f"no image of a whole batch could be decoded: {', '.join(batch.bad[:3])}")

    def make_optimizer(self, *, fused: bool) -> torch.optim.Optimizer:
        """The optimizer; the network learns slowly and the classifier fast where old answers are kept."""
        body, head = (BODY_FACTOR, HEAD_FACTOR) if self.distillation is not None else (1.0, 1.0)
        return make_optimizer(self.network, self.recipe.optimizer, body=body, head=head, fused=fused)


def make_optimizer(
    network: nn.Module, settings: OptimizerSettings, *, body: float = 1.0, head: float = 1.0, fused: bool = False
) -> torch.optim.Optimizer:
    """The optimizer; biases and normalisation are spared the weight decay of AdamW, as is usual for transformers.

    Args:
        body: factor of the learning rate of all but the classifier.
        head: factor of the learning rate of the classifier.
        fused: all of a step in one piece of code.
    """
    heads = head_names(network)
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        spared = settings.name != "sgd" and parameter.ndim <= 1
        groups.setdefault((head if name in heads else body, spared), []).append(parameter)
    options = [
        {"params": own, "lr": settings.lr * factor, "weight_decay": 0.0 if spared else settings.weight_decay}
        for (factor, spared), own in groups.items()
    ]
    if settings.name == "sgd":
        return torch.optim.SGD(options, lr=settings.lr, momentum=settings.momentum, fused=fused)
    return torch.optim.AdamW(options, lr=settings.lr, fused=fused)
