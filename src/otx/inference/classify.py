"""Decode and classify a stream of images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from otx.data.decode import decode_image, ordered
from otx.data.reading import MAX_PIXELS, Reading
from otx.errors import ImageError
from otx.inference.predictor import Logits, Pixels, Predictor

Row = tuple[str, Logits | None, str | None]


def classify(
    predictor: Predictor, images: Iterable[str | Path], *, batch_size: int = 64, max_pixels: int = MAX_PIXELS
) -> Iterator[Row]:
    """Classify images one after another, in order; only a few batches are in memory at a time.

    Yields:
        path, logits (C,), None; or path, None, the reason why it cannot be decoded.
    """
    reading = predictor.card.preprocessing.reading(max_pixels)
    return run_over(predictor.logits, images, reading, batch_size=batch_size)


def run_over(
    network: Callable[[Sequence[Pixels]], NDArray[np.float32]],
    images: Iterable[str | Path],
    reading: Reading,
    *,
    batch_size: int = 64,
) -> Iterator[Row]:
    """Like `classify`, with any function that maps decoded images to a row each."""

    def load(path: str | Path) -> tuple[str, Pixels | None, str | None]:
        try:
            return str(path), decode_image(path, reading), None
        except ImageError as error:
            return str(path), None, error.what

    rows = ordered(load, images)
    while batch := list(islice(rows, batch_size)):
        good = [pixels for _, pixels, _ in batch if pixels is not None]
        answers = iter(network(good) if good else ())
        for path, pixels, error in batch:
            yield path, None if pixels is None else next(answers), error


def softmax(logits: Logits) -> NDArray[np.float64]:
    """Probabilities (N, C) of logits (N, C)."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True))
