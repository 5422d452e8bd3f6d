"""`otx check`: look at every image of a folder before anyone trains on it, or gives it to a model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from otx.data.check import check_dataset, image_refs, write_check
from otx.data.dataset import Dataset, ImageSet, Subset
from otx.data.digits import resolve_data_root
from otx.data.intensity import measure_intensity, with_range
from otx.data.journal import confirmed_below, without_confirmed
from otx.data.load import load_dataset, split_options
from otx.data.preprocessing import Preprocessing
from otx.errors import DataError, StorageError, UsageError
from otx.evaluation.features import ImageFeatures, compute_features
from otx.evaluation.mislabelled import can_search, list_mislabelled
from otx.evaluation.shift import MAX_COMPARED, Photos, Reference, compare
from otx.events import heartbeat
from otx.files import TABLES, check_output
from otx.findings import CheckResult, ShiftResult
from otx.inference.predict import find_images
from otx.model.modelfile import load_known, load_sample
from otx.model.trained import TrainedModel
from otx.recipe import Recipe
from otx.verbs.session import Session, check_exists

NO_LABELS = "photos without labels"
UNLABELLED = ""


def run(session: Session, *, data_root: Path | None, checkpoint: Path | None, output: Path | None) -> CheckResult:
    """List what is wrong with a folder of images; with a model also what is mislabelled, and what looks different."""
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
        dataset = _read_folder(recipe, has_model=model is not None)
    size = _preprocessing(session, model, dataset)
    result = check_dataset(dataset, size, size.reading(session.max_pixels), session.reporter)
    if dataset.layout == NO_LABELS:
        result = replace(result, classes=())
    result = without_confirmed(result, confirmed_below(dataset.root))
    if model is not None:
        result = _with_model(session, model, dataset, result)
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
    own, root = model.recipe, session.recipe.data_root
    keys = ["test_share", "val_share"]
    if root is None or Path(root).resolve() == model.trained_on.resolve():
        # the split file of a model names its own images alone
        keys.append("split_file")
    changes = {"seed": own.seed, **{f"data.{key}": getattr(own.data, key) for key in keys}}
    if root is None:
        changes["data_root"] = str(model.data_root(session.data_request()))
    return session.recipe.override({**changes, **session.asked})


def _read_folder(recipe: Recipe, *, has_model: bool) -> Dataset:
    """The data set in a folder; with a model, a folder that holds none is read as photos without labels."""
    root = resolve_data_root(recipe.data_root)
    try:
        return load_dataset(root, **split_options(recipe))
    except DataError as error:
        if not has_model or not root.is_dir() or recipe.data.split_file is not None:
            raise
        return _unlabelled(root, error)


def _unlabelled(root: Path, reason: DataError) -> Dataset:
    """The images of a folder and of the folders in it, without labels.

    Raises:
        DataError: there are none.
    """
    try:
        found = [Path(path).relative_to(root).as_posix() for path in find_images([root])]
    except UsageError:
        raise reason from None
    none, photos = Subset.of([]), Subset.of([(path, 0) for path in found])
    notes = (f"Read as photos without labels, since it is no folder to train on: {reason.what}.",)
    return Dataset(root, (UNLABELLED,), NO_LABELS, none, none, photos, notes)


def _with_model(session: Session, model: TrainedModel, dataset: Dataset, found: CheckResult) -> CheckResult:
    """Add what a model finds out; if the data set is its own, write all findings to its run for the report."""
    is_own = dataset.root.resolve() == model.trained_on.resolve()
    paths = list({place.path: None for place in image_refs(dataset)})
    is_searched = bool(found.classes) and can_search(len(paths), len(dataset.classes), session.reporter)
    if is_own and not is_searched:
        return found
    images = compute_features(
        session.predictor(model.path),
        ImageSet(dataset.root, Subset.of([(path, 0) for path in paths]), dataset.layout, session.max_pixels),
        most=None if is_searched else MAX_COMPARED,
        batch_size=session.batch_size,
        reporter=session.reporter,
    )
    if images is None:
        return replace(found, mislabelled=() if is_searched else None)
    if is_searched:
        doubts = list_mislabelled(images, dataset, found, session.reporter)
        found = without_confirmed(replace(found, mislabelled=doubts), confirmed_below(dataset.root))
    if not is_own:
        found = replace(found, shift=_shift(session, model, images))
    if model.run is not None and is_own:
        try:
            write_check(found, model.run.suspicions)
            session.reporter.note(f"Written to {model.run.suspicions}: `otx report {model.run.path}` shows it.")
        except (StorageError, UsageError) as error:
            session.reporter.warn(f"{error.what}: the report of the run will not show what was found.")
    return found


def _shift(session: Session, model: TrainedModel, images: ImageFeatures) -> ShiftResult | None:
    """Whether images look like those of the model; None, and a note, if the file cannot tell."""
    known, sample = load_known(model.path), load_sample(model.path)
    limit = model.card.unknown_limit
    if known is None or sample is None or limit is None or images.scores is None:
        session.reporter.note(f"Whether the photos look like those of the model is not known: {_why_not(model)}.")
        return None
    with heartbeat(session.reporter, "comparing with the photos of the model"):
        return compare(
            Reference(known, sample, limit, model.card.classes), Photos(images.paths, images.features, images.scores)
        )


def _why_not(model: TrainedModel) -> str:
    if model.path.suffix != ".safetensors":
        own = model.run.model if model.run is not None and model.run.model.is_file() else "RUN/model.safetensors"
        return f"{model.path.name} holds nothing to compare with; give --checkpoint {own}"
    if model.card.unknown_limit is None:
        return f"{model.path.name} has no unknown score; docs/unknown.md says when that is so"
    return f"{model.path.name} was written by an older otx; train it again"
