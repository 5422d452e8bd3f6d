"""Predict the images that the user names: files, folders, globs."""

from __future__ import annotations

import contextlib
import csv
import glob
import io
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from otx.confusion import MANY_CLASSES
from otx.data.folder import IMAGE_SUFFIXES
from otx.errors import UsageError
from otx.files import STAGING, atomic, cannot_write
from otx.inference.classify import run_over, score, softmax
from otx.inference.predictor import Logits, Predictor
from otx.results import Prediction

COLUMNS = ("path", "label", "probability", "error", "known")
UNKNOWN = "unknown"
PROBABILITIES_KEPT = 100


VIDEOS = {".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv"}


def find_images(sources: Iterable[str | Path]) -> Iterator[str]:
    """The images in files, folders (with their sub-folders) and globs, sorted within each.

    Raises:
        UsageError: a path does not exist, a glob matches nothing, a folder has no image.
    """
    names = [str(source) for source in sources]
    if not names:
        raise UsageError("nothing to predict", fix="name images, folders or globs: otx predict photos/ 'more/*.jpg'")
    for source in names:
        yield from _expand(source)


def _expand(source: str) -> Iterator[str]:
    if "://" in source:
        raise UsageError(f"{source} is an address", fix="download the image and name the file")
    if Path(source).suffix.lower() in VIDEOS and not Path(source).is_dir():
        raise UsageError(
            f"{source} is a video", fix=f"take images from it: ffmpeg -i {source} -vf fps=1 frames/%05d.jpg"
        )
    if Path(source).is_dir():
        found = sorted(_walk(source))
        if not found:
            raise UsageError(f"there is no image in the folder {source}", allowed=sorted(IMAGE_SUFFIXES))
        yield from found
    elif Path(source).exists():
        yield source
    else:
        matches = sorted(glob.glob(source, recursive=True))  # noqa: PTH207 - Path.glob takes no absolute pattern
        if not matches:
            raise UsageError(
                f"there is no image, folder or match for {source!r}",
                fix='give an image, a folder, or a pattern in quotation marks: otx predict "photos/**/*.jpg"',
            )
        # `photos/**` matches folders and what is in them: no image comes twice
        found = list(dict.fromkeys(path for match in matches for path in _within(match)))
        if not found:
            raise UsageError(
                f"there is no image in the folders that {source!r} matches", allowed=sorted(IMAGE_SUFFIXES)
            )
        yield from found


def _within(match: str) -> list[str]:
    return sorted(_walk(match)) if Path(match).is_dir() else [match]


def _walk(folder: str) -> Iterator[str]:
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in files:
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES:  # noqa: PTH122 - hot
                yield os.path.join(place, name)  # noqa: PTH118 - hot


def predict(predictor: Predictor, images: Iterable[str], *, batch_size: int, max_pixels: int) -> Iterator[Prediction]:
    """Predict images one after another, in order; one that cannot be decoded gives a prediction with an error."""
    card = predictor.card
    reading = card.preprocessing.reading(max_pixels)
    for path, answer, error in run_over(partial(score, predictor), images, reading, batch_size=batch_size):
        if answer is None:
            yield Prediction(path, None, None, {}, error)
        else:
            logits, unknown = answer
            yield replace(as_prediction(path, logits, card.classes), known=card.is_known(unknown))


def rejecting(predictions: Iterable[Prediction]) -> Iterator[Prediction]:
    """The predictions, with the label `unknown` where an image is not of a class that the model knows."""
    for prediction in predictions:
        yield replace(prediction, label=UNKNOWN) if prediction.known is False else prediction


def as_prediction(path: str, logits: Logits, classes: Sequence[str]) -> Prediction:
    """The prediction that the logits (C,) of an image give."""
    probabilities = softmax(logits[None])[0]
    best = int(probabilities.argmax())
    shown: Iterable[int] = range(len(classes))
    if len(classes) > MANY_CLASSES:
        shown = np.argsort(-probabilities, kind="stable")[:PROBABILITIES_KEPT].tolist()
    named = {classes[index]: float(probabilities[index]) for index in shown}
    return Prediction(path, classes[best], float(probabilities[best]), named)


@dataclass(frozen=True)
class Unfinished:
    """The part of an unfinished `.csv` of predictions to keep: the number of rows, and the byte where they end."""

    rows: int = 0
    end: int = 0

    @classmethod
    def read(cls, path: Path, images: Sequence[str], batch_size: int) -> Unfinished:
        """Find the end of the last whole batch. Images of a batch are computed together, so a part of one is redone.

        Raises:
            UsageError: the file cannot be read, or its rows are not those of the images.
        """
        rows = end = at = 0
        kept = cls()
        try:
            for number, record in enumerate(_records(path)):
                at += len(record)
                row = next(csv.reader(io.StringIO(record.decode("utf-8", "surrogateescape"), newline="")))
                expected = COLUMNS if number == 0 else images[number - 1 : number]
                if row[: len(expected)] != list(expected) or len(row) != len(COLUMNS) or not expected:
                    raise UsageError(
                        f"{path}, row {number + 1} is {', '.join(row)}: not a prediction of these images",
                        fix="give the same images in the same order, or leave --resume out to begin anew",
                    )
                rows, end = number, at
                if rows % batch_size == 0:
                    kept = cls(rows, end)
        except FileNotFoundError:
            return cls()
        except (OSError, csv.Error) as error:
            raise UsageError(f"{path} cannot be read: {error}") from error
        return cls(rows, end) if rows == len(images) else kept


def _records(path: Path) -> Iterator[bytes]:
    """The whole records of a CSV file, which may have line breaks in quotes, without a truncated one at the end."""
    record = b""
    with path.open("rb") as file:
        for line in file:
            record += line
            if line.endswith(b"\n") and record.count(b'"') % 2 == 0:
                yield record
                record = b""


def write_as_they_come(predictions: Iterable[Prediction], path: Path, done: Unfinished) -> Iterator[Prediction]:
    """Write predictions and yield them: `.csv` (path, label, probability, error, known) or `.json` (probabilities).

    A `.csv` replaces an older one when its first row is written, and grows from there; a `.json` appears when it is
    complete.

    Raises:
        UsageError, StorageError: it cannot be written.
    """
    if path.suffix.lower() == ".json":
        return _write_json(predictions, path)
    return _write_csv(predictions, path, done)


def _write_json(predictions: Iterable[Prediction], path: Path) -> Iterator[Prediction]:
    with atomic(path) as file:
        separator = "["
        for prediction in predictions:
            text = json.dumps(prediction.to_dict(), indent=2, ensure_ascii=False)
            file.write(f"{separator}\n{text}".replace("\n", "\n  "))
            separator = ","
            yield prediction
        file.write("\n]\n")


def _write_csv(predictions: Iterable[Prediction], path: Path, done: Unfinished) -> Iterator[Prediction]:
    place = path if done.end else path.with_name(f"{STAGING}{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with place.open("r+" if done.end else "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
            file.seek(done.end)
            file.truncate()
            writer = csv.writer(file, lineterminator="\n")
            if not done.end:
                writer.writerow(COLUMNS)
            for prediction in predictions:
                writer.writerow(_row(prediction))
                file.flush()
                if place != path:
                    place = place.replace(path)
                yield prediction
            os.fsync(file.fileno())
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        if place != path:
            with contextlib.suppress(OSError):
                place.unlink()


def _row(prediction: Prediction) -> tuple[str, ...]:
    probability = "" if prediction.probability is None else f"{prediction.probability:.6f}"
    known = {None: "", True: "true", False: "false"}[prediction.known]
    return prediction.path, prediction.label or "", probability, prediction.error or "", known
