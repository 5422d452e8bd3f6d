"""Whether a run can be resumed, and with which recipe."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from otx.catalogue import load_recipe
from otx.errors import UsageError
from otx.recipe import Recipe
from otx.results import StopReason
from otx.training.recorder import count_epochs
from otx.workspace import RunFolder, run_of


def resume_run(checkpoint: Path) -> RunFolder:
    """The run that a `last.ckpt`, or any file in a run folder, belongs to.

    Raises:
        UsageError: it lies in no run folder, or the run has no checkpoint, or nothing is left to do.
    """
    run = run_of(checkpoint)
    if run is None:
        raise UsageError(
            f"{checkpoint} lies in no run folder, so there is nothing to resume",
            fix="give RUN/checkpoints/last.ckpt, or leave --resume out to begin a new run from these weights",
        )
    if not run.last_checkpoint.is_file():
        raise UsageError(
            f"{run.path} has no checkpoints/last.ckpt to resume from: it had not begun to train",
            fix="start the run again",
        )
    return run


def resumed_recipe(run: RunFolder, asked: Recipe, changes: Mapping[str, Any]) -> Recipe:
    """The recipe to resume with: the run's own, overridden by the settings given now.

    Raises:
        UsageError: another network, input size or optimizer was asked for, or no epoch is left to train.
    """
    own = load_recipe(run.config)
    recipe = own.override(changes)
    is_asked = "model.name" in changes or asked.model.name != Recipe().model.name
    if is_asked and asked.model.name != own.model.name:
        raise UsageError(
            f"{run.path} trains {own.model.name}, {asked.model.name} was asked for", fix="leave --model out"
        )
    for name, before, now in (
        ("data.input_size", own.data.input_size, recipe.data.input_size),
        ("optimizer.name", own.optimizer.name, recipe.optimizer.name),
    ):
        if now != before:
            raise UsageError(
                f"--resume goes on with {name} {_in_words(before)}, {_in_words(now)} was asked for",
                fix=f"leave --{name} out, or start a new run from this one's model: --checkpoint {run.model}",
            )
    check_resumable(run, recipe)
    return recipe


def _in_words(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def check_resumable(run: RunFolder, recipe: Recipe) -> None:
    """Raise UsageError if the run is complete."""
    if not run.has_ended(with_report=recipe.report) or run.soup.is_file():
        return
    summary = json.loads(run.summary.read_text(encoding="utf-8"))
    own = load_recipe(run.config)
    done, stop = count_epochs(run.metrics) if run.metrics.is_file() else 0, StopReason.of(summary, own.max_epochs)
    more = f"{run.resume_command} --max_epochs {max(done, recipe.max_epochs) + 10}"
    if done >= recipe.max_epochs:
        raise UsageError(
            f"{run.path} has already trained {done} of {recipe.max_epochs} epochs", fix=f"give a larger number: {more}"
        )
    if stop is StopReason.EARLY_STOPPING and not _asks_for_more(recipe, own, summary):
        patience = recipe.training.early_stopping.patience or 0
        raise UsageError(
            f"{run.path} is complete: early stopping ended it after {done} of {recipe.max_epochs} epochs",
            fix=f"ask for more: {more}, or with --training.early_stopping.patience {patience + 3}",
        )


def _asks_for_more(recipe: Recipe, own: Recipe, summary: Mapping[str, Any]) -> bool:
    """Whether a recipe allows more epochs or more patience than before. Older runs have both only in their recipe."""
    epochs = summary.get("max_epochs", own.max_epochs)
    before = summary.get("patience", own.training.early_stopping.patience)
    patience = recipe.training.early_stopping.patience
    return recipe.max_epochs > epochs or (before is not None and (patience is None or patience > before))
