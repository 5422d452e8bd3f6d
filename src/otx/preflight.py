"""Quick checks of a training's inputs, before torch is imported and before any image is decoded."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from otx.data.digits import is_digits, resolve_data_root
from otx.data.layout import glimpse
from otx.data.load import check_classes
from otx.data.split_file import check_split_file
from otx.errors import ModelError, UsageError, nearest
from otx.events import heartbeat
from otx.files import check_folder
from otx.model.modelfile import read_card
from otx.networks.table import network_of, timm_networks
from otx.networks.weights_file import check_weights_file, check_weights_fit, weights_in
from otx.recipe import AUTO, Recipe
from otx.spawn import NO_WORKERS, can_start_workers, check_script
from otx.training.class_mapping import rename_classes
from otx.verbs.session import Session, check_exists
from otx.workspace import latest_run


def prepare_training(
    session: Session,
    changes: Mapping[str, Any],
    *,
    checkpoint: Path | None,
    rename: Mapping[str, str] | None,
    resume: bool,
) -> Recipe:
    """Run the quick checks, and return the settings of the training.

    Raises:
        InputError: an input cannot be used, or data workers cannot import the calling script.
    """
    start = checkpoint or session.start
    check_exists(start)
    if session.recipe.data.num_workers != 0:
        check_script()
        if not can_start_workers():
            session.reporter.note(NO_WORKERS)
    if resume:
        if start is None:
            latest_run(session.work_dir)  # raises if there is none
        return session.recipe.override(changes)
    recipe = session.training_recipe(start, changes)
    with heartbeat(session.reporter, "looking at the folder"):
        check_training(recipe, start, rename or {})
    return recipe


def check_training(recipe: Recipe, checkpoint: Path | None, renames: Mapping[str, str]) -> None:
    """Check the inputs of a new training; slow checks are left to the training itself.

    Args:
        checkpoint: the model to start from.
        renames: new names for that model's classes.

    Raises:
        DataError, ModelError, UsageError: an input cannot be used; the training did not start.
        StorageError: the disk is full.
    """
    known = check_renames(checkpoint, renames)
    check_data_root(recipe, min_classes=1 if checkpoint else 2, known=known)
    check_name(recipe.model.name)
    check_folder(Path(recipe.work_dir), "choose another --work_dir")
    if checkpoint is None and recipe.model.weights is not None:
        check_weights(Path(recipe.model.weights), recipe.model.name)


def check_data_root(recipe: Recipe, *, min_classes: int, known: Collection[str] = ()) -> None:
    """Raise DataError or UsageError if a recipe's image folder is missing, empty, or has an unknown layout.

    It looks for one image of each class, so that the number of files does not matter.

    Args:
        known: the classes of the model to start from; a split file need not have training images of them.
    """
    if recipe.data.split_file is not None:
        check_split_file(Path(recipe.data.split_file), known)
    if is_digits(recipe.data_root):
        return
    folder = glimpse(resolve_data_root(recipe.data_root))
    if recipe.data.split_file is None:
        check_classes(folder, folder.splits.get("train", folder.splits.get("all", {})), min_classes)


def check_name(model: str) -> None:
    """Raise ModelError if timm has no such network; where timm is loaded a script may have added one, checked later."""
    network = "" if model == AUTO else network_of(model).partition(".")[0]
    if network and "timm" not in sys.modules and network not in timm_networks():
        raise ModelError(
            f"timm has no network '{network}'{nearest(network, sorted(timm_networks()))}",
            fix="`python -c 'import timm; print(timm.list_models())'` lists them",
        )


def check_weights(path: Path, model: str) -> None:
    """Raise ModelError if a file holds no weights, or those of another network than the recipe's `model`.

    With the model `auto` it is a folder of such files.
    """
    if model == AUTO:
        weights_in(path)
        return
    check_weights_file(path)
    check_weights_fit(path, network_of(model))


def check_renames(checkpoint: Path | None, renames: Mapping[str, str]) -> list[str]:
    """The classes of the model to start from under their new names; none without a model.

    Raises:
        ModelError: the model is damaged.
        UsageError: `renames` names a class that the model lacks.
    """
    if checkpoint is None:
        if renames:
            raise UsageError("--rename renames classes of a model", fix="give --checkpoint MODEL")
        return []
    return rename_classes(read_card(checkpoint).classes, renames)
