"""Photos as JPEGs for the page, made when they are asked for; the newest are kept in memory."""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageOps

from otx.data.decode import decode_image
from otx.data.reading import Reading
from otx.errors import ImageError

SIDES = {"thumb": 320, "photo": 1600}
QUALITY = 85
MOST_BYTES = 64_000_000
PLAIN = ("RGB", "L")


class Pictures:
    """Makes pictures of photos by number, in any thread."""

    def __init__(self, root: Path, paths: Sequence[str], reading: Reading) -> None:
        self._root, self._paths, self.reading = root, paths, reading
        self._kept: OrderedDict[tuple[int, str], bytes] = OrderedDict()
        self._bytes, self._lock = 0, threading.Lock()

    def get(self, number: int, kind: str) -> bytes:
        """A JPEG of a photo.

        Args:
            kind: "thumb" or "photo".

        Raises:
            ImageError: it cannot be decoded.
        """
        with self._lock:
            if (known := self._kept.get((number, kind))) is not None:
                self._kept.move_to_end((number, kind))
                return known
        data = picture(self._root / self._paths[number], SIDES[kind], self.reading)
        with self._lock:
            if (number, kind) not in self._kept:
                self._kept[number, kind] = data
                self._bytes += len(data)
            while self._bytes > MOST_BYTES:
                self._bytes -= len(self._kept.popitem(last=False)[1])
        return data


def picture(path: Path, side: int, reading: Reading) -> bytes:
    """A JPEG of an image file, at most `side` pixels wide and high.

    Raises:
        ImageError: it cannot be decoded.
    """
    image = _small_jpeg(path, side, reading) or Image.fromarray(decode_image(path, reading))
    image.thumbnail((side, side))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()


def _small_jpeg(path: Path, side: int, reading: Reading) -> Image.Image | None:
    """A plain JPEG decoded in a smaller size, which takes a fraction of the time; None for all other files."""
    try:
        with Image.open(path) as image:
            if image.format != "JPEG" or image.mode not in PLAIN or reading.bands is not None:
                return None
            if image.width * image.height > reading.max_pixels:
                return None
            image.draft("RGB", (side, side))
            image.load()
            return ImageOps.exif_transpose(image).convert("RGB")
    except FileNotFoundError as error:
        raise ImageError("no such file") from error
    except Exception:  # a damaged file can make a decoder raise anything; `decode_image` says what is wrong
        return None
