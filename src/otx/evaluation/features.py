"""What a model computes of many images at once, for the searches of `otx check`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from otx.events import Progress, Reporter
from otx.inference.classify import run_over
from otx.inference.predictor import Pixels, Predictor

REPORT_EVERY = 64


@dataclass(frozen=True)
class ImageFeatures:
    """The images that can be decoded, by path: features (N, D), and unknown scores (N,) if it has that score."""

    paths: tuple[str, ...]
    features: NDArray[np.float32]
    scores: NDArray[np.float32] | None


def compute_features(
    predictor: Predictor, root: Path, paths: Sequence[str], *, batch_size: int, max_pixels: int, reporter: Reporter
) -> ImageFeatures | None:
    """The features of images, whose paths are relative to `root`; None if none of them can be decoded."""

    def examine(images: Sequence[Pixels]) -> Iterator[tuple[NDArray[np.float32], float | None]]:
        features, scores = predictor.features_and_scores(images)
        return zip(features, [None] * len(features) if scores is None else scores.tolist(), strict=True)

    reading = predictor.card.preprocessing.reading(max_pixels)
    answers = run_over(examine, [root / path for path in paths], reading, batch_size=batch_size)
    known, rows, scores = [], [], []
    for number, (path, (_, answer, _)) in enumerate(zip(paths, answers, strict=True), start=1):
        if answer is not None:
            known.append(path)
            rows.append(answer[0])
            scores.append(answer[1])
        if number % REPORT_EVERY == 0:
            reporter.progress(Progress("features", number, len(paths)))
    if not known:
        return None
    return ImageFeatures(tuple(known), np.stack(rows), None if scores[0] is None else np.asarray(scores, np.float32))
