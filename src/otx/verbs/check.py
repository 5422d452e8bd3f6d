"""`otx check`: look at every image of a folder before anyone trains on it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from otx.data.check import check_dataset, write_check
from otx.data.dataset import Dataset
from otx.data.digits import resolve_data_root
from otx.data.intensity import measure_intensity, with_range
from otx.data.journal import confirmed_below, without_confirmed
from otx.data.load import load_dataset, split_options
from otx.data.preprocessing import Preprocessing
from otx.evaluation.mislabelled import list_mislabelled
from otx.events import heartbeat
from otx.files import TABLES, check_output
from otx.findings import CheckResult
from otx.model.trained import TrainedModel
from otx.recipe import Recipe
from otx.verbs.session import Session, check_exists


def run(session: Session, *, data_root: Path | None, checkpoint: Path | None, output: Path | None) -> CheckResult:
    """List what is wrong with a folder of images; with a model also what is probably mislabelled."""
    if output is not None:
        check_output(output, "findings", TABLES, "findings.csv")
    path = checkpoint or session.checkpoint
    check_exists(path)
    if data_root is not None:
        session = replace(session, asked={**session.asked, "data_root": str(data_root)})
        session.recipe = session.recipe.override({"data_root": str(data_root)})
    model = None if path is None else TrainedModel.open(path)
    recipe = session.recipe if model is None else _recipe_of_data(session, model)
    with heartbeat(session.reporter, "reading the folder"):
        dataset = load_dataset(resolve_data_root(recipe.data_root), **split_options(recipe))
    size = _preprocessing(session, model, dataset)
    result = check_dataset(dataset, size, size.reading(session.max_pixels), session.reporter)
    result = without_confirmed(result, confirmed_below(dataset.root))
    if model is not None:
        result = _with_mislabelled(session, model, dataset, result)
    if output is not None:
        write_check(result, output)
    return result


def _preprocessing(session: Session, model: TrainedModel | None, dataset: Dataset) -> Preprocessing:
    """How the images are read and resized: as the model does, else as a training with these settings would."""
    if model is not None:
        return model.card.preprocessing
    # mean and std do not matter: no network is run
    size = Preprocessing.of(session.recipe.data, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    if session.recipe.data.intensity is not None:
        return size
    with heartbeat(session.reporter, "measuring the values of images"):
        limits = measure_intensity(dataset, size.reading(session.max_pixels), session.recipe.seed)
    return with_range(size, limits, session.reporter)


def _recipe_of_data(session: Session, model: TrainedModel) -> Recipe:
    """The session's settings, with the model's data set and split unless others were asked for."""
    own = model.recipe
    keys = ("test_share", "val_share", "split_file")
    changes = {"seed": own.seed, **{f"data.{key}": getattr(own.data, key) for key in keys}}
    if session.recipe.data_root is None:
        changes["data_root"] = str(model.data_root(session.data_request()))
    return session.recipe.override({**changes, **session.asked})


def _with_mislabelled(session: Session, model: TrainedModel, dataset: Dataset, found: CheckResult) -> CheckResult:
    """Add the mislabelled images; if the data set is the model's own, write all findings to its run for the report."""
    doubts = list_mislabelled(
        session.predictor(model.path),
        dataset,
        found,
        batch_size=session.batch_size,
        max_pixels=session.max_pixels,
        reporter=session.reporter,
    )
    result = without_confirmed(replace(found, mislabelled=doubts), confirmed_below(dataset.root))
    if model.run is not None and dataset.root.resolve() == model.trained_on.resolve():
        write_check(result, model.run.suspicions)
        session.reporter.note(f"Written to {model.run.suspicions}: `otx report {model.run.path}` shows it.")
    return result
