"""`otx test`: measure a model on test images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from otx.data.dataset import ImageSet
from otx.errors import UsageError
from otx.evaluation.evaluate import compare_with_base, evaluate, write_test
from otx.evaluation.unknown import measure_unknown
from otx.events import heartbeat
from otx.files import check_output, write_json
from otx.inference.predict import find_images
from otx.model.card import CANNOT_TELL, LEARN_IT
from otx.model.trained import TrainedModel
from otx.report.page import write_report
from otx.results import OldAndNew, TestResult
from otx.verbs.session import Session
from otx.workspace import new_folder, set_latest


def run(
    session: Session,
    *,
    checkpoint: Path | None,
    data_root: str | Path | None,
    unknown: Path | None,
    output: Path | None,
) -> TestResult:
    """Measure a model, write the figures into its run folder, and rewrite the report."""
    if output is not None:
        check_output(output, "tests", (".json",), "test.json")
    model = session.model(checkpoint)
    if unknown is not None:
        if model.card.unknown_limit is None:
            raise UsageError(f"--unknown: {model.path} {CANNOT_TELL}", fix=LEARN_IT)
        next(find_images([unknown]))
    session.check_room(model, None)
    with heartbeat(session.reporter, "reading the folder"):
        images = model.test_images(session.data_request(data_root), session.reporter)
    predictor = session.predictor(model.path)
    result, answers = evaluate(
        predictor,
        images,
        checkpoint=model.path,
        batch_size=session.batch_size,
        reporter=session.reporter,
    )
    result = replace(result, old_and_new=_old_and_new(session, model, images, result))
    if unknown is not None:
        batch, reporter = session.batch_size, session.reporter
        figures = measure_unknown(predictor, images, unknown, batch_size=batch, reporter=reporter)
        result = replace(result, unknown=figures)
    folder = new_folder(model.output_folder(session.work_dir) / "test")
    write_test(result, answers, folder)
    set_latest(session.work_dir, "test", folder)
    session.reporter.note(f"Written to {folder}")
    if output is not None:
        write_json(output, result.to_dict())
    session.try_report(f"The test is whole: {folder}", lambda: _report(session, folder))
    return result


def _report(session: Session, folder: Path) -> None:
    with heartbeat(session.reporter, "writing the report"):
        page = write_report(folder.parents[1], quick=True)
    session.reporter.note(f"Report: {page}")


def _old_and_new(session: Session, model: TrainedModel, images: ImageSet, result: TestResult) -> OldAndNew | None:
    """Accuracy on the old and on the added classes of a model, and that of its previous model on the old ones."""
    if not model.card.num_old:
        return None
    base = model.run.base if model.run is not None and model.run.base.is_file() else None
    if base is None:
        session.reporter.warn("The model that classes were added to is gone: no accuracy before to compare with.")
    return compare_with_base(
        base,
        result.confusion,
        model.card.num_old,
        images,
        batch_size=session.batch_size,
        reporter=session.reporter,
    )
