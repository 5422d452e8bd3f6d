"""Fill in the settings that a recipe leaves open: what is best differs between fine tuning and a training from scratch.

Fine tuning begins with a classifier that was fitted to features. Each value was measured in docs/accuracy.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from otx.data.augmentation import SCALE
from otx.data.dataset import Dataset
from otx.recipe import (
    ACCURACY,
    AUTO,
    BATCH_SIZE,
    PROBABILITY,
    OptimizerSettings,
    Recipe,
    TrainingSettings,
    TrainSubsetSettings,
)
from otx.results import EpochResult
from otx.schema import to_plain
from otx.training.objective import Objective

# AdamW in place of SGD: its learning rate in proportion to SGD's
ADAMW_LR = 0.05
# with so few images an epoch would have few steps
FEW_TRAIN, SMALL_BATCH = 1000, 16
# so few make accuracy coarse, but not the probabilities
FEW_VAL = 500
TUNING_SCALE = (0.3, 1.0)
# a fitted classifier that gains less over chance says that the features do not suit the images
LEAST_GAIN = 0.05


def with_defaults(recipe: Recipe, dataset: Dataset, objective: Objective, *, is_fitted: bool) -> Recipe:
    """The recipe with a value for each setting that is `auto` or null and depends on the kind of training.

    Args:
        is_fitted: the classifier is fitted before the first epoch, so this is fine tuning.
    """
    # old outputs are kept by SGD at rates of their own (incremental.py)
    keeps_old = objective.distillation is not None
    are_few = is_fitted and not objective.is_balanced and len(dataset.val) < FEW_VAL
    return replace(
        recipe,
        optimizer=_optimizer(recipe.optimizer, is_fitted=is_fitted, keeps_old=keeps_old),
        training=_training(recipe.training, is_fitted=is_fitted, freezes=is_fitted or keeps_old, are_few=are_few),
        data=replace(recipe.data, train_subset=_subset(recipe.data.train_subset, len(dataset.train), is_fitted)),
    )


def suits(before: EpochResult, num_classes: int) -> bool:
    """Whether a fitted classifier tells the classes apart: the mean probability of the true class is above chance.

    If not (photos of 32x32 pixels, say, for a network that was trained on those of 224x224), the running statistics
    of batch norm do not suit the images either, and a network that keeps them may never learn.
    """
    chance = 1 / num_classes
    return before.val_probability is None or before.val_probability - chance >= LEAST_GAIN * (1 - chance)


def filled_in(recipe: Recipe) -> dict[str, Any]:
    """The settings that `with_defaults` fills in, with their values."""
    optimizer, training, subset = recipe.optimizer, recipe.training, recipe.data.train_subset
    return {
        "optimizer.name": optimizer.name,
        "optimizer.lr": optimizer.lr,
        "optimizer.clip_norm": optimizer.clip_norm,
        "data.train_subset.batch_size": subset.batch_size,
        "data.train_subset.augmentation.scale": to_plain(subset.augmentation.scale),
        "training.best_by": training.best_by,
        "training.monitor": training.monitor,
        "training.average_epochs": training.average_epochs,
        "training.freeze_statistics": training.freeze_statistics,
    }


def in_words(recipe: Recipe, asked: Mapping[str, Any]) -> str:
    """The optimizer and its batches, for the user.

    Args:
        asked: the recipe before `with_defaults`, as a dictionary.
    """
    name = {"sgd": "SGD", "adamw": "AdamW"}[recipe.optimizer.name]
    images = recipe.data.train_subset.batch_size
    rate = f"{recipe.optimizer.lr:.2g}"
    if asked["optimizer"]["name"] == AUTO and recipe.optimizer.name == "adamw":
        rate += ", a twentieth of optimizer.lr,"
    return f"{name} with a learning rate of {rate} and {images} images a step (docs/training.md)."


def _optimizer(settings: OptimizerSettings, *, is_fitted: bool, keeps_old: bool) -> OptimizerSettings:
    if settings.name == AUTO:
        tunes = is_fitted and not keeps_old
        rate = float(f"{ADAMW_LR * settings.lr:.4g}") if tunes else settings.lr
        settings = replace(settings, name="adamw" if tunes else "sgd", lr=rate)
    # a fitted classifier has larger weights than a fresh one, and hands larger gradients down by as much
    return replace(settings, clip_norm=1.0) if is_fitted and settings.clip_norm is None else settings


def _training(settings: TrainingSettings, *, is_fitted: bool, freezes: bool, are_few: bool) -> TrainingSettings:
    figure = PROBABILITY if are_few else ACCURACY
    average = settings.average_epochs
    return replace(
        settings,
        best_by=figure if settings.best_by == AUTO else settings.best_by,
        monitor=figure if settings.monitor == AUTO else settings.monitor,
        average_epochs=float(is_fitted) if average is None else average,
        freeze_statistics=freezes if settings.freeze_statistics is None else settings.freeze_statistics,
    )


def _subset(settings: TrainSubsetSettings, num_images: int, is_fitted: bool) -> TrainSubsetSettings:
    small = is_fitted and num_images < FEW_TRAIN
    scale = settings.augmentation.scale or (TUNING_SCALE if is_fitted else SCALE)
    return replace(
        settings,
        batch_size=(SMALL_BATCH if small else BATCH_SIZE) if settings.batch_size is None else settings.batch_size,
        augmentation=replace(settings.augmentation, scale=scale),
    )
