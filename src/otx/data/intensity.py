"""Which values of images with more than 8 bits a data set uses: they become black and white.

Cameras, microscopes and X-ray detectors write 10 to 14 bits into files of 16, where nothing would be brighter than a
quarter of white.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from otx.data.dataset import Dataset, pick_evenly
from otx.data.decode import deep_values, ordered
from otx.data.preprocessing import Preprocessing
from otx.data.reading import Range, Reading
from otx.errors import ImageError
from otx.events import Reporter

LOOKED_AT = 2000
MEASURED = 256
PIXELS = 65_536
QUANTILES = np.linspace(0, 1, 1001)
DARKEST, BRIGHTEST = 0.001, 0.999
BITS = (8, 10, 12, 14, 16)
WHOLE_RANGE = 0.4


def measure_intensity(dataset: Dataset, reading: Reading, seed: int) -> Range | None:
    """The values of the training images that should become black and white; None if none has more than 8 bits.

    It measures up to 256 of 2,000 images, equally many of each class. DICOM files with a window of their own are not
    counted.
    """
    sample = pick_evenly(dataset.train, LOOKED_AT, seed)
    order = np.random.default_rng(seed).permutation(len(sample))

    def look(number: int) -> NDArray[np.float64] | None:
        try:
            values = deep_values(dataset.root / sample.paths[number], reading)
        except ImageError:
            return None
        return None if values is None else _quantiles(values)

    found: list[NDArray[np.float64]] = []
    for quantiles in ordered(look, order.tolist()):
        if quantiles is not None:
            found.append(quantiles)
        if len(found) == MEASURED:
            break
    return choose_range(found) if found else None


def _quantiles(values: NDArray[np.generic]) -> NDArray[np.float64]:
    flat = values.reshape(-1)
    flat = flat[:: max(1, len(flat) // PIXELS)].astype(np.float64)
    return np.quantile(flat[np.isfinite(flat)] if np.isfinite(flat).any() else np.zeros(1), QUANTILES)


def choose_range(quantiles: Iterable[NDArray[np.float64]]) -> Range:
    """Black and white for images whose values have these quantiles.

    From 0 to the largest value of 8, 10, 12, 14 or 16 bits (of floats: 1 or 255) if the images use most of that;
    otherwise from the lowest to the highest thousandth.
    """
    pooled = np.concatenate(list(quantiles))
    low, high = np.quantile(pooled, [DARKEST, BRIGHTEST]).tolist()
    floats = bool((pooled % 1 > 0).any()) and high <= 1
    ends = [1.0] if floats else [float(2**bits - 1) for bits in BITS]
    end = next((end for end in ends if high <= end), None)
    if end is not None and low >= 0 and high - low >= WHOLE_RANGE * end:
        return 0.0, end
    return (low, high) if high > low else (low, low + 1)


def with_range(size: Preprocessing, limits: Range | None, reporter: Reporter) -> Preprocessing:
    """The same preprocessing with these values as black and white, which are reported."""
    if limits is not None:
        reporter.note(range_in_words(limits))
    return replace(size, intensity=limits)


def range_in_words(limits: Range) -> str:
    """A sentence about the range of a data set, with the option that sets another."""
    low, high = limits
    bits = next((bits for bits in BITS if high == 2**bits - 1 and low == 0), None)
    why = f" ({bits} bits)" if bits else ""
    return (
        f"Images of more than 8 bits: values from {low:g} (black) to {high:g} (white) are used{why}; "
        "--data.intensity LOW,HIGH sets others."
    )
