"""From the numbers in an image file to 8-bit RGB: which grey values become black and white, which bands are colours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otx.errors import ImageError

MAX_PIXELS = 100_000_000
WHITE_OF_16_BITS = 65535.0
WHITE = 255.0

Range = tuple[float, float]
Bands = tuple[int, int, int]


@dataclass(frozen=True)
class Reading:
    """How an image file becomes RGB.

    Args:
        max_pixels: larger images are refused.
        intensity: the values that become black and white in images of more than 8 bits. None: 0 and 65535, for floats
            0 and 1, or 0 and 255.
        own_windows: the window that a DICOM file names for itself comes before `intensity`.
        bands: which bands, counted from 1, become red, green and blue; None: the file says so.
    """

    max_pixels: int = MAX_PIXELS
    intensity: Range | None = None
    own_windows: bool = True
    bands: Bands | None = None


AS_STORED = Reading()


@dataclass(frozen=True)
class RawImage:
    """The pixels of an image file as they are stored.

    Args:
        values: (H, W, bands), of any type of number; bytes are what they are in an 8-bit image.
        alpha: opacity (H, W) from 0 to 1; None: every pixel is opaque.
        window: the file's own range of values from black to white.
        inverted: the largest value is black (DICOM's MONOCHROME1).
    """

    values: NDArray[Any]
    alpha: NDArray[np.float32] | None = None
    window: Range | None = None
    inverted: bool = False

    @property
    def is_8_bit(self) -> bool:
        return self.values.dtype == np.uint8

    def range(self, reading: Reading) -> Range | None:
        """The values that become black and white; None if there are no others than the usual ones."""
        if self.window is not None and (reading.own_windows or reading.intensity is None):
            return self.window
        return reading.intensity


def to_rgb(raw: RawImage, reading: Reading) -> NDArray[np.uint8]:
    """The picture (H, W, 3) that stored pixels show; transparent ones lie on white.

    Raises:
        ImageError: it has no such bands, or more than three and nothing says which to take; or its values are
            negative or too large for an image, and no range is given for them.
    """
    values = chosen_bands(raw.values, reading.bands)
    pixels = values if raw.is_8_bit else _to_8_bits(values, raw.range(reading))
    if raw.inverted:
        pixels = 255 - pixels
    if raw.alpha is not None and reading.bands is None:
        share = raw.alpha[:, :, None]
        pixels = np.round(pixels * share + WHITE * (1 - share)).astype(np.uint8)
    return np.ascontiguousarray(np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels)


def chosen_bands(values: NDArray[Any], bands: Bands | None) -> NDArray[Any]:
    """One or three bands (H, W, 1 or 3) of stored pixels (H, W, all bands).

    Raises:
        ImageError: it has no such bands, or nothing says which to take.
    """
    count = values.shape[2]
    if bands is not None:
        if max(bands) > count:
            raise ImageError(f"it has {in_words(count)}, and --data.bands asks for band {max(bands)}")
        return values[:, :, [band - 1 for band in bands]]
    if count in (1, 3):
        return values
    raise ImageError(
        f"it has {in_words(count)}, and no way to know which are red, green and blue: --data.bands 3,2,1 names them"
    )


def in_words(bands: int) -> str:
    return "1 band" if bands == 1 else f"{bands} bands"


def _to_8_bits(values: NDArray[Any], limits: Range | None) -> NDArray[np.uint8]:
    if values.dtype.kind == "u" and values.dtype.itemsize == 2:
        table = _scaled(np.arange(2**16, dtype=np.uint16), limits)
        return np.asarray(table[values])
    return _scaled(values, limits)


def _scaled(values: NDArray[Any], limits: Range | None) -> NDArray[np.uint8]:
    numbers = values.astype(np.float64)
    black, white = _usual_range(numbers, values.dtype) if limits is None else limits
    scaled = (np.nan_to_num(numbers, nan=black) - black) * (WHITE / (white - black))
    return np.round(scaled.clip(0, WHITE)).astype(np.uint8)


def _usual_range(numbers: NDArray[np.float64], kind: np.dtype[Any]) -> Range:
    low, high = float(numbers.min()), float(numbers.max())
    if not low >= 0:
        raise ImageError(
            f"grey values from {low:g} to {high:g}: --data.intensity LOW,HIGH says which are black and white"
        )
    floats = np.issubdtype(kind, np.floating)
    white = WHITE_OF_16_BITS if not floats else 1.0 if high <= 1 else WHITE
    if high > white:
        raise ImageError(
            f"grey values up to {high:g}, more than {white:g}: --data.intensity LOW,HIGH says which is white"
        )
    return 0.0, white
