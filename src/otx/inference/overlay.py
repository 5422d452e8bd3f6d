"""Draw a saliency map over its image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from otx.data.preprocessing import opencv
from otx.files import atomic

PANEL = 448
STRENGTH = 0.5
FONT_SIZE = 16
MARGIN = 6


def draw_overlay(pixels: NDArray[np.uint8], saliency_map: NDArray[np.float32], caption: Sequence[str]) -> Image.Image:
    """The image and, beside it, the image under its heat map; below them the lines of the caption.

    Args:
        pixels: (H, W, 3); drawn with at most 448 pixels on its longer side.
        saliency_map: (h, w), from 0 (blue) to 1 (red).
    """
    image = Image.fromarray(pixels)
    scale = PANEL / max(image.size)
    image = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))
    font = ImageFont.load_default(FONT_SIZE)
    line = FONT_SIZE + MARGIN
    height = image.height + line * len(caption) + MARGIN
    sheet = Image.new("RGB", (max(2 * image.width, PANEL), height), "white")
    sheet.paste(image, (0, 0))
    sheet.paste(heat(image, saliency_map), (image.width, 0))
    pen = ImageDraw.Draw(sheet)
    for number, text in enumerate(caption):
        pen.text((MARGIN, image.height + MARGIN // 2 + line * number), text, fill="black", font=font)
    return sheet


def heat(image: Image.Image, saliency_map: NDArray[np.float32]) -> Image.Image:
    """The image under the colours of its map."""
    return Image.blend(image, colours(saliency_map, image.size), STRENGTH)


def colours(saliency_map: NDArray[np.float32], size: tuple[int, int]) -> Image.Image:
    """A map (h, w) as a picture of `size`, width and height: from 0, blue, to 1, red."""
    cv2 = opencv()
    large = cv2.resize(saliency_map, size, interpolation=cv2.INTER_CUBIC).clip(0, 1)
    coloured = cv2.applyColorMap(np.round(large * 255).astype(np.uint8), cv2.COLORMAP_JET)[:, :, ::-1]
    return Image.fromarray(np.ascontiguousarray(coloured))


def write_png(path: Path, picture: Image.Image | NDArray[Any]) -> None:
    """Write a picture, or an array (H, W) of 8 or 16 bit, as PNG."""
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    with atomic(path, "wb") as file:
        image.save(file, format="PNG")
