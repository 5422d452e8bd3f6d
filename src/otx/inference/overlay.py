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
STRENGTH = 0.75
FONT_SIZE = 16
MARGIN = 6
LEGEND = 120
GREY = "#808080"


def draw_overlay(pixels: NDArray[np.uint8], saliency_map: NDArray[np.float32], caption: Sequence[str]) -> Image.Image:
    """The image and, beside it, the image in grey under its map; below them the caption and a legend of the colours.

    Args:
        pixels: (H, W, 3); drawn with at most 448 pixels on its longer side.
        saliency_map: (h, w), from 0 to 1, as in `colours`.
    """
    image = Image.fromarray(pixels)
    scale = PANEL / max(image.size)
    image = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))
    font = ImageFont.load_default(FONT_SIZE)
    line, width = FONT_SIZE + MARGIN, max(2 * image.width, PANEL)
    if not caption or font.getlength(caption[-1]) > width - 2 * LEGEND:
        caption = [*caption, ""]
    height = image.height + line * len(caption) + MARGIN
    sheet = Image.new("RGB", (width, height), "white")
    sheet.paste(image, (0, 0))
    sheet.paste(heat(image, saliency_map), (image.width, 0))
    pen = ImageDraw.Draw(sheet)
    for number, text in enumerate(caption):
        pen.text((MARGIN, image.height + MARGIN // 2 + line * number), text, fill="black", font=font)
    _draw_legend(sheet, pen, height - MARGIN // 2 - line)
    return sheet


def _draw_legend(sheet: Image.Image, pen: ImageDraw.ImageDraw, top: int) -> None:
    """The colours from a little to much, at the right end of a line."""
    font = ImageFont.load_default(FONT_SIZE)
    right = sheet.width - MARGIN - round(pen.textlength("much", font))
    left = right - MARGIN - LEGEND
    bar = heat(Image.new("RGB", (LEGEND, FONT_SIZE // 2), GREY), np.linspace(0, 1, LEGEND, dtype=np.float32)[None])
    sheet.paste(bar, (left, top + FONT_SIZE // 2 - 1))
    pen.text((right, top), "much", fill="black", font=font)
    pen.text((left - MARGIN - round(pen.textlength("little", font)), top), "little", fill="black", font=font)


def heat(image: Image.Image, saliency_map: NDArray[np.float32]) -> Image.Image:
    """The image in grey, under the colours of its map."""
    photo = image.convert("L").convert("RGBA")
    return Image.alpha_composite(photo, colours(saliency_map, image.size)).convert("RGB")


def colours(saliency_map: NDArray[np.float32], size: tuple[int, int]) -> Image.Image:
    """A map (h, w) as a picture of `size` (width, height) to lay over its photo: RGBA.

    From 0, where the photo is left as it is, to 1 in the colours of "inferno" (dark purple, orange, pale yellow), which
    grow lighter all the way, also in print and for the colour-blind. At most STRENGTH of the photo is covered.
    """
    cv2 = opencv()
    large = cv2.resize(saliency_map, size, interpolation=cv2.INTER_CUBIC).clip(0, 1)
    coloured = cv2.applyColorMap(np.round(large * 255).astype(np.uint8), cv2.COLORMAP_INFERNO)[:, :, ::-1]
    opacity = np.round(large * STRENGTH * 255).astype(np.uint8)
    return Image.fromarray(np.dstack([coloured, opacity]))


def write_png(path: Path, picture: Image.Image | NDArray[Any]) -> None:
    """Write a picture, or an array (H, W) of 8 or 16 bit, as PNG."""
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    with atomic(path, "wb") as file:
        image.save(file, format="PNG")
