"""The pictures of a report: small, few, and embedded in the page."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from otx.data.decode import decode_image, ordered
from otx.data.reading import Reading
from otx.errors import ImageError, ModelError, UsageError
from otx.inference.overlay import heat
from otx.inference.predictor import Predictor, load_predictor
from otx.model.modelfile import EXPORTED
from otx.report.record import Measurement
from otx.results import ImageResult

THUMB_SIDE = 80
THUMBS_SHOWN = 240
THUMB_BYTES = 900_000
SHOWN_SIDE = 240
QUALITY = 70


@dataclass(frozen=True)
class Exhibit:
    """An image of the gallery. `photo` and `overlay` (saliency map of the predicted class) are data URLs, if any."""

    image: ImageResult
    photo: str | None
    overlay: str | None


def encode(picture: Image.Image, side: int) -> str:
    """A picture as WebP in base64, at most `side` pixels wide and high; small ones are enlarged without smoothing."""
    scale = side / max(picture.size)
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    kept = Image.Resampling.NEAREST if scale >= 2 else Image.Resampling.BICUBIC
    file = io.BytesIO()
    picture.resize(size, kept).save(file, "WEBP", quality=QUALITY)
    return base64.b64encode(file.getvalue()).decode("ascii")


def address(encoded: str) -> str:
    return f"data:image/webp;base64,{encoded}"


def thumbnails(images: Sequence[ImageResult], root: Path, reading: Reading) -> dict[int, str]:
    """Thumbnails of some images by index: of every kind of mistake in turn, then of the right answers.

    At most `THUMBS_SHOWN`, and not much more than `THUMB_BYTES` in all; images that cannot be decoded have none.
    """
    taken: dict[int, str] = {}
    size = 0

    def load(place: int) -> tuple[int, str | None]:
        pixels = _pixels(root / images[place].path, reading)
        return place, None if pixels is None else encode(Image.fromarray(pixels), THUMB_SIDE)

    for place, encoded in ordered(load, _in_turn(images)[:THUMBS_SHOWN]):
        if encoded is not None and size < THUMB_BYTES:
            taken[place] = encoded
            size += len(encoded)
    return taken


def thumbnail(path: Path, reading: Reading) -> str | None:
    """A thumbnail of an image as data URL; None if it cannot be decoded."""
    pixels = _pixels(path, reading)
    return None if pixels is None else address(encode(Image.fromarray(pixels), THUMB_SIDE))


def _in_turn(images: Sequence[ImageResult]) -> list[int]:
    """Indices of images: the most confident of each kind of mistake, the second of each, ...; then right answers."""
    cells: dict[tuple[bool, str, str], list[int]] = {}
    for place in sorted(range(len(images)), key=lambda place: -images[place].probability):
        image = images[place]
        cells.setdefault((image.is_right, image.label, image.predicted), []).append(place)
    groups = ([places for key, places in cells.items() if key[0] is right] for right in (False, True))
    return [place for group in groups for turn in zip_longest(*group) for place in turn if place is not None]


def _pixels(path: Path, reading: Reading) -> NDArray[np.uint8] | None:
    try:
        return decode_image(path, reading)
    except ImageError:
        return None


def exhibits(
    images: Iterable[ImageResult], root: Path, reading: Reading, predictor: Predictor | None
) -> Iterator[Exhibit]:
    """The images of a gallery, with saliency maps of the predicted class if a predictor is given."""
    for image in images:
        pixels = _pixels(root / image.path, reading)
        if pixels is None:
            yield Exhibit(image, None, None)
            continue
        photo = Image.fromarray(pixels)
        yield Exhibit(image, address(encode(photo, SHOWN_SIDE)), _overlay(photo, pixels, image, predictor))


def _overlay(
    photo: Image.Image, pixels: NDArray[np.uint8], image: ImageResult, predictor: Predictor | None
) -> str | None:
    if predictor is None:
        return None
    _, maps = predictor.explain([pixels])
    card = predictor.card
    (own,) = card.preprocessing.on_image(maps[0][[card.classes.index(image.predicted)]], *pixels.shape[:2])
    scale = SHOWN_SIDE / max(photo.size)
    size = max(1, round(photo.width * scale)), max(1, round(photo.height * scale))
    shown = photo.resize(size, Image.Resampling.NEAREST if scale >= 2 else Image.Resampling.BICUBIC)
    return address(encode(heat(shown, own), SHOWN_SIDE))


def explainer(measured: Measurement, model: Path, *, quick: bool) -> tuple[Predictor | None, str]:
    """A network with saliency maps (the one measured, else the run's model file), and a sentence about it.

    Args:
        model: the model file of the run, which need not exist.
        quick: after a test of an exported file, do not use the model file, since that needs PyTorch.
    """
    own = measured.model_file
    if quick and own is not None and own.suffix in EXPORTED:
        model = own
    files = [path for path in (own, model) if path is not None and path.is_file()]
    for path in files:
        try:
            predictor = load_predictor(path, "cpu")
            _, maps = predictor.explain([np.zeros((8, 8, 3), np.uint8)])
        except (ModelError, UsageError):
            continue
        if maps.shape[-2:] == (1, 1):
            return None, f"No saliency maps: {path.name} sees an image of its input size as one place."
        return predictor, f"Right of each photo, in colour, where {path.name} saw the class it named."
    if quick and own is not None and model == own:
        return None, f"No saliency maps: {own.name} gives none. `otx report` draws those of the model file."
    return None, "No saliency maps: the model file is gone, or gives none (`otx export --explain true`)."
