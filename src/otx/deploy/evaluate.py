"""Measure a model on labelled images, whatever runs the network."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from otx.data.dataset import Subset
from otx.deploy.classify import classify
from otx.deploy.metrics import measure
from otx.deploy.predictor import Predictor, load_predictor
from otx.errors import DataError
from otx.events import Progress, Reporter
from otx.results import BadImage, OldAndNew, TestResult
from otx.workspace import write_csv, write_json


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
) -> TestResult:
    """Run a model over labelled images and measure it; images that cannot be decoded are named and not counted.

    Raises:
        DataError: there is no image, or none can be decoded.
    """
    if not images.paths:
        raise DataError(f"there is no image to test in {root}")
    logits, labels, bad = [], [], []
    started = time.perf_counter()
    rows = classify(predictor, (root / path for path in images.paths), batch_size=batch_size, max_pixels=max_pixels)
    for number, (label, relative, row) in enumerate(zip(images.labels, images.paths, rows, strict=True), start=1):
        _, answer, error = row
        if answer is None:
            bad.append(BadImage(relative, error or "unknown"))
        else:
            logits.append(answer)
            labels.append(label)
        if number % 32 == 0 or number == len(images.paths):
            reporter.progress(Progress("testing", number, len(images.paths)))
    seconds = time.perf_counter() - started
    if not logits:
        raise DataError(
            f"none of the {len(bad)} images in {root} can be decoded, the first: {bad[0].path}: {bad[0].reason}"
        )
    figures = measure(np.stack(logits), np.asarray(labels), predictor.card.classes)
    return TestResult(
        checkpoint=checkpoint,
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
        before = evaluate(
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


def write_test(result: TestResult, folder: Path) -> None:
    """Write a test's figures: `results.json`, `confusion_matrix.csv` (rows: true class) and `bad_images.csv`."""
    names = [item.name for item in result.classes]
    write_json(folder / "results.json", result.to_dict())
    rows = ([name, *counts] for name, counts in zip(names, result.confusion, strict=True))
    write_csv(folder / "confusion_matrix.csv", ["true \\ predicted", *names], rows)
    write_csv(folder / "bad_images.csv", ("path", "reason"), ((item.path, item.reason) for item in result.bad_images))
