"""`otx test`: measure a model on test images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from otx.data.dataset import ImageSet
from otx.data.known import SEEN, Known, find_known
from otx.errors import DataError, ModelError, UsageError
from otx.evaluation.evaluate import compare_with_base, evaluate, write_test
from otx.evaluation.unknown import measure_unknown
from otx.evaluation.verdict import judge
from otx.events import heartbeat
from otx.files import check_output, write_csv, write_json
from otx.inference.predict import find_images
from otx.model.card import CANNOT_TELL, LEARN_IT
from otx.model.modelfile import read_card
from otx.model.trained import TrainedModel
from otx.report.page import write_report
from otx.results import OldAndNew, TestResult
from otx.verbs.session import Session
from otx.workspace import new_folder, set_latest

KNOWN = "known_images.csv"


def run(
    session: Session,
    *,
    checkpoint: Path | None,
    data_root: str | Path | None,
    min_accuracy: float | None,
    min_recall: float | None,
    strict: bool,
    unknown: Path | None,
    output: Path | None,
) -> TestResult:
    """Measure a model, write the figures into its run folder, and write the report.

    A test of another folder's images has a report of its own, and leaves out what the model was trained on.
    """
    if output is not None:
        check_output(output, "tests", (".json",), "test.json")
    model = session.model(checkpoint)
    _check_unknown(model, unknown)
    session.check_room(model, None)
    with heartbeat(session.reporter, "reading the folder"):
        images = model.test_images(session.data_request(data_root), session.reporter)
    known = _known(session, model, images, is_strict=strict)
    if known.paths:
        images = replace(images, subset=images.subset.without(frozenset(known.paths)))
    predictor = session.predictor(model.path)
    batch, reporter = session.batch_size, session.reporter
    result, answers = evaluate(predictor, images, checkpoint=model.path, batch_size=batch, reporter=reporter)
    result = replace(
        result,
        old_and_new=_old_and_new(session, model, images, result),
        verdict=judge(result, min_accuracy, min_recall),
        num_known=len(known.paths),
        is_compared=known.is_complete,
    )
    if unknown is not None:
        figures = measure_unknown(predictor, images, unknown, batch_size=batch, reporter=reporter)
        result = replace(result, unknown=figures)
    folder = new_folder(model.output_folder(session.work_dir) / "test")
    write_test(result, answers, folder)
    if known.paths:
        write_csv(folder / KNOWN, ("path",), ([path] for path in known.paths))
    set_latest(session.work_dir, "test", folder)
    session.reporter.note(f"Written to {folder}")
    if output is not None:
        write_json(output, result.to_dict())
    session.try_report(f"The test is whole: {folder}", lambda: _report(session, folder, is_foreign=not images.is_own))
    return result


def _check_unknown(model: TrainedModel, unknown: Path | None) -> None:
    """Raise UsageError if a folder of unknown images is given and cannot be measured."""
    if unknown is None:
        return
    if model.card.unknown_limit is None:
        raise UsageError(f"--unknown: {model.path} {CANNOT_TELL}", fix=LEARN_IT)
    next(find_images([unknown]))


def _known(session: Session, model: TrainedModel, images: ImageSet, *, is_strict: bool) -> Known:
    """The images that the model was trained or validated on. Those of its own test split are none of them.

    Raises:
        DataError: there is no other image; or with `is_strict` there are some, or it is not known.
    """
    if images.is_own and session.recipe.data.split_file is None:
        return Known((), True)
    with heartbeat(session.reporter, "comparing with the images it was trained on"):
        # a split file may give the validation images as test images, as a split without test images does
        subsets = ("train",) if images.is_own else SEEN
        known = find_known(images, model.run, model.trained_on, subsets)
    count, fix = len(known.paths), "test on images that it has not seen"
    if not known.is_complete:
        unknown = f"not all that {model.path} was trained on can be compared with {images.root}"
        if is_strict:
            raise DataError(f"--strict: {unknown}", fix="test without --strict, or a model in its run folder")
        session.reporter.warn(f"{unknown}: whether these images are new to it is not known.")
    if count and (is_strict or count == len(images)):
        raise DataError(
            f"{model.path} was trained or validated on {count} of the {len(images)} images in {images.root}", fix=fix
        )
    if count:
        session.reporter.warn(
            f"{count} of the {len(images)} images in {images.root} are left out: it was trained or validated on them."
        )
    return known


def _report(session: Session, folder: Path, *, is_foreign: bool) -> None:
    with heartbeat(session.reporter, "writing the report"):
        page = write_report(folder, quick=True) if is_foreign else write_report(folder.parents[1], quick=True)
    session.reporter.note(f"Report: {page}")


def _old_and_new(session: Session, model: TrainedModel, images: ImageSet, result: TestResult) -> OldAndNew | None:
    """Accuracy on the old and on the added classes of a model, and that of its previous model on the old ones."""
    if not model.card.num_old:
        return None
    base = None if model.run is None else model.run.base
    try:
        if base is None or not base.is_file():
            raise ModelError("The model that classes were added to is gone")
        read_card(base)
    except ModelError as error:
        session.reporter.warn(f"{error.what}: no accuracy before to compare with.")
        base = None
    return compare_with_base(
        base,
        result.confusion,
        model.card.num_old,
        images,
        batch_size=session.batch_size,
        reporter=session.reporter,
    )
