"""Find recipes by name, ID or path: shipped ones, and those in files."""

from __future__ import annotations

import fnmatch
from dataclasses import replace
from pathlib import Path
from typing import Any

from otx.errors import RecipeError, UsageError, nearest
from otx.networks.table import TIMM_PREFIX, full_name, similar
from otx.recipe import AUTO, DEFAULT_RECIPE, TASK, Recipe, from_dict
from otx.schema import all_settings
from otx.yaml_text import read_yaml

LABELS = ("recipe_id", "name", "work_dir")
RECIPES = Path(__file__).resolve().parent / "recipes"


def load_recipe(reference: str | Path) -> Recipe:
    """Load a recipe by its name, its ID or the path of a YAML file; the default one for the name of a network of timm.

    Raises:
        RecipeError: there is no such recipe, or the file has errors.
    """
    shipped = _shipped(str(reference))
    path = shipped or Path(reference)
    if not path.is_file() and full_name(str(reference)).startswith(TIMM_PREFIX):
        return with_model(load_recipe(DEFAULT_RECIPE), full_name(str(reference)))
    if not path.is_file():
        if path.suffix in (".yaml", ".yml") or "/" in str(reference):
            raise RecipeError(f"no such recipe file: {reference}", fix="`otx find` lists the recipes there are")
        names = recipe_names()
        fix = "`otx find` lists the recipes; timm/NAME is any network of timm"
        raise RecipeError(f"unknown recipe '{reference}'{similar(str(reference))}", allowed=names, fix=fix)
    return from_dict(read_yaml(path), str(reference))


def recipe_names() -> list[str]:
    """The names of the shipped recipes, sorted; the default comes first."""
    names = sorted(path.stem for path in RECIPES.glob("*.yaml"))
    return sorted(names, key=lambda name: name != DEFAULT_RECIPE)


def _shipped(reference: str) -> Path | None:
    """The file of the shipped recipe with this name, ID or path in OTX's own source tree."""
    if Path(reference).is_file():
        return None
    name = Path(reference).stem if "recipe/classification/multi_class_cls/" in reference else reference
    for path in RECIPES.glob("*.yaml"):
        if name.removeprefix("otx_") == path.stem:
            return path
    # OTX spells one of its recipe IDs "EfficinetNet"; both spellings name it
    wanted = reference.replace("EfficinetNet", "EfficientNet")
    if reference.startswith("Custom_"):
        for path in RECIPES.glob("*.yaml"):
            if str(read_yaml(path).get("recipe_id")).replace("EfficinetNet", "EfficientNet") == wanted:
                return path
    return None


def with_model(recipe: Recipe, name: str) -> Recipe:
    """The same recipe for another network."""
    return replace(recipe, name=name, recipe_id="", model=replace(recipe.model, name=name))


def note_of(recipe: Recipe, *names: object) -> str:
    """What to say if a recipe has the network of timm that one of these names is short for; else an empty text."""
    taken = recipe.model.name
    short = [name for name in names if name is not None and str(name) != taken and full_name(str(name)) == taken]
    return f"{short[0]} is a network of timm: taken as --model {taken}." if short else ""


def list_models(task: str | None = TASK, pattern: str | None = None) -> list[str]:
    """Names of the shipped recipes, as `Engine(model=...)` and `--config` take them.

    Args:
        task: only `MULTI_CLASS_CLS` has recipes.
        pattern: keep names or recipe IDs that contain it; `*` and `?` stand for any text and any letter.

    Raises:
        UsageError: there is no such task.
    """
    if task not in (None, TASK):
        raise UsageError(f"unknown task '{task}'{nearest(str(task), [TASK])}", allowed=[TASK])
    wanted = f"*{(pattern or '').lower()}*"
    return [name for name in recipe_names() if any(fnmatch.fnmatch(word.lower(), wanted) for word in _words(name))]


def _words(name: str) -> tuple[str, str]:
    return name, str(read_yaml(RECIPES / f"{name}.yaml").get("recipe_id", ""))


def choose_recipe(recipe: Recipe | None, model: str | None) -> Recipe:
    """The recipe to use. `model` alone names a recipe; with one, or as timm/NAME or auto, it sets the network only."""
    if model is None:
        return recipe or load_recipe(DEFAULT_RECIPE)
    is_network = model.startswith(TIMM_PREFIX) or model == AUTO
    if is_network or recipe is not None:
        base = recipe or load_recipe(DEFAULT_RECIPE)
        return with_model(base, model if is_network else load_recipe(model).model.name)
    return load_recipe(model)


def to_options(recipe: Recipe) -> list[str]:
    """The options of `otx train` for the same training: `["--config", "efficientnet_b0", "--max_epochs", "7"]`.

    The recipe's name and ID and the work_dir are left out.
    """
    shipped = recipe.name if recipe.name in recipe_names() else DEFAULT_RECIPE
    base, options = load_recipe(shipped), ["--config", shipped]
    for info in all_settings(Recipe):
        value = _get(recipe, info.key)
        if info.key not in LABELS and value != _get(base, info.key):
            options += [f"--{info.key}", _option(value)]
    return options


def _get(recipe: Recipe, dotted: str) -> Any:
    value: Any = recipe
    for name in dotted.split("."):
        value = getattr(value, name)
    return value


def _option(value: Any) -> str:
    """A value as `parse_text` reads it."""
    if isinstance(value, tuple):
        return ",".join(map(_option, value))
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)
