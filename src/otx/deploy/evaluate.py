"""Measure a model on labelled images, whatever runs the network."""

from __future__ import annotations

import csv
import dataclasses
import json
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from otx.data.dataset import Subset
from otx.deploy.classify import classify, softmax
from otx.deploy.metrics import measure
from otx.deploy.predictor import Predictor, load_predictor
from otx.errors import DataError
from otx.events import Progress, Reporter
from otx.results import BadImage, ClassResult, ImageResult, OldAndNew, TestResult
from otx.workspace import write_csv, write_json

RESULTS = "results.json"
PREDICTIONS = "predictions.csv"
COLUMNS = tuple(field.name for field in dataclasses.fields(ImageResult))


def evaluate(
    predictor: Predictor,
    root: Path,
    images: Subset,
    *,
    checkpoint: Path,
    subset: str,
    batch_size: int,
    max_pixels: int,
    reporter: Reporter,
) -> tuple[TestResult, tuple[ImageResult, ...]]:
    """Run a model over labelled images and measure it; images that cannot be decoded are named and not counted.

    Returns:
        The figures, and what they are made of: the answer for each image that was counted, in order.

    Raises:
        DataError: there is no image, or none can be decoded.
    """
    if not images.paths:
        raise DataError(f"there is no image to test in {root}")
    logits, labels, paths, bad = [], [], [], []
    started = time.perf_counter()
    rows = classify(predictor, (root / path for path in images.paths), batch_size=batch_size, max_pixels=max_pixels)
    for number, (label, relative, row) in enumerate(zip(images.labels, images.paths, rows, strict=True), start=1):
        _, answer, error = row
        if answer is None:
            bad.append(BadImage(relative, error or "unknown"))
        else:
            logits.append(answer)
            labels.append(label)
            paths.append(relative)
        if number % 32 == 0 or number == len(images.paths):
            reporter.progress(Progress("testing", number, len(images.paths)))
    seconds = time.perf_counter() - started
    if not logits:
        raise DataError(
            f"none of the {len(bad)} images in {root} can be decoded, the first: {bad[0].path}: {bad[0].reason}"
        )
    classes = predictor.card.classes
    figures = measure(np.stack(logits), np.asarray(labels), classes)
    result = TestResult(
        checkpoint=checkpoint,
        data_root=root.resolve(),
        subset=subset,
        num_images=len(labels),
        top1=figures.top1,
        top5=figures.top5,
        macro_f1=figures.macro_f1,
        loss=figures.loss,
        calibration_error=figures.calibration_error,
        images_per_second=len(images.paths) / seconds,
        classes=figures.classes,
        confusion=figures.confusion,
        bad_images=tuple(bad),
    )
    return result, image_results(np.stack(logits), np.asarray(labels), paths, classes)


def image_results(
    logits: NDArray[np.float32], labels: NDArray[np.int64], paths: Sequence[str], classes: tuple[str, ...]
) -> tuple[ImageResult, ...]:
    """The answer for each image.

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
    root: Path,
    images: Subset,
    *,
    batch_size: int,
    max_pixels: int,
    reporter: Reporter,
) -> OldAndNew:
    """Accuracy on old and on new classes, and of the model before on the same images of the old ones.

    Args:
        base: the model file that classes were added to, if it is there.
        confusion: (C, C) of the model after, as in `TestResult`.
        num_old: how many of the classes are old, the first ones.
    """
    matrix = np.asarray(confusion)
    old_after, new_after = _accuracy(matrix[:num_old], 0), _accuracy(matrix[num_old:], num_old)
    old = [(path, label) for path, label in zip(images.paths, images.labels, strict=True) if label < num_old]
    old_before = None
    if base is not None and old_after is not None:
        before, _ = evaluate(
            load_predictor(base, "cpu"),
            root,
            Subset(tuple(path for path, _ in old), tuple(label for _, label in old)),
            checkpoint=base,
            subset="old classes",
            batch_size=batch_size,
            max_pixels=max_pixels,
            reporter=reporter,
        )
        old_before = before.top1
    forgetting = None if old_before is None or old_after is None else old_before - old_after
    return OldAndNew(num_old, old_before, old_after, new_after, forgetting)


def _accuracy(rows: NDArray[np.int64], first: int) -> float | None:
    """Top-1 of some rows of a confusion matrix, the first of which is that of class `first`."""
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
        old_and_new = plain["old_and_new"]
        result = TestResult(
            **{
                **plain,
                "checkpoint": Path(plain["checkpoint"]),
                "data_root": Path(plain["data_root"]),
                "classes": tuple(ClassResult(**item) for item in plain["classes"]),
                "confusion": tuple(tuple(row) for row in plain["confusion"]),
                "bad_images": tuple(BadImage(**item) for item in plain["bad_images"]),
                "old_and_new": None if old_and_new is None else OldAndNew(**old_and_new),
            }
        )
        images = tuple(
            ImageResult(
                row["path"],
                row["label"],
                row["predicted"],
                float(row["probability"]),
                float(row["true_probability"]),
                int(row["true_rank"]),
            )
            for row in rows
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder} is no whole test: {error}", fix="run `otx test` again") from error
    return result, images
