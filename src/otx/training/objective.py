"""Choose what a training minimises, and tell the user about it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import nn

from otx.data.dataset import Dataset
from otx.events import Reporter
from otx.recipe import CLASS_BALANCED, CROSS_ENTROPY, INFLUENCE_BALANCED, Recipe, TrainingSettings
from otx.training.incremental import Distillation
from otx.training.losses import make_loss
from otx.training.starting_point import StartingPoint


@dataclass(frozen=True)
class Objective:
    """The loss, the distillation if the outputs of an old network are to be kept, and how accuracy is averaged.

    `is_balanced`: accuracy is the mean over the classes, so that rare old classes count as much as new ones.
    """

    loss: nn.Module
    distillation: Distillation | None
    is_balanced: bool

    @property
    def keeps_old(self) -> bool:
        """Whether the model that the training began from is needed later, to resume and to compare with."""
        return self.is_balanced or self.distillation is not None


def choose_objective(start: StartingPoint, dataset: Dataset, recipe: Recipe, reporter: Reporter) -> Objective:
    """The objective that the recipe asks for; it depends on which classes are new and which have no images."""
    settings = recipe.training
    absent = start.classes_without_images(dataset)
    grown = len(dataset.classes) > start.num_old > 0
    is_balanced = grown or bool(absent)
    _say_loss(settings, reporter, grown=grown and not absent)
    if is_balanced:
        reporter.note(
            "val/accuracy is the mean over the classes here, so that rare old ones count as much as new ones."
        )
    counts = np.bincount(dataset.train.labels, minlength=len(dataset.classes))
    distillation = None
    if _distils(settings, start, reporter, is_needed=bool(absent)) and start.teacher is not None:
        present = np.flatnonzero(counts).tolist()
        distillation = Distillation(start.teacher, present, settings.distillation_weight)
        counts = counts[counts > 0]
    if recipe.data.train_subset.sampler == "balanced":
        # the sampler already draws all classes equally often: the loss must not weight rare ones again
        counts = np.ones_like(counts)
        if settings.loss == CLASS_BALANCED:
            reporter.warn(
                "--training.loss class_balanced changes nothing here: the balanced sampler already draws all classes "
                "equally often. --data.train_subset.sampler random goes with it."
            )
    loss = make_loss(
        settings.loss,
        counts.tolist(),
        alpha=settings.alpha,
        start_epoch=settings.start_epoch,
        label_smoothing=settings.label_smoothing,
    )
    return Objective(loss, distillation, is_balanced)


def _say_loss(settings: TrainingSettings, reporter: Reporter, *, grown: bool) -> None:
    if settings.loss == INFLUENCE_BALANCED:
        reporter.note(f"Influence-balanced loss from epoch {settings.start_epoch + 1} on.")
    elif grown and settings.loss == CROSS_ENTROPY:
        reporter.note(
            "The loss is cross-entropy: where classes join a model, influence_balanced was not better "
            "(--training.loss, docs/accuracy.md)."
        )


def _distils(settings: TrainingSettings, start: StartingPoint, reporter: Reporter, *, is_needed: bool) -> bool:
    """Whether to distil the old model: by default, if old classes have no images here."""
    if is_needed if settings.distillation is None else settings.distillation and start.teacher is not None:
        reporter.note(
            "Learning without forgetting: the old model's answers keep the classes that have no images here "
            "(--training.distillation false turns it off)."
        )
        return True
    if is_needed:
        reporter.warn("Classes without images will be forgotten: --training.distillation is off.")
    return False
