"""Measure a model on labelled images, with any runtime."""

from __future__ import annotations

import csv
import dataclasses
import json
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from otx.data.dataset import ImageSet, Subset
from otx.errors import DataError
from otx.evaluation.metrics import measure
from otx.events import Progress, Reporter
from otx.files import write_csv, write_json
from otx.inference.classify import classify, softmax
from otx.inference.predictor import Predictor, load_predictor
from otx.plain import structured
from otx.results import BadImage, ImageResult, OldAndNew, TestResult

RESULTS = "results.json"
PREDICTIONS = "predictions.csv"
REPORT_EVERY = 32
COLUMNS = tuple(field.name for field in dataclasses.fields(ImageResult))


def evaluate(
    predictor: Predictor, images: ImageSet, *, checkpoint: Path, batch_size: int, reporter: Reporter
) -> tuple[TestResult, tuple[ImageResult, ...]]:
    """Run a model over labelled images and measure it; images that cannot be decoded are listed and not counted.

    Returns:
        The figures, and the result for each image that was counted, in order.

    Raises:
        DataError: there is no image, or none can be decoded.
    """
    if not len(images):
        raise DataError(f"there is no image to test in {images.root}")
    started = time.perf_counter()
    answers = _answers(predictor, images, batch_size, reporter)
    seconds = time.perf_counter() - started
    if not answers.paths:
        first = answers.bad[0]
        raise DataError(
            f"none of the {len(answers.bad)} images in {images.root} can be decoded, "
            f"the first: {first.path}: {first.reason}"
        )
    classes = predictor.card.classes
    logits, labels = np.stack(answers.logits), np.asarray(answers.labels)
    result = TestResult(
        checkpoint=checkpoint,
        data_root=images.root.resolve(),
        subset=images.split,
        num_images=len(labels),
        images_per_second=len(images) / seconds,
        bad_images=tuple(answers.bad),
        **vars(measure(logits, labels, classes)),
    )
    return result, image_results(logits, labels, answers.paths, classes)


@dataclasses.dataclass
class _Answers:
    """The logits (C,) of each image that could be decoded, its label and path; and the images that could not."""

    logits: list[NDArray[np.float32]] = dataclasses.field(default_factory=list)
    labels: list[int] = dataclasses.field(default_factory=list)
    paths: list[str] = dataclasses.field(default_factory=list)
    bad: list[BadImage] = dataclasses.field(default_factory=list)


def _answers(predictor: Predictor, images: ImageSet, batch_size: int, reporter: Reporter) -> _Answers:
    found = _Answers()
    rows = classify(predictor, images.files(), batch_size=batch_size, max_pixels=images.max_pixels)
    for number, ((path, label), (_, logits, error)) in enumerate(zip(images.items(), rows, strict=True), start=1):
        if logits is None:
            found.bad.append(BadImage(path, error or "unknown"))
        else:
            found.logits.append(logits)
            found.labels.append(label)
            found.paths.append(path)
        if number % REPORT_EVERY == 0 or number == len(images):
            reporter.progress(Progress("testing", number, len(images)))
    return found


def image_results(
    logits: NDArray[np.float32], labels: NDArray[np.int64], paths: Sequence[str], classes: tuple[str, ...]
) -> tuple[ImageResult, ...]:
    """The result for each image.

    Args:
        logits: (N, C).
        labels: (N,), from 0 to C - 1.
    """
    probabilities, predicted = softmax(logits), logits.argmax(axis=1)
    own = np.arange(len(labels))
    ranks = 1 + (logits > logits[own, labels][:, None]).sum(axis=1)
    rows = zip(
        paths,
        (classes[label] for label in labels.tolist()),
        (classes[index] for index in predicted.tolist()),
        probabilities[own, predicted].tolist(),
        probabilities[own, labels].tolist(),
        ranks.tolist(),
        strict=True,
    )
    return tuple(ImageResult(*row) for row in rows)


def compare_with_base(
    base: Path | None,
    confusion: tuple[tuple[int, ...], ...],
    num_old: int,
    images: ImageSet,
    *,
    batch_size: int,
    reporter: Reporter,
) -> OldAndNew:
    """Accuracy on old and on new classes, and the base model's accuracy on the same images of the old ones.

    Args:
        base: the model file that classes were added to, if it is there.
        confusion: (C, C) of the model with the classes added, as in `TestResult`.
        num_old: number of old classes, which come first.
    """
    matrix = np.asarray(confusion)
    old_after, new_after = _accuracy(matrix[:num_old], 0), _accuracy(matrix[num_old:], num_old)
    old_before = None
    if base is not None and old_after is not None:
        old = _of_classes(images, range(num_old))
        predictor = load_predictor(base, "cpu")
        before, _ = evaluate(predictor, old, checkpoint=base, batch_size=batch_size, reporter=reporter)
        old_before = before.top1
    forgetting = None if old_before is None or old_after is None else old_before - old_after
    return OldAndNew(num_old, old_before, old_after, new_after, forgetting)


def _of_classes(images: ImageSet, labels: range) -> ImageSet:
    kept = [(path, label) for path, label in images.items() if label in labels]
    subset = Subset(tuple(path for path, _ in kept), tuple(label for _, label in kept))
    return dataclasses.replace(images, subset=subset, split="old classes")


def _accuracy(rows: NDArray[np.int64], first: int) -> float | None:
    """Top-1 accuracy over some rows of a confusion matrix, which begin with class `first`; None without images."""
    total = int(rows.sum())
    return float(np.trace(rows[:, first:])) / total if total else None


def write_test(result: TestResult, images: Sequence[ImageResult], folder: Path) -> None:
    """Write a test: `results.json`, `confusion_matrix.csv` (rows: true class), `predictions.csv`, `bad_images.csv`."""
    names = [item.name for item in result.classes]
    write_json(folder / RESULTS, result.to_dict())
    rows = ([name, *counts] for name, counts in zip(names, result.confusion, strict=True))
    write_csv(folder / "confusion_matrix.csv", ["true \\ predicted", *names], rows)
    write_csv(folder / PREDICTIONS, COLUMNS, ([getattr(image, name) for name in COLUMNS] for image in images))
    write_csv(folder / "bad_images.csv", ("path", "reason"), ((item.path, item.reason) for item in result.bad_images))


def read_test(folder: Path) -> tuple[TestResult, tuple[ImageResult, ...]]:
    """Read back what `write_test` wrote.

    Raises:
        DataError: a file is missing or not as it was written.
    """
    try:
        plain = json.loads((folder / RESULTS).read_text(encoding="utf-8"))
        with (folder / PREDICTIONS).open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        result = structured(TestResult, plain)
        images = tuple(structured(ImageResult, row) for row in rows)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder} is no whole test: {error}", fix="run `otx test` again") from error
    return result, images
