"""`otx explain`: draw where in an image a model sees a class."""

from __future__ import annotations

from pathlib import Path

from otx.events import Progress
from otx.inference.explain import Subject, check_targets, explain, subjects_of, write_explanations
from otx.inference.predict import find_images
from otx.model.trained import TrainedModel
from otx.results import ExplainResult
from otx.verbs.predict import Sources, as_list
from otx.verbs.session import Session
from otx.workspace import mark_if_new, new_folder, set_latest


def run(
    session: Session,
    sources: Sources | None,
    *,
    checkpoint: Path | None,
    targets: str,
    algorithm: str,
    output: Path | None,
) -> ExplainResult:
    """Write an overlay picture and a raw map for each image and class."""
    model = session.model(checkpoint)
    check_targets(targets, model.card.classes, labelled=sources is None)
    session.check_room(model, output)
    subjects = _test_subjects(session, model) if sources is None else list(subjects_of(find_images(as_list(sources))))
    predictor = session.predictor(model.path)
    folder = mark_if_new(output) if output else new_folder(model.output_folder(session.work_dir) / "explain")
    explanations = []
    rows = explain(predictor, subjects, folder, targets=targets, algorithm=algorithm, max_pixels=session.max_pixels)
    for row in rows:
        explanations.append(row)
        done = len(explanations)
        session.reporter.progress(Progress("explaining", done, max(done, len(subjects))))
    write_explanations(explanations, folder)
    set_latest(session.work_dir, "explain", folder)
    return ExplainResult(folder, tuple(explanations))


def _test_subjects(session: Session, model: TrainedModel) -> list[Subject]:
    images = model.test_images(session.data_request(), session.reporter)
    session.reporter.note(f"Explaining the {len(images)} images of the {images.split}.")
    return [Subject(images.root / name, name, label) for name, label in images.items()]
