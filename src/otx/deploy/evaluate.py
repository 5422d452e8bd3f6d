"""Measure a model on labelled images, whatever runs the network."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from otx.data.dataset import Subset
from otx.deploy.classify import classify
from otx.deploy.metrics import measure
from otx.deploy.predictor import Predictor
from otx.errors import DataError
from otx.events import Progress, Reporter
from otx.results import BadImage, TestResult
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


def write_test(result: TestResult, folder: Path) -> None:
    """Write a test's figures: `results.json`, `confusion_matrix.csv` (rows: true class) and `bad_images.csv`."""
    names = [item.name for item in result.classes]
    write_json(folder / "results.json", result.to_dict())
    rows = ([name, *counts] for name, counts in zip(names, result.confusion, strict=True))
    write_csv(folder / "confusion_matrix.csv", ["true \\ predicted", *names], rows)
    write_csv(folder / "bad_images.csv", ("path", "reason"), ((item.path, item.reason) for item in result.bad_images))
