"""Pseudo-labels: photos without a label join the training images where a classifier is sure of their class.

A logistic regression is fitted to features of the pretrained network. How sure it has to be is found by
cross-validation on the labelled training images.

Source: Lee, Pseudo-Label: The Simple and Efficient Semi-Supervised Learning Method for Deep Neural Networks, ICML 2013
Workshop on Challenges in Representation Learning.
"""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from otx.data.check import find_copies, image_refs, scan_images
from otx.data.dataset import Dataset, ImageSet, Split, Subset, pick_numbers
from otx.data.loader import ImageSubset
from otx.errors import TrainingError, UsageError
from otx.events import Progress, Reporter, heartbeat
from otx.files import write_csv
from otx.limits import limited_blas
from otx.model.regression import Regression, fit_regression, folds_of
from otx.recipe import Recipe
from otx.training.budget import CHECK_SHARE, Budget
from otx.training.devices import Compute
from otx.training.inputs import plain_batches, to_network_input
from otx.training.linear_probe import PENALTIES, Features, compute_features, has_linear_head
from otx.training.starting_point import StartingPoint
from otx.workspace import RunFolder

COLUMNS = ("path", "class", "confidence")
# of the suggestions that are as sure as the limit
RIGHT = 0.95
FOLDS = 5
# suggestions that a limit must rest on
FEWEST = 10
MOST_FITTED = 2000
CHUNK = 4096
OPTION = "--training.unlabelled true"


@dataclass(frozen=True)
class PseudoLabel:
    """A photo, the class that the classifier gave it, and the probability of that class."""

    path: str
    label: int
    confidence: float


@dataclass(frozen=True)
class PseudoLabels:
    """Gives photos without a label the class that a classifier is sure of.

    Args:
        start: its network gives the features.
    """

    start: StartingPoint
    recipe: Recipe
    compute: Compute
    budget: Budget
    reporter: Reporter

    def join(self, dataset: Dataset) -> tuple[Dataset, tuple[PseudoLabel, ...]]:
        """The data set, with the photos that join its training images; and those photos.

        Copies of validation and test images do not join. A resumed run has its own from the start.

        Raises:
            UsageError: there are no features, or too few classes.
        """
        if not self.recipe.training.unlabelled or self.start.run is not None:
            return dataset, ()
        if not len(dataset.unlabelled):
            self.reporter.note(f"{OPTION}: no table of labels leaves photos of {dataset.root} without a label.")
            return dataset, ()
        self._refuse_without_features(dataset)
        found = self._sure(dataset)
        if found is None:
            return dataset, ()
        kept = self._without_copies(dataset, found) if found else ()
        copies = f"; {len(found) - len(kept)} more are copies of images to validate or to test" * (found != kept)
        where = ": see pseudo_labels.csv in the run folder" * bool(kept)
        self.reporter.note(
            f"{OPTION}: {len(kept)} of {len(dataset.unlabelled)} photos without a label join the "
            f"{len(dataset.train)} training images{copies}{where}."
        )
        return with_pseudo_labels(dataset, kept), kept

    def _refuse_without_features(self, dataset: Dataset) -> None:
        start, engine = self.start, self.recipe.engine
        if not (start.is_pretrained or start.base is not None) or not has_linear_head(start.network):
            raise UsageError(
                f"{OPTION} takes features of a pretrained network with a linear classifier; there are none here",
                fix="give --model.weights FILE, or leave it out",
            )
        if missing := sorted(start.classes_without_images(dataset)):
            raise UsageError(
                f"{OPTION}: photos of {', '.join(missing)} would be taken for other classes, as none has a label",
                fix="label a few of them, or leave it out",
            )
        if engine.num_devices * engine.num_nodes > 1:
            raise UsageError(f"{OPTION} works in one process", fix="--engine.num_devices 1 --engine.num_nodes 1")

    def _sure(self, dataset: Dataset) -> tuple[PseudoLabel, ...] | None:
        """The photos whose class the classifier is sure of and that can be decoded; None if it said why it has none."""
        numbers = pick_numbers(dataset.train, MOST_FITTED, self.recipe.seed)
        labels = [dataset.train.labels[number] for number in numbers]
        began = self.budget.clock()
        known = self._features(dataset, [dataset.train.paths[number] for number in numbers])
        own = np.asarray(labels, np.int64)[known[1]]
        seconds = (self.budget.clock() - began) / len(labels) * len(dataset.unlabelled)
        if not self.budget.affords(seconds, CHECK_SHARE):
            self.reporter.note(
                f"--max_time: {len(dataset.unlabelled)} photos without a label are not looked at, which would take "
                f"about {seconds:.0f} s."
            )
            return None
        with heartbeat(self.reporter, "looking how sure the classifier must be"), limited_blas():
            penalty, limit = choose_limit(known[0], own, len(dataset.classes))
        if limit is None:
            self.reporter.note(
                f"{OPTION}: no photo without a label joins: the classifier is right on {RIGHT:.0%} of no part of the "
                f"{len(own)} labelled images, by cross-validation."
            )
            return None
        fitted = fit_regression(known[0], own, len(dataset.classes), penalty=penalty, balanced=True)
        return self._above(dataset, fitted, limit)

    def _above(self, dataset: Dataset, fitted: Regression, limit: float) -> tuple[PseudoLabel, ...]:
        found: list[PseudoLabel] = []
        paths = dataset.unlabelled
        for start in range(0, len(paths), CHUNK):
            part = [paths[number] for number in range(start, min(start + CHUNK, len(paths)))]
            rows, numbers = self._features(dataset, part, done=start, total=len(paths))
            with limited_blas():
                best, confidence = answers_of(fitted, rows)
            found += [
                PseudoLabel(part[number], int(label), float(sure))
                for number, label, sure in zip(numbers, best, confidence, strict=True)
                if sure >= limit
            ]
        return tuple(found)

    def _features(self, dataset: Dataset, paths: Sequence[str], *, done: int = 0, total: int = 0) -> Features:
        """The features (N, D) of images, and the index (N,) of each in `paths`; without those that are broken."""
        start, recipe, place = self.start, self.recipe, self.compute.place
        # the labels are the indices, so that it is known whose the features are
        numbered = Subset(paths, tuple(range(len(paths))))
        images = ImageSubset(
            ImageSet(dataset.root, numbered, Split.TRAIN, recipe.data.max_image_pixels), start.preprocessing
        )
        network = start.network.to(place, memory_format=torch.channels_last)  # type: ignore[call-overload]
        told = Progress("features of photos without a label" if total else "features", 0, total or len(paths))
        try:
            return compute_features(
                network,
                plain_batches(images, range(len(paths)), recipe),
                to_network_input(start.preprocessing, place),
                device=place,
                half=self.compute.is_half,
                on_progress=lambda n: self.reporter.progress(dataclasses.replace(told, done=done + n)),
            )
        except TrainingError:  # none of them can be decoded
            return np.zeros((0, network.get_classifier().in_features), np.float32), np.zeros(0, np.int64)

    def _without_copies(self, dataset: Dataset, found: tuple[PseudoLabel, ...]) -> tuple[PseudoLabel, ...]:
        """Those that are no copy of a validation or test image."""
        if not self.recipe.data.check_images:
            return found
        joined = dataclasses.replace(dataset, train=subset_of(found))
        reading = self.start.preprocessing.reading(self.recipe.data.max_image_pixels)
        with heartbeat(self.reporter, "looking for copies among the photos without a label"):
            places = list(image_refs(joined))
            copies = find_copies(
                places, scan_images(dataset.root, {each.path for each in places}, reading=reading).looks
            )
        seen = {
            copies.places[item].path
            for group in copies.groups
            if any(copies.places[item].subset != "train" for item in group)
            for item in group
        }
        return tuple(each for each in found if each.path not in seen)


def subset_of(found: Iterable[PseudoLabel]) -> Subset:
    return Subset.of([(each.path, each.label) for each in found])


def with_pseudo_labels(dataset: Dataset, found: tuple[PseudoLabel, ...]) -> Dataset:
    """The data set with these photos among its training images."""
    items = sorted([*zip(dataset.train.paths, dataset.train.labels, strict=True), *((x.path, x.label) for x in found)])
    return dataclasses.replace(dataset, train=Subset.of(items)) if found else dataset


def choose_limit(rows: NDArray[np.float32], labels: NDArray[np.int64], num_classes: int) -> tuple[float, float | None]:
    """The penalty with the lowest cross-validated loss, and how sure the classifier must be to be right on 95 %.

    Args:
        rows: features (N, D).
        labels: (N,), from 0 to num_classes - 1.

    Returns:
        The limit is None if there is no confidence from which on it was right on 95 % of ten images at least, or if
        fewer than two classes have labels.
    """
    if len(np.unique(labels)) < 2:
        return PENALTIES[0], None
    fold = folds_of(labels, FOLDS)
    tried = []
    for penalty in (each / rows.shape[1] for each in PENALTIES):
        probabilities = np.zeros((len(labels), num_classes))
        for number in range(FOLDS):
            inside, held = fold != number, fold == number
            fitted = fit_regression(rows[inside], labels[inside], num_classes, penalty=penalty, balanced=True)
            probabilities[held] = fitted.probabilities(rows[held])
        loss = -np.log(np.maximum(probabilities[np.arange(len(labels)), labels], 1e-9)).mean()
        tried.append((float(loss), penalty, probabilities))
    _, penalty, probabilities = min(tried, key=lambda each: each[0])
    return penalty, limit_of(probabilities.max(axis=1), probabilities.argmax(axis=1) == labels)


def limit_of(confidence: NDArray[np.float64], right: NDArray[np.bool_]) -> float | None:
    """The lowest confidence from which on 95 % of the answers are right; None if that holds for fewer than ten."""
    order = np.argsort(-confidence, kind="stable")
    shares = np.cumsum(right[order]) / np.arange(1, len(order) + 1)
    enough = np.flatnonzero(shares >= RIGHT)
    return float(confidence[order][enough[-1]]) if len(enough) and enough[-1] + 1 >= FEWEST else None


def answers_of(fitted: Regression, rows: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The likeliest class (N,) of each row (N, D), and its probability (N,)."""
    probabilities = fitted.probabilities(rows)
    return probabilities.argmax(axis=1), probabilities.max(axis=1, initial=0)


def write_pseudo_labels(found: Sequence[PseudoLabel], classes: Sequence[str], run: RunFolder) -> None:
    """Write the photos, their classes and how sure they are; nothing if there are none."""
    if found:
        rows = ((each.path, classes[each.label], f"{each.confidence:.4f}") for each in found)
        write_csv(run.pseudo_labels, COLUMNS, rows)


def count_pseudo_labels(run: RunFolder) -> int:
    """How many of the run's training images have pseudo-labels."""
    if not run.pseudo_labels.is_file():
        return 0
    with run.pseudo_labels.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        return max(0, sum(1 for _ in csv.reader(file)) - 1)
