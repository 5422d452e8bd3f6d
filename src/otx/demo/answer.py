"""The demo's answer for one photo: that of `otx predict`, with pictures for the page."""

from __future__ import annotations

import base64
import io
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from otx.data.decode import decode_image
from otx.data.reading import Reading
from otx.errors import ImageError
from otx.inference.classify import score
from otx.inference.overlay import colours
from otx.inference.predict import as_prediction
from otx.inference.predictor import Maps, Pixels, Predictor
from otx.plain import Result

TOP = 5
PREVIEW = 720
THUMBNAIL = 160
QUALITY = 92
NO_OUTPUT = "this file was exported without them; `otx export --explain true` writes one that has them"
NO_PLACES = "at its input size this network sees a photo as a single place"


@dataclass(frozen=True)
class Candidate(Result):
    """A class that a photo may show. `heat` is its saliency map as data URL, to lay over the photo, if there is one."""

    label: str
    probability: float
    heat: str | None


@dataclass(frozen=True)
class Answer(Result):
    """The answer for one photo.

    `candidates` are the likeliest classes, best first, `num_classes` all there are. `preview` is a data URL of the
    photo as it was decoded. `no_maps` says why there are no saliency maps, if there can be none. Times are in
    milliseconds; `map_ms` is None without maps. `known`: whether it shows a class that the model knows; None if the
    model cannot tell.
    """

    candidates: tuple[Candidate, ...]
    num_classes: int
    width: int
    height: int
    preview: str
    no_maps: str
    decode_ms: float
    classify_ms: float
    map_ms: float | None
    known: bool | None = None


@dataclass(frozen=True)
class Example:
    """A test image to try: its path, its class, and its thumbnail as data URL.

    `mistaken_for`: the wrong class that a test found the model to give it; empty if none did.
    """

    path: Path
    label: str
    thumbnail: str
    mistaken_for: str = ""


class Watch:
    """A stopwatch for parts of the work, in milliseconds."""

    def __init__(self) -> None:
        self.ms: dict[str, float] = {}

    @contextmanager
    def measure(self, what: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.ms[what] = round(1000 * (time.perf_counter() - start), 1)


class Answerer:
    """Classifies photos from any thread, but one at a time: a compiled network does no more.

    Args:
        no_maps: why the network has no saliency maps, if a better reason is known than its file gives.
    """

    def __init__(self, predictor: Predictor, max_pixels: int, no_maps: str = "") -> None:
        self.card = predictor.card
        self._predictor = predictor
        self._reading = self.card.preprocessing.reading(max_pixels)
        self._no_maps = "" if self.card.explain else no_maps or NO_OUTPUT
        self._lock = threading.Lock()
        # the first answer compiles the graph, and shows that it runs
        size = self.card.preprocessing
        self._answer(np.zeros((size.height, size.width, 3), np.uint8), Watch())

    def answer(self, source: bytes | Path, *, maps: bool = True) -> Answer:
        """Classify the bytes of an image, or an image file.

        Args:
            maps: also make the saliency maps of the likeliest classes.

        Raises:
            ImageError: it cannot be decoded.
        """
        watch = Watch()
        with self._lock:
            with watch.measure("decode_ms"):
                pixels = decode_image(source, self._reading)
            return self._answer(pixels, watch, maps=maps)

    def _answer(self, pixels: Pixels, watch: Watch, *, maps: bool = True) -> Answer:
        with watch.measure("classify_ms"):
            ((logits, unknown),) = score(self._predictor, [pixels])
            prediction = as_prediction("", logits, self.card.classes)
        seen, no_maps = None, self._no_maps
        if maps and not no_maps:
            with watch.measure("map_ms"):
                seen = self._predictor.explain([pixels])[1][0]
            if not seen.any():
                seen, no_maps = None, NO_PLACES
        photo = _fit(Image.fromarray(pixels), PREVIEW)
        return Answer(
            candidates=tuple(self._candidates(prediction.probabilities, seen, photo.size)),
            num_classes=len(self.card.classes),
            width=pixels.shape[1],
            height=pixels.shape[0],
            preview=_data_url(photo),
            no_maps=no_maps,
            decode_ms=watch.ms.get("decode_ms", 0.0),
            classify_ms=watch.ms["classify_ms"],
            map_ms=watch.ms.get("map_ms"),
            known=self.card.is_known(unknown),
        )

    def _candidates(
        self, probabilities: dict[str, float], maps: Maps | None, size: tuple[int, int]
    ) -> Iterator[Candidate]:
        for label in sorted(probabilities, key=probabilities.__getitem__, reverse=True)[:TOP]:
            yield Candidate(label, probabilities[label], None if maps is None else self._heat(maps, label, size))

    def _heat(self, maps: Maps, label: str, size: tuple[int, int]) -> str:
        own = maps[[self.card.classes.index(label)]]
        # the page enlarges it; a map has few places
        half = max(1, size[0] // 2), max(1, size[1] // 2)
        buffer = io.BytesIO()
        colours(self.card.preprocessing.on_image(own, *half[::-1])[0], half).save(buffer, "WEBP", quality=QUALITY)
        return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def load_example(path: Path, label: str, reading: Reading, mistaken_for: str = "") -> Example | None:
    """Load an image file as an example; None if it cannot be decoded."""
    try:
        pixels = decode_image(path, reading)
    except ImageError:
        return None
    return Example(path, label, _data_url(_fit(Image.fromarray(pixels), THUMBNAIL)), mistaken_for)


def _fit(image: Image.Image, side: int) -> Image.Image:
    """Shrink the image in place, if its longer side is more than `side` pixels."""
    image.thumbnail((side, side))
    return image


def _data_url(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=QUALITY, subsampling=0)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
