"""Measure a model on labelled images, with any runtime."""

from __future__ import annotations

import csv
import dataclasses
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otx.confusion import ConfusionMatrix
from otx.data.dataset import ImageSet, Subset
from otx.errors import DataError
from otx.evaluation.metrics import Answers, measure
from otx.events import Progress, Reporter
from otx.files import write_csv, write_json
from otx.inference.classify import classify
from otx.inference.predictor import Predictor, load_predictor
from otx.plain import structured
from otx.results import BadImage, ClassResult, ImageResult, OldAndNew, TestResult

RESULTS = "results.json"
PREDICTIONS = "predictions.csv"
CLASSES = "classes.csv"
REPORT_EVERY = 32
# images whose logits are in memory
KEPT_LOGITS = 64
COLUMNS = tuple(field.name for field in dataclasses.fields(ImageResult))
CLASS_COLUMNS = tuple(field.name for field in dataclasses.fields(ClassResult))


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
    found = _answers(predictor, images, batch_size, reporter)
    seconds = time.perf_counter() - started
    if not found.paths:
        first = found.bad[0]
        raise DataError(
            f"none of the {len(found.bad)} images in {images.root} can be decoded, "
            f"the first: {first.path}: {first.reason}"
        )
    classes, answers = predictor.card.classes, Answers.join(found.parts)
    result = TestResult(
        checkpoint=checkpoint,
        data_root=images.root.resolve(),
        subset=images.split,
        num_images=len(found.paths),
        images_per_second=len(images) / seconds,
        bad_images=tuple(found.bad),
        **vars(measure(answers, classes)),
    )
    return result, image_results(answers, found.paths, classes)


@dataclasses.dataclass
class _Answers:
    """The answers for the images that could be decoded, in parts, and their paths; and the images that could not.

    `logits` (C,) and `labels` are those of the newest images, not yet in `parts`.
    """

    parts: list[Answers] = dataclasses.field(default_factory=list)
    paths: list[str] = dataclasses.field(default_factory=list)
    bad: list[BadImage] = dataclasses.field(default_factory=list)
    logits: list[NDArray[np.float32]] = dataclasses.field(default_factory=list)
    labels: list[int] = dataclasses.field(default_factory=list)

    def add(self, path: str, label: int, logits: NDArray[np.float32]) -> None:
        self.paths.append(path)
        self.labels.append(label)
        self.logits.append(logits)
        if len(self.labels) == KEPT_LOGITS:
            self.drop_logits()

    def drop_logits(self) -> None:
        """Keep only what the figures need of the newest images."""
        if self.labels:
            self.parts.append(Answers.of(np.stack(self.logits), np.asarray(self.labels)))
            self.logits, self.labels = [], []


def _answers(predictor: Predictor, images: ImageSet, batch_size: int, reporter: Reporter) -> _Answers:
    found = _Answers()
    rows = classify(predictor, images.files(), batch_size=batch_size, max_pixels=images.max_pixels)
    for number, ((path, label), (_, logits, error)) in enumerate(zip(images.items(), rows, strict=True), start=1):
        if logits is None:
            found.bad.append(BadImage(path, error or "unknown"))
        else:
            found.add(path, label, logits)
        if number % REPORT_EVERY == 0 or number == len(images):
            reporter.progress(Progress("testing", number, len(images)))
    found.drop_logits()
    return found


def image_results(answers: Answers, paths: Sequence[str], classes: tuple[str, ...]) -> tuple[ImageResult, ...]:
    """The result for each image."""
    rows = zip(
        paths,
        (classes[label] for label in answers.labels.tolist()),
        (classes[index] for index in answers.predicted.tolist()),
        answers.probability.tolist(),
        answers.true_probability.tolist(),
        answers.true_rank.tolist(),
        strict=True,
    )
    return tuple(ImageResult(*row) for row in rows)


def compare_with_base(
    base: Path | None,
    confusion: ConfusionMatrix,
    num_old: int,
    images: ImageSet,
    *,
    batch_size: int,
    reporter: Reporter,
) -> OldAndNew:
    """Accuracy on old and on new classes, and the base model's accuracy on the same images of the old ones.

    Args:
        base: the model file that classes were added to, if it is there.
        confusion: that of the model with the classes added, as in `TestResult`.
        num_old: number of old classes, which come first.
    """
    old_after = _accuracy(confusion.hits[:num_old], confusion.totals[:num_old])
    new_after = _accuracy(confusion.hits[num_old:], confusion.totals[num_old:])
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


def _accuracy(hits: Sequence[int], totals: Sequence[int]) -> float | None:
    """Top-1 accuracy over some classes; None without images."""
    total = sum(totals)
    return sum(hits) / total if total else None


def write_test(result: TestResult, images: Sequence[ImageResult], folder: Path) -> None:
    """Write a test: `results.json`, `classes.csv`, `confusion_matrix.csv`, `predictions.csv`, `bad_images.csv`."""
    write_json(folder / RESULTS, result.to_dict())
    write_csv(folder / CLASSES, CLASS_COLUMNS, (_cells(item, CLASS_COLUMNS) for item in result.classes))
    _write_confusion(result, folder / "confusion_matrix.csv")
    write_csv(folder / PREDICTIONS, COLUMNS, (_cells(image, COLUMNS) for image in images))
    write_csv(folder / "bad_images.csv", ("path", "reason"), ((item.path, item.reason) for item in result.bad_images))


def _cells(row: ImageResult | ClassResult, columns: Sequence[str]) -> list[Any]:
    return [getattr(row, name) for name in columns]


def _write_confusion(result: TestResult, path: Path) -> None:
    """Write a row for each true class; with very many classes, a row for each pair of classes that has images."""
    names = [item.name for item in result.classes]
    if result.confusion.has_many_classes:
        pairs = ((names[i], names[j], count) for i, j, count in result.confusion.entries)
        write_csv(path, ("true", "predicted", "count"), pairs)
        return
    rows = ([name, *counts] for name, counts in zip(names, result.confusion, strict=True))
    write_csv(path, ["true \\ predicted", *names], rows)


def read_test(folder: Path) -> tuple[TestResult, tuple[ImageResult, ...]]:
    """Read back what `write_test` wrote.

    Raises:
        DataError: a file is missing or not as it was written.
    """
    try:
        # names of files that are not valid UTF-8 were written unchanged
        plain = json.loads((folder / RESULTS).read_text(encoding="utf-8", errors="surrogateescape"))
        with (folder / PREDICTIONS).open(encoding="utf-8", errors="surrogateescape", newline="") as file:
            rows = list(csv.DictReader(file))
        result = structured(TestResult, plain)
        images = tuple(structured(ImageResult, row) for row in rows)
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise DataError(f"{folder} is no whole test: {error}", fix="run `otx test` again") from error
    return result, images
