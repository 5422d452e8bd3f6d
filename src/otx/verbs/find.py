"""`otx find`: the shipped recipes, with what their networks cost."""

from __future__ import annotations

from otx.catalogue import RECIPES, list_models
from otx.networks.table import MODELS
from otx.recipe import DEFAULT_RECIPE, TASK
from otx.results import ModelEntry
from otx.yaml_text import read_yaml


def find_models(task: str | None = TASK, pattern: str | None = None) -> tuple[ModelEntry, ...]:
    """The lines of `otx find`; `pattern` as in `list_models`."""
    entries = []
    for name in list_models(task, pattern):
        path = RECIPES / f"{name}.yaml"
        plain = read_yaml(path)
        info = MODELS[plain["model"]["name"]]
        entries.append(
            ModelEntry(
                TASK, plain["recipe_id"], name, info.gflops, info.params_m, path, info.good_for, name == DEFAULT_RECIPE
            )
        )
    return tuple(entries)
