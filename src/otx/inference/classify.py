"""Decode and classify a stream of images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from otx.data.decode import decode_image, ordered
from otx.data.reading import MAX_PIXELS, Reading
from otx.errors import ImageError
from otx.inference.predictor import Logits, Pixels, Predictor

Answer = TypeVar("Answer")
Row = tuple[str, Pixels | None, str | None]
# of decoded images in a batch: 64 photos of 12 megapixels would take 2.3 GB
MOST_BYTES = 1 << 29


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

    for batch in _batches(ordered(load, images), batch_size):
        good = [pixels for _, pixels, _ in batch if pixels is not None]
        answers = iter(network(good) if good else ())
        rows = [(path, pixels is None, error) for path, pixels, error in batch]
        # the next batch is decoded while these names still hold their values
        del good, batch
        for path, is_broken, error in rows:
            yield path, None if is_broken else next(answers), error


def _batches(rows: Iterable[Row], batch_size: int) -> Iterator[list[Row]]:
    """Images as they come, `batch_size` at a time, or fewer where large ones would fill the memory.

    Whole multiples of `batch_size` are always the end of a batch, so that a prediction can be resumed there.
    """
    batch: list[Row] = []
    in_memory = 0
    for number, row in enumerate(rows, start=1):
        batch.append(row)
        in_memory += 0 if row[1] is None else row[1].nbytes
        if number % batch_size == 0 or in_memory >= MOST_BYTES:
            del row
            yield batch
            batch, in_memory = [], 0
    if batch:
        yield batch


def score(predictor: Predictor, images: Sequence[Pixels]) -> Iterator[tuple[Logits, float | None]]:
    """The logits (C,) and the unknown score of each image; None if the model has no such score."""
    logits, scores = predictor.scored(images)
    return zip(logits, [None] * len(logits) if scores is None else scores.tolist(), strict=True)


def softmax(logits: Logits) -> NDArray[np.float64]:
    """Probabilities (N, C) of logits (N, C)."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True))
