"""Predict images that a person names: files, folders, globs."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from otx.data.folder import IMAGE_SUFFIXES
from otx.deploy.classify import classify, softmax
from otx.deploy.predictor import Logits, Predictor
from otx.errors import UsageError
from otx.results import Prediction
from otx.workspace import write_csv, write_json


def find_images(sources: Iterable[str | Path]) -> Iterator[str]:
    """The images that files, folders (with all their folders) and globs stand for, sorted within each.

    Raises:
        UsageError: a path does not exist, a glob matches nothing, a folder has no image.
    """
    names = [str(source) for source in sources]
    if not names:
        raise UsageError("nothing to predict", fix="name images, folders or globs: otx predict photos/ 'more/*.jpg'")
    for source in names:
        yield from _expand(source)


def _expand(source: str) -> Iterator[str]:
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
            raise UsageError(f"there is no image, folder or match for {source!r}")
        for match in matches:
            yield from _expand(match) if Path(match).is_dir() else [match]


def _walk(folder: str) -> Iterator[str]:
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in files:
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES:  # noqa: PTH122 - hot
                yield os.path.join(place, name)  # noqa: PTH118 - hot


def predict(predictor: Predictor, images: Iterable[str], *, batch_size: int, max_pixels: int) -> Iterator[Prediction]:
    """Predict images one after another, in order; one that cannot be decoded gives a prediction with an error."""
    classes = predictor.card.classes
    for path, logits, error in classify(predictor, images, batch_size=batch_size, max_pixels=max_pixels):
        if logits is None:
            yield Prediction(path, None, None, {}, error)
        else:
            yield as_prediction(path, logits, classes)


def as_prediction(path: str, logits: Logits, classes: Sequence[str]) -> Prediction:
    """What the logits (C,) of an image say."""
    probabilities = softmax(logits[None])[0]
    best = int(probabilities.argmax())
    named = {name: float(value) for name, value in zip(classes, probabilities, strict=True)}
    return Prediction(path, classes[best], float(probabilities[best]), named)


def write_predictions(predictions: Iterable[Prediction], path: Path) -> None:
    """Write predictions as `.json` (all probabilities) or `.csv` (path, label, probability, error).

    Raises:
        UsageError: another suffix.
    """
    check_output(path)
    if path.suffix.lower() == ".json":
        write_json(path, [prediction.to_dict() for prediction in predictions])
    else:
        rows = (
            (p.path, p.label or "", "" if p.probability is None else f"{p.probability:.6f}", p.error or "")
            for p in predictions
        )
        write_csv(path, ("path", "label", "probability", "error"), rows)


def check_output(path: Path) -> None:
    """Raise UsageError where predictions cannot be written to such a file."""
    if path.suffix.lower() not in (".csv", ".json"):
        raise UsageError(f"--output {path}: predictions are written as .csv or .json", allowed=[".csv", ".json"])
    if path.is_dir():
        raise UsageError(f"--output {path} is a folder", fix=f"--output {path}/predictions.csv")
