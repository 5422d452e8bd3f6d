"""`--model auto`: choose a network by what a classifier fitted to its features gets right.

Each candidate computes features of the same images, a logistic regression is fitted to them and asked for images that
it was not fitted to, in turn (cross-validation). That takes seconds where a training takes minutes, and ranks
pretrained networks nearly as their whole trainings do.

Source: Kornblith, Shlens and Le, Do Better ImageNet Models Transfer Better?, CVPR 2019, arXiv 1805.08974.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from otx.data.dataset import Dataset, ImageSet, Split, pick_numbers
from otx.data.loader import ImageSubset
from otx.errors import UsageError
from otx.events import Progress, Reporter
from otx.model.regression import fit_regression, folds_of
from otx.networks.build import model_info
from otx.networks.table import MODELS, TIMM_PREFIX
from otx.networks.weights import initial_model
from otx.networks.weights_file import weights_in
from otx.recipe import AUTO, Recipe
from otx.training.budget import Budget
from otx.training.compute import NETWORK_VARIABLE, share
from otx.training.devices import Compute
from otx.training.inputs import plain_batches, to_network_input
from otx.training.linear_probe import Features, compute_features, has_linear_head
from otx.training.starting_point import BaseModel, make_preprocessing

MOST_IMAGES = 500
FOLDS = 3
PENALTY = 10.0
# without a GPU, networks that cost more than this are left out: one epoch of a thousand photos takes minutes
MOST_GFLOPS = 6.0
# of --max_time
SHARE = 0.25


@dataclass(frozen=True)
class Candidate:
    """A network as a recipe names it, and its weights file; None for the hub's."""

    name: str
    weights: str | None = None


@dataclass(frozen=True)
class Rated:
    """What a classifier on the features of a candidate reached on images that it was not fitted to."""

    candidate: Candidate
    accuracy: float
    loss: float


def with_chosen_network(
    recipe: Recipe, base: BaseModel | None, dataset: Dataset, compute: Compute, budget: Budget, reporter: Reporter
) -> Recipe:
    """The recipe with a network in place of `auto`; any other recipe as it is.

    Raises:
        ModelError: a weights file cannot be used.
        UsageError: no pretrained network can be had.
    """
    if recipe.model.name != AUTO:
        return recipe
    if base is not None:
        return _with(recipe, Candidate(f"{TIMM_PREFIX}{base.card.network}", recipe.model.weights))
    chosen = _choose(recipe, dataset, compute, budget, reporter) if compute.is_main else Candidate("")
    # all processes train the same network
    told = share(f"{chosen.name}\n{chosen.weights or ''}", compute.shard, compute.device, NETWORK_VARIABLE)
    name, _, weights = told.partition("\n")
    return _with(recipe, Candidate(name, weights or None))


def candidates(recipe: Recipe, compute: Compute) -> list[Candidate]:
    """The networks of the weights files in the folder `model.weights`; without one, those of `otx find`."""
    if recipe.model.weights is not None:
        return [Candidate(name, str(path)) for path, name in weights_in(Path(recipe.model.weights))]
    return [Candidate(info.name) for info in MODELS.values() if compute.is_gpu or info.gflops <= MOST_GFLOPS]


def _choose(recipe: Recipe, dataset: Dataset, compute: Compute, budget: Budget, reporter: Reporter) -> Candidate:
    rated: list[Rated] = []
    began = budget.clock()
    for candidate in candidates(recipe, compute):
        if rated and budget.limit is not None and budget.clock() - began > SHARE * budget.limit:
            reporter.note(f"--max_time leaves no time to look at {candidate.name}.")
            continue
        found = _rate(recipe, candidate, dataset, compute, reporter)
        rated += [] if found is None else [found]
    if not rated:
        raise UsageError(
            "--model auto compares pretrained networks, and none can be had",
            fix="--model.weights FOLDER with files of weights (NETWORK.safetensors), or name a network: --model "
            f"{next(iter(MODELS))}",
        )
    best = min(rated, key=lambda each: each.loss)
    figures = ", ".join(f"{each.candidate.name} {100 * each.accuracy:.1f} % (loss {each.loss:.3f})" for each in rated)
    count = min(MOST_IMAGES, len(dataset.train))
    reporter.note(
        f"--model auto takes {best.candidate.name}, whose loss is the lowest. Right answers of classifiers on features "
        f"of {count} training images, for images that they were not fitted to: {figures}."
    )
    return best.candidate


def _rate(recipe: Recipe, candidate: Candidate, dataset: Dataset, compute: Compute, reporter: Reporter) -> Rated | None:
    """None if the network has no pretrained weights here, or no classifier of one layer."""
    torch.manual_seed(recipe.seed)
    info, own = model_info(candidate.name), _with(recipe, candidate)
    size = make_preprocessing(own, info)
    made = initial_model(
        info.network,
        len(dataset.classes),
        size.height,
        size.width,
        pretrained=own.model.pretrained,
        weights=candidate.weights,
    )
    if not made.pretrained or not has_linear_head(made.network):
        reporter.note(f"--model auto: {candidate.name} is left out: {made.warning or made.origin}")
        return None
    images = ImageSubset(ImageSet(dataset.root, dataset.train, Split.TRAIN, own.data.max_image_pixels), size)
    numbers = pick_numbers(dataset.train, MOST_IMAGES, recipe.seed)
    features = compute_features(
        made.network.to(compute.place, memory_format=torch.channels_last),  # type: ignore[call-overload]
        plain_batches(images, numbers, own),
        to_network_input(size, compute.place),
        device=compute.place,
        half=compute.is_half,
        on_progress=lambda done: reporter.progress(Progress(f"features of {candidate.name}", done, len(numbers))),
    )
    loss, accuracy = cross_validated(features, len(dataset.classes))
    return Rated(candidate, accuracy, loss)


def cross_validated(features: Features, num_classes: int) -> tuple[float, float]:
    """Loss (nats) and accuracy of classifiers on the images that they were not fitted to.

    Args:
        features: (N, D), and the labels (N,), from 0 to num_classes - 1.
    """
    rows, labels = features
    fold, parts = folds_of(labels, FOLDS), []
    for number in np.unique(fold):
        out = fold == number
        penalty = PENALTY / rows.shape[1]
        fitted = fit_regression(rows[~out], labels[~out], num_classes, penalty=penalty, balanced=True)
        parts.append((*fitted.measure(rows[out], labels[out]), int(out.sum())))
    losses, accuracies, counts = zip(*parts, strict=True)
    return float(np.average(losses, weights=counts)), float(np.average(accuracies, weights=counts))


def _with(recipe: Recipe, candidate: Candidate) -> Recipe:
    model = replace(recipe.model, name=candidate.name, weights=candidate.weights)
    return replace(recipe, model=model)
