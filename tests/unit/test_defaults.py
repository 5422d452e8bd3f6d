"""What a recipe leaves open is filled in by the kind of training, and what it says is kept."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import nn

from otx.data.dataset import Dataset, Subset
from otx.recipe import Recipe
from otx.results import EpochResult
from otx.training.defaults import in_words, suits, with_defaults
from otx.training.incremental import Distillation
from otx.training.objective import Objective


def dataset(train: int, val: int) -> Dataset:
    parts = {"train": train, "val": val, "test": 0}
    images = {name: Subset.of([(f"{name}{n}.jpg", n % 2) for n in range(count)]) for name, count in parts.items()}
    return Dataset(Path("photos"), ("a", "b"), "class folders", **images)


PLAIN = Objective(nn.CrossEntropyLoss(), None, is_balanced=False)
GROWN = Objective(nn.CrossEntropyLoss(), None, is_balanced=True)
DISTILLED = Objective(nn.CrossEntropyLoss(), Distillation(nn.Identity(), [0], 1.0), is_balanced=True)
# optimizer, learning rate, images a step, figure that chooses, epochs averaged, frozen statistics, smallest crop
FROM_SCRATCH = ("sgd", 0.0058, 64, "accuracy", 0.0, False, 0.08)


@pytest.mark.parametrize(
    ("counts", "objective", "is_fitted", "expected"),
    [
        ((5000, 999), PLAIN, False, FROM_SCRATCH),
        ((50, 9), PLAIN, False, FROM_SCRATCH),
        ((999, 499), PLAIN, True, ("adamw", 0.00029, 16, "probability", 1.0, True, 0.3)),
        ((1000, 499), PLAIN, True, ("adamw", 0.00029, 64, "probability", 1.0, True, 0.3)),
        ((1000, 500), PLAIN, True, ("adamw", 0.00029, 64, "accuracy", 1.0, True, 0.3)),
        ((50, 9), GROWN, True, ("adamw", 0.00029, 16, "accuracy", 1.0, True, 0.3)),
        ((50, 9), DISTILLED, False, ("sgd", 0.0058, 64, "accuracy", 0.0, True, 0.08)),
    ],
)
def test_it_depends_on_the_training(
    counts: tuple[int, int], objective: Objective, is_fitted: bool, expected: tuple[object, ...]
) -> None:
    recipe = with_defaults(Recipe(), dataset(*counts), objective, is_fitted=is_fitted)
    training, subset = recipe.training, recipe.data.train_subset
    assert training.monitor == training.best_by
    assert subset.augmentation.scale is not None
    found = (recipe.optimizer.name, recipe.optimizer.lr, subset.batch_size, training.best_by, training.average_epochs)
    assert (*found, training.freeze_statistics, subset.augmentation.scale[0]) == expected
    assert recipe.optimizer.clip_norm == (1.0 if is_fitted else None)
    assert with_defaults(recipe, dataset(9, 9), PLAIN, is_fitted=False) == recipe


def test_what_the_recipe_says_is_kept() -> None:
    said = {
        "optimizer.name": "sgd",
        "optimizer.lr": 0.01,
        "optimizer.clip_norm": 3.0,
        "data.train_subset.batch_size": 7,
        "data.train_subset.augmentation.scale": [0.5, 0.9],
        "training.monitor": "loss",
        "training.best_by": "accuracy",
        "training.average_epochs": 0.0,
        "training.freeze_statistics": False,
    }
    recipe = Recipe().override(said)
    assert with_defaults(recipe, dataset(50, 9), PLAIN, is_fitted=True) == recipe


def test_a_learning_rate_that_is_not_the_one_asked_for_is_explained() -> None:
    asked = Recipe().override({"optimizer.lr": 0.001})
    filled = with_defaults(asked, dataset(50, 9), PLAIN, is_fitted=True)
    expected = "AdamW with a learning rate of 5e-05, a twentieth of optimizer.lr, and 16 images a step"
    assert in_words(filled, asked.to_dict()).startswith(expected)
    named = asked.override({"optimizer.name": "adamw"})
    filled = with_defaults(named, dataset(50, 9), PLAIN, is_fitted=True)
    assert in_words(filled, named.to_dict()).startswith("AdamW with a learning rate of 0.001 and 16 images a step")


@pytest.mark.parametrize(
    ("probability", "num_classes", "expected"),
    [(0.12, 10, False), (0.2, 10, True), (0.51, 2, False), (0.6, 2, True), (0.06, 1000, True), (None, 10, True)],
)
def test_features_suit_the_images_if_a_classifier_tells_them_apart(
    probability: float | None, num_classes: int, expected: bool
) -> None:
    before = EpochResult(-1, 1.0, 1.0, 0.5, 0.0, 0.0, 1.0, is_best=True, val_probability=probability)
    assert suits(before, num_classes) is expected
