"""`otx predict`: classify images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from otx.errors import UsageError
from otx.events import Progress, Reporter, heartbeat
from otx.files import TABLES, check_output
from otx.inference.predict import Unfinished, find_images, predict, rejecting, write_as_they_come
from otx.model.card import CANNOT_TELL, LEARN_IT
from otx.results import Prediction
from otx.verbs.session import Session

Sources = str | Path | Iterable[str | Path]
REPORT_EVERY = 32


def run(
    session: Session, sources: Sources, *, checkpoint: Path | None, output: Path | None, resume: bool, reject: bool
) -> Iterator[Prediction]:
    """Classify images one by one; with `resume`, skip those that an unfinished `output` already holds.

    Raises:
        UsageError: `reject` asks for what the model cannot tell.
    """
    if output is not None:
        check_output(output, "predictions", TABLES, "predictions.csv")
    if resume and (output is None or output.suffix.lower() != ".csv"):
        raise UsageError("--resume goes on with a .csv file", fix="--output predictions.csv --resume")
    model = session.model(checkpoint)
    with heartbeat(session.reporter, "looking for images"):
        images = list(find_images(as_list(sources)))
    if model.card.unknown_limit is None:
        if reject:
            raise UsageError(f"--reject: {model.path} {CANNOT_TELL}", fix=LEARN_IT)
        session.reporter.note(f"`known` is empty: {model.path} {CANNOT_TELL}; {LEARN_IT}.")
    predictor = session.predictor(model.path)
    batch = session.batch_size
    done = Unfinished.read(output, images, batch) if resume and output is not None else Unfinished()
    if done.rows:
        session.reporter.note(f"{done.rows} of {len(images)} images are in {output} already.")
    predictions = predict(predictor, images[done.rows :], batch_size=batch, max_pixels=session.max_pixels)
    if reject:
        predictions = rejecting(predictions)
    if output is not None:
        predictions = write_as_they_come(predictions, output, done)
    return _with_progress(predictions, done.rows, len(images), session.reporter)


def as_list(sources: Sources) -> list[str | Path]:
    return [sources] if isinstance(sources, (str, Path)) else list(sources)


def _with_progress(
    predictions: Iterable[Prediction], done: int, total: int, reporter: Reporter
) -> Iterator[Prediction]:
    for number, prediction in enumerate(predictions, start=done + 1):
        if number % REPORT_EVERY == 0 or number == total:
            reporter.progress(Progress("predicting", number, total))
        yield prediction
