"""What a model computes of many images at once, for the searches of `otx check`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from otx.data.dataset import ImageSet
from otx.events import Progress, Reporter
from otx.inference.classify import run_over
from otx.inference.predictor import Pixels, Predictor

REPORT_EVERY = 64


@dataclass(frozen=True)
class ImageFeatures:
    """The N images that can be decoded: paths; features of M of them (M, D); unknown scores (N,), None without any."""

    paths: tuple[str, ...]
    features: NDArray[np.float32]
    scores: NDArray[np.float32] | None


def compute_features(
    predictor: Predictor, images: ImageSet, *, most: int | None, batch_size: int, reporter: Reporter
) -> ImageFeatures | None:
    """The features of images; None if none of them can be decoded.

    Args:
        most: keep the features of so many random images alone, a million of them would fill the memory; None: of all.
    """

    def examine(images: Sequence[Pixels]) -> Iterator[tuple[NDArray[np.float32], float | None]]:
        features, scores = predictor.features_and_scores(images)
        return zip(features, [None] * len(features) if scores is None else scores.tolist(), strict=True)

    reading = predictor.card.preprocessing.reading(images.max_pixels)
    answers = run_over(examine, images.files(), reading, batch_size=batch_size)
    chosen = np.zeros(len(images), bool)
    chosen[np.random.default_rng(0).permutation(len(images))[:most]] = True
    known, rows, scores = [], [], []
    for number, (path, (_, answer, _)) in enumerate(zip(images.subset.paths, answers, strict=True)):
        if answer is not None:
            known.append(path)
            scores.append(answer[1])
            if chosen[number]:
                rows.append(answer[0])
        if number % REPORT_EVERY == 0:
            reporter.progress(Progress("features", number + 1, len(images)))
    if not rows:
        return None
    return ImageFeatures(tuple(known), np.stack(rows), None if scores[0] is None else np.asarray(scores, np.float32))
