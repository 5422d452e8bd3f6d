"""Build the network that a training starts from: a fresh one, a trained model, or the last checkpoint of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import nn

from otx.data.dataset import Dataset
from otx.data.intensity import measure_intensity, with_range
from otx.data.preprocessing import Preprocessing
from otx.errors import ModelError, UsageError
from otx.events import Reporter
from otx.model.card import ModelCard
from otx.model.modelfile import load_model, read_card
from otx.networks.build import build_network, check_network, model_info
from otx.networks.table import ModelInfo
from otx.networks.weights import initial_model
from otx.recipe import AUTO, Recipe
from otx.training.class_mapping import ClassMapping, map_classes
from otx.training.incremental import carry_over
from otx.workspace import RunFolder


@dataclass(frozen=True)
class TrainingRequest:
    """What the user asks a training to do.

    Args:
        checkpoint: start from this model; classes of the data that it does not know are added to it.
        renames: old to new names of the model's classes.
        run: resume this run from its last checkpoint, instead of starting a new one.
    """

    recipe: Recipe
    checkpoint: Path | None = None
    renames: Mapping[str, str] = field(default_factory=dict)
    run: RunFolder | None = None


@dataclass(frozen=True)
class BaseModel:
    """The trained model that a training, or the run to resume, started from."""

    network: nn.Module
    card: ModelCard
    path: Path


@dataclass(frozen=True)
class StartingPoint:
    """A network ready to be trained, and where it comes from.

    Args:
        classes: in the order of the network's logits.
        origin: where its weights come from, in words.
        base: the model that the training started from, if any; its classes come first.
        run: the run to resume.
        is_pretrained: all weights but the classifier's are pretrained.
        warning: why the weights are not those that the user asked for; empty if they are.
    """

    info: ModelInfo
    network: nn.Module
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    origin: str
    base: BaseModel | None = None
    run: RunFolder | None = None
    is_pretrained: bool = False
    warning: str = ""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the network's input."""
        return self.preprocessing.height, self.preprocessing.width

    @property
    def has_random_weights(self) -> bool:
        """Whether the training starts from random weights only."""
        return not self.is_pretrained and self.base is None and self.run is None

    @property
    def num_old(self) -> int:
        """How many classes the base model has; they are the first ones. 0 without a base model."""
        return 0 if self.base is None else len(self.base.card.classes)

    def has_new_classifier(self, dataset: Dataset) -> bool:
        """Whether the classifier is to be fitted to features before the first epoch.

        It is new with pretrained weights, and where classes join a model; unless some of its own have no images, whose
        rows could not be fitted.
        """
        grown = self.run is None and len(self.classes) > self.num_old > 0
        return self.is_pretrained or (grown and not self.classes_without_images(dataset))

    @property
    def teacher(self) -> nn.Module | None:
        return None if self.base is None else self.base.network

    def classes_without_images(self, dataset: Dataset) -> set[str]:
        """The base model's classes that have no training images."""
        return set(self.classes[: self.num_old]) - {dataset.classes[label] for label in set(dataset.train.labels)}


def load_base(request: TrainingRequest) -> BaseModel | None:
    """The model named by `checkpoint`, or the one that the run to resume started from; None if there is none.

    Raises:
        ModelError: it cannot be read, or has another architecture than the recipe's.
        UsageError: there are `renames` but no `checkpoint`.
    """
    path = request.checkpoint if request.run is None else request.run.base
    if path is None or (request.run is not None and not path.is_file()):
        if request.renames and request.run is None:
            raise UsageError("--rename renames classes of a model", fix="give --checkpoint MODEL")
        return None
    network, card = load_model(path)
    if request.recipe.model.name == AUTO:
        return BaseModel(network, card, path)
    wanted = model_info(request.recipe.model.name).network
    if card.network != wanted:
        raise ModelError(
            f"{path} holds a {card.network}, the recipe asks for a {wanted}",
            fix=f"--model timm/{card.network}, or leave --checkpoint out",
        )
    return BaseModel(network, card, path)


def choose_start(
    request: TrainingRequest, base: BaseModel | None, dataset: Dataset, reporter: Reporter
) -> StartingPoint:
    """The network that a training starts from.

    Raises:
        ModelError: the weights cannot be used.
        UsageError: the classes cannot be renamed in this way.
    """
    info = model_info(request.recipe.model.name)
    check_network(info.network)
    torch.manual_seed(request.recipe.seed)
    size = make_preprocessing(request.recipe, info)
    if request.run is not None:
        start = resumed(request.run, info, size, base)
        if base is not None:
            _report_classes(map_classes(start.classes[: start.num_old], dataset.classes), reporter)
        return start
    if base is not None:
        mapping = map_classes(base.card.classes, dataset.classes, request.renames)
        _report_classes(mapping, reporter)
        return from_model(base, mapping.classes, info, size)
    return fresh(request.recipe, info, size, dataset.classes)


def fresh(recipe: Recipe, info: ModelInfo, size: Preprocessing, classes: tuple[str, ...]) -> StartingPoint:
    """A network with weights from the hub or from a file, or random ones."""
    made = initial_model(
        info.network,
        len(classes),
        size.height,
        size.width,
        pretrained=recipe.model.pretrained,
        weights=recipe.model.weights,
    )
    return StartingPoint(
        info, made.network, classes, size, made.origin, is_pretrained=made.pretrained, warning=made.warning
    )


def from_model(base: BaseModel, classes: tuple[str, ...], info: ModelInfo, size: Preprocessing) -> StartingPoint:
    """A network with the weights of a trained model, and new classifier rows for the classes that it does not know."""
    network = build_network(info.network, len(classes), size.height, size.width)
    try:
        carry_over(network, base.network)
    except ValueError as error:
        own = base.card.preprocessing
        raise ModelError(
            f"{base.path} takes images of {own.height}x{own.width} alone, those of this training are "
            f"{size.height}x{size.width}",
            fix=f"--data.input_size {own.height},{own.width}",
        ) from error
    return StartingPoint(info, network.train(), classes, size, f"the model {base.path}", base=base)


def resumed(run: RunFolder, info: ModelInfo, size: Preprocessing, base: BaseModel | None) -> StartingPoint:
    """A network for a resumed run. Its weights are random until the checkpoint is loaded: nothing is downloaded."""
    card = read_card(run.last_checkpoint)
    made = initial_model(info.network, len(card.classes), size.height, size.width, pretrained=False, weights=None)
    return StartingPoint(info, made.network, card.classes, size, card.origin, base=base, run=run)


def make_preprocessing(recipe: Recipe, info: ModelInfo) -> Preprocessing:
    """The recipe's input size, mean and std; by default, the mean and std that the weights were trained with."""
    return Preprocessing.of(recipe.data, recipe.data.mean or info.mean, recipe.data.std or info.std)


def with_intensity(start: StartingPoint, dataset: Dataset, recipe: Recipe, reporter: Reporter) -> StartingPoint:
    """Add which values of images with more than 8 bits are black and white, unless the recipe says it.

    A resumed run keeps its own, a trained model that is continued keeps its own if it has any; otherwise the training
    images are measured.
    """
    if recipe.data.intensity is not None:
        return start
    size = start.preprocessing
    if start.run is not None:
        limits = read_card(start.run.last_checkpoint).preprocessing.intensity
    elif start.base is not None and start.base.card.preprocessing.intensity is not None:
        limits = start.base.card.preprocessing.intensity
    else:
        limits = measure_intensity(dataset, size.reading(recipe.data.max_image_pixels), recipe.seed)
    return replace(start, preprocessing=with_range(size, limits, reporter))


def _report_classes(mapping: ClassMapping, reporter: Reporter) -> None:
    for note in mapping.notes:
        reporter.note(note)
    for warning in mapping.warnings:
        reporter.warn(warning)
