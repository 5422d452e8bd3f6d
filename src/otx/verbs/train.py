"""`otx train`: train a model, measure the best epoch on the validation images, and write the report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from signal import SIGINT
from typing import Any

from otx.data.dataset import ImageSet, Split
from otx.errors import UsageError
from otx.evaluation.evaluate import evaluate, write_test
from otx.events import Reporter, heartbeat
from otx.inference.predictor import load_predictor
from otx.model.trained import TrainedModel
from otx.recipe import Recipe
from otx.report.page import write_report
from otx.results import StopReason, TrainResult
from otx.signals import name_of, signal_of
from otx.training import run as training
from otx.training.budget import Budget
from otx.training.compute import find_shard
from otx.training.resume import resume_run, resumed_recipe
from otx.verbs.session import Session
from otx.workspace import VALIDATION, latest_run


def run(
    session: Session,
    recipe: Recipe,
    changes: Mapping[str, Any],
    *,
    checkpoint: Path | None,
    rename: Mapping[str, str] | None,
    resume: bool,
) -> TrainResult:
    """Train a recipe that `preflight` has checked; the session then uses the trained model.

    Args:
        changes: settings given in the call; with `resume` they override those of the run.
    """
    start, resumed = checkpoint or session.start, None
    if resume:
        if rename:
            raise UsageError(
                "--resume and --rename", fix="leave --rename out: the run keeps the names that it began with"
            )
        resumed = resume_run(start) if start else latest_run(session.work_dir)
        recipe, start = resumed_recipe(resumed, recipe, {**session.asked, **changes}), None
    budget = Budget.of(recipe.max_time, session.began, with_report=recipe.report)
    result = training.train(recipe, session.reporter, checkpoint=start, renames=rename, run=resumed, budget=budget)
    session.checkpoint = result.model_path
    # no report after SIGTERM: SIGKILL usually follows soon
    if not recipe.report or result.stop is StopReason.SIGTERM or not find_shard(recipe.engine).is_main:
        return result
    try:
        what_holds = f"The training is whole: {result.model_path}"
        session.try_report(what_holds, lambda: report_training(result, recipe, session.reporter))
    except KeyboardInterrupt as stop:
        return _stopped_in_report(result, stop)
    return result


def _stopped_in_report(result: TrainResult, stop: KeyboardInterrupt) -> TrainResult:
    number = signal_of(stop)
    own = StopReason.CTRL_C if number == SIGINT else StopReason.SIGTERM
    reason = f"{result.stop_reason}; {name_of(number)} stopped its report"
    return replace(result, stop=own, interrupted=True, stop_reason=reason)


def report_training(result: TrainResult, recipe: Recipe, reporter: Reporter) -> None:
    """Measure the best model on the validation images, unless the training was stopped, and write the page."""
    if not result.interrupted:
        measure_validation(result, recipe, reporter)
    with heartbeat(reporter, "writing the report"):
        page = write_report(result.run_dir)
    reporter.note(f"Report: {page}")


def measure_validation(result: TrainResult, recipe: Recipe, reporter: Reporter) -> None:
    """Test the best model on the validation images, with the device, batch size and pixel limit of the run."""
    model = TrainedModel.open(result.model_path)
    request = model.own_data(recipe.data.max_image_pixels)
    dataset = model.dataset(request)
    measured, images = evaluate(
        load_predictor(model.path, recipe.engine.device),
        ImageSet(dataset.root, dataset.val, Split.VAL, request.max_pixels),
        checkpoint=model.path,
        batch_size=recipe.data.val_subset.batch_size,
        reporter=reporter,
    )
    write_test(measured, images, result.run_dir / VALIDATION)
