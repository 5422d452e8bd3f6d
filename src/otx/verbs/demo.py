"""`otx demo`: serve a page on this machine that classifies photos."""

from __future__ import annotations

import contextlib
import socket
import tempfile
from pathlib import Path

from otx.data.dataset import pick_evenly
from otx.demo.answer import Answerer, load_example
from otx.demo.served import find_served
from otx.demo.server import Demo
from otx.errors import InputError
from otx.events import heartbeat
from otx.local_server import take_port
from otx.model.trained import TrainedModel
from otx.report.figures import confident_mistakes
from otx.report.record import read_record
from otx.verbs.session import Session
from otx.workspace import MODEL_FILE, run_of

EXAMPLES = 8
MISTAKES = 3


def run(session: Session, *, checkpoint: Path | None, port: int) -> Demo:
    """Serve an exported file; a run without one that has saliency maps is exported first."""
    with contextlib.ExitStack() as on_failure:
        taken = on_failure.enter_context(take_port(port))
        demo = _serve(session, checkpoint, taken)
        on_failure.pop_all()
        return demo


def _serve(session: Session, checkpoint: Path | None, taken: socket.socket) -> Demo:
    given = checkpoint or session.checkpoint
    if given is not None and (given / MODEL_FILE).is_file():
        given = given / MODEL_FILE
    path = session.model_path(given)
    with tempfile.TemporaryDirectory(prefix="otx.") as scratch:
        with heartbeat(session.reporter, "exporting"):
            served = find_served(path, Path(scratch), session.reporter)
        answerer = Answerer(session.predictor(served.path), session.max_pixels, served.no_maps)
    model = TrainedModel(path, answerer.card, run_of(path))
    examples, why_none = _examples(session, model)
    reading = answerer.card.preprocessing.reading(session.max_pixels)
    loaded = [each for known in examples if (each := load_example(*known[:2], reading, known[2]))]
    about = {
        "model": "/".join(path.resolve().parts[-2:]),
        "network": answerer.card.network,
        "no_examples": why_none,
    }
    return Demo(answerer, loaded, about, taken)


def _examples(session: Session, model: TrainedModel) -> tuple[list[tuple[Path, str, str]], str]:
    """A few test images with their classes and what they are known to be mistaken for; or why there are none."""
    try:
        images = model.test_images(session.data_request(), session.reporter)
    except InputError as error:
        return [], error.what
    mistakes = _known_mistakes(model, images.root)
    chosen = pick_evenly(images.subset, EXAMPLES - len(mistakes), model.recipe.seed)
    pairs = zip(chosen.paths, chosen.labels, strict=True)
    known = {path for path, _, _ in mistakes}
    plain = [(images.root / name, model.card.classes[label], "") for name, label in pairs]
    return [each for each in plain if each[0] not in known] + mistakes, ""


def _known_mistakes(model: TrainedModel, root: Path) -> list[tuple[Path, str, str]]:
    """The images of its newest test that the model was surest of and wrong; none if it was not tested."""
    try:
        measured = None if model.run is None else read_record(model.run.path).measurement
    except InputError:
        return []
    if measured is None or not measured.is_own or measured.result.data_root != root.resolve():
        return []
    return [(root / each.path, each.label, each.predicted) for each in confident_mistakes(measured.images, MISTAKES)]
