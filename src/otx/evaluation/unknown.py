"""How well a model tells images of other things from images of the classes that it knows."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from otx.data.dataset import ImageSet
from otx.errors import DataError
from otx.events import Progress, Reporter
from otx.findings import UnknownResult
from otx.inference.classify import run_over, score
from otx.inference.predict import find_images
from otx.inference.predictor import Predictor

REPORT_EVERY = 32


def measure_unknown(
    predictor: Predictor, images: ImageSet, folder: Path, *, batch_size: int, reporter: Reporter
) -> UnknownResult:
    """Compare the scores of known images with those of the images in a folder; what cannot be decoded is left out.

    Args:
        predictor: of a model that has unknown scores.
        images: of the classes that it knows.

    Raises:
        DataError: none of the images can be decoded.
        UsageError: there is no image in the folder.
    """
    known = _scores(predictor, list(images.files()), images.max_pixels, batch_size, reporter)
    unknown = _scores(predictor, list(find_images([folder])), images.max_pixels, batch_size, reporter)
    if not len(unknown) or not len(known):
        raise DataError(f"none of the images in {folder if len(known) else images.root} can be decoded")
    limit = predictor.card.unknown_limit
    assert limit is not None
    return UnknownResult(
        folder=folder.resolve(),
        num_images=len(unknown),
        limit=limit,
        auroc=auroc(known, unknown),
        let_through=float((unknown <= limit).mean()),
        known_lost=float((known > limit).mean()),
    )


def _scores(
    predictor: Predictor, paths: list[str] | list[Path], max_pixels: int, batch_size: int, reporter: Reporter
) -> NDArray[np.float64]:
    found = []
    rows = run_over(
        partial(score, predictor), paths, predictor.card.preprocessing.reading(max_pixels), batch_size=batch_size
    )
    for number, (_, answer, _) in enumerate(rows, start=1):
        if answer is not None:
            found.append(answer[1])
        if number % REPORT_EVERY == 0 or number == len(paths):
            reporter.progress(Progress("scoring", number, len(paths)))
    return np.asarray(found, np.float64)


def auroc(known: Iterable[float], unknown: Iterable[float]) -> float:
    """The probability that an unknown image has a higher score than a known one; a tie counts half.

    Source: Hanley and McNeil 1982, "The Meaning and Use of the Area under a Receiver Operating Characteristic Curve".
    """
    ordered, others = np.sort(np.asarray(known)), np.asarray(unknown)
    below, up_to = (np.searchsorted(ordered, others, side) for side in ("left", "right"))
    return float((below + up_to).mean() / (2 * len(ordered)))
