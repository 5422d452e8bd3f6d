"""Decode and classify a stream of images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from otx.data.decode import decode_image, ordered
from otx.data.reading import MAX_PIXELS, Reading
from otx.errors import ImageError
from otx.inference.predictor import Logits, Pixels, Predictor

Answer = TypeVar("Answer")


def classify(
    predictor: Predictor, images: Iterable[str | Path], *, batch_size: int = 64, max_pixels: int = MAX_PIXELS
) -> Iterator[tuple[str, Logits | None, str | None]]:
    """Classify images one after another, in order; only a few batches are in memory at a time.

    Yields:
        path, logits (C,), None; or path, None, the reason why it cannot be decoded.
    """
    reading = predictor.card.preprocessing.reading(max_pixels)
    return run_over(predictor.logits, images, reading, batch_size=batch_size)


def run_over(
    network: Callable[[Sequence[Pixels]], Iterable[Answer]],
    images: Iterable[str | Path],
    reading: Reading,
    *,
    batch_size: int = 64,
) -> Iterator[tuple[str, Answer | None, str | None]]:
    """Like `classify`, with any function that maps decoded images to an answer each."""

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


def score(predictor: Predictor, images: Sequence[Pixels]) -> Iterator[tuple[Logits, float | None]]:
    """The logits (C,) and the unknown score of each image; None if the model has no such score."""
    logits, scores = predictor.scored(images)
    return zip(logits, [None] * len(logits) if scores is None else scores.tolist(), strict=True)


def softmax(logits: Logits) -> NDArray[np.float64]:
    """Probabilities (N, C) of logits (N, C)."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True))
