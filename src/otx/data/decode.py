"""Decode images of any common format into RGB."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import stat
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from otx.data.preprocessing import opencv
from otx.data.raw import START, is_raw, read_raw
from otx.data.reading import AS_STORED, RawImage, Reading, chosen_bands, in_words, to_rgb
from otx.data.silence import Silence
from otx.errors import ImageError
from otx.machine import available_cores

if TYPE_CHECKING:
    from PIL.Image import Image as PilImage

# four channels of 16 bits, and the metadata
MAX_BYTES_A_PIXEL, MAX_BYTES_BESIDE = 8, 100_000_000
WHITE = (255, 255, 255)
GLANCE = 64
# bytes
DIGEST_SIZE = 16
# Pillow's modes of images with more than 8 bits a pixel, and those that hold bands as they are
NUMBERS = ("I", "F")
MODES_OF_BANDS = ("L", "LA", "RGB", "RGBA", "RGBX", "CMYK")
MORE_BITS = "more than 8 bits"
EMPTY = "the file is empty"
START_OF_JPEG, END_OF_JPEG, SEGMENT = b"\xff\xd8", b"\xff\xd9", 0xFF
FRAMES, TABLES = (0xC0, 0xC1, 0xC2), (0xC4, 0xDB, 0xDD, 0xFE)
APPLICATIONS, EXIF, ADOBE = range(0xE0, 0xF0), 0xE1, 0xEE
Item = TypeVar("Item")
Answer = TypeVar("Answer")
_silence = Silence()

# Pillow warns at one size and fails at another; we check a limit of our own before decoding
Image.MAX_IMAGE_PIXELS = None


def decode_image(source: str | Path | bytes, reading: Reading = AS_STORED) -> NDArray[np.uint8]:
    """Decode an image file, or its bytes, into RGB (H, W, 3) uint8, rotated by its EXIF orientation.

    The format is read from the content, not the name. Only the first of several frames is decoded. Transparent pixels
    are laid over white. Values of more than 8 bits become 8 bits as `reading` says.

    Raises:
        ImageError: it cannot be decoded, or has more than `reading.max_pixels` pixels.
    """
    with _errors_in_words():
        data = source if isinstance(source, bytes) else _read(Path(source), reading.max_pixels)
        if not data:
            raise ImageError(EMPTY)
        pixels = _plain_jpeg(data, reading.max_pixels) if reading.bands is None else None
        if pixels is not None:
            return pixels
        raw = _raw(data, reading)
        if raw is not None:
            return to_rgb(raw, reading)
        with _open(io.BytesIO(data), data) as image:
            _check_size(*image.size, reading.max_pixels)
            image.load()
            ImageOps.exif_transpose(image, in_place=True)
            return _to_rgb(image, reading)


def deep_values(path: Path, reading: Reading) -> NDArray[Any] | None:
    """The numbers (H, W, 1 or 3) of an image of more than 8 bits that does not say itself which are black and white.

    None for every other image, of which only the header is read.

    Raises:
        ImageError: it cannot be decoded, or has more than `reading.max_pixels` pixels.
    """
    with _errors_in_words():
        _check_file(path, reading.max_pixels)
        with path.open("rb") as file:
            start = file.read(START)
            file.seek(0)
            raw = _raw(file.read(), reading) if is_raw(start) else None
            if raw is None:
                file.seek(0)
                with _open(file, start) as image:
                    if not image.mode.startswith(NUMBERS):
                        return None
                    _check_size(*image.size, reading.max_pixels)
                    raw = RawImage(np.asarray(image)[:, :, None])
        has_own = raw.window is not None and reading.own_windows
        return None if raw.is_8_bit or has_own else chosen_bands(raw.values, reading.bands)


def _raw(data: bytes, reading: Reading) -> RawImage | None:
    check = functools.partial(_check_size, max_pixels=reading.max_pixels)
    return read_raw(data, check, all_bands=reading.bands is not None)


@dataclass(frozen=True)
class ImagePreview:
    """A small copy of an image, its size, what kind it is, whether it has an alpha channel, a digest of its file.

    `pixels` (h, w, 3) uint8 are rotated by the EXIF orientation, and smaller than the image if that saves time. `kind`
    is one of Pillow's modes, "more than 8 bits", or the number of bands.
    """

    width: int
    height: int
    kind: str
    transparent: bool
    digest: bytes
    pixels: NDArray[np.uint8]


def preview_image(path: Path, reading: Reading = AS_STORED) -> ImagePreview:
    """Decode an image file just large enough to compare it. All of it is read, so a truncated file is found.

    Raises:
        ImageError: it cannot be decoded, or has more than `reading.max_pixels` pixels.
    """
    with _errors_in_words():
        data = _read(path, reading.max_pixels)
        if not data:
            raise ImageError(EMPTY)
        digest = digest_of(data)
        raw = _raw(data, reading)
        if raw is not None:
            pixels = to_rgb(raw, reading)
            height, width, bands = raw.values.shape
            kind = in_words(bands) if bands not in (1, 3) else "RGB" if raw.is_8_bit else MORE_BITS
            return ImagePreview(width, height, kind, raw.alpha is not None, digest, pixels)
        with _open(io.BytesIO(data), data) as image:
            _check_size(*image.size, reading.max_pixels)
            (width, height), kind = image.size, image.mode
            if image.format == "JPEG" and kind in ("RGB", "L") and reading.bands is None:
                # down to an eighth of the size: this still reads every byte, but saves most of the arithmetic
                image.draft(kind, (GLANCE, GLANCE))
            image.load()
            ImageOps.exif_transpose(image, in_place=True)
            kind = MORE_BITS if kind.startswith(NUMBERS) else kind
            return ImagePreview(width, height, kind, _is_transparent(image), digest, _to_rgb(image, reading))


def _open(file: IO[bytes], start: bytes) -> PilImage:
    """Open an image that begins with `start`; it is not decoded yet."""
    if start[4:8] == b"ftyp" and start[8:12] not in (b"avif", b"avis"):
        _register_heif()
    return Image.open(file)


@functools.cache
def _register_heif() -> None:
    """Let Pillow read HEIC, the photos of iPhones."""
    try:
        import pillow_heif
    except ImportError as error:
        raise ImageError("it is a HEIC photo, which needs `pip install pillow-heif`") from error
    pillow_heif.register_heif_opener()


@contextlib.contextmanager
def _errors_in_words() -> Iterator[None]:
    """Turn any error of a decoder into an ImageError, and silence its warnings."""
    try:
        with _silence:
            yield
    except ImageError:
        raise
    except FileNotFoundError as error:
        raise ImageError("no such file") from error
    except MemoryError as error:
        raise ImageError("not enough memory to decode it") from error
    except Exception as error:  # a damaged file can make a decoder raise anything
        raise ImageError(_reason(error)) from error


def digest_of(data: bytes) -> bytes:
    """What tells the content of a file from that of any other."""
    return hashlib.blake2b(data, digest_size=DIGEST_SIZE).digest()


def _read(path: Path, max_pixels: int) -> bytes:
    _check_file(path, max_pixels)
    return path.read_bytes()


def _check_file(path: Path, max_pixels: int) -> None:
    """Refuse a file too large for `max_pixels` pixels, and pipes and devices, which may never end."""
    state = path.stat()
    if not stat.S_ISREG(state.st_mode):
        raise ImageError("not a file")
    if state.st_size > max_pixels * MAX_BYTES_A_PIXEL + MAX_BYTES_BESIDE:
        raise ImageError(
            f"a file of {state.st_size} bytes holds more than {max_pixels} pixels (--data.max_image_pixels raises that)"
        )


def _plain_jpeg(data: bytes, max_pixels: int) -> NDArray[np.uint8] | None:
    """Decode a complete colour JPEG that needs no rotation with OpenCV: the same values as Pillow's in less time.

    None for all other files, and if OpenCV fails: Pillow reads more formats, and says what is wrong. OpenCV fills the
    missing part of a truncated file with grey, so the end marker must be there.
    """
    size = _size_of_plain_jpeg(data)
    if size is None:
        return None
    _check_size(*size, max_pixels)
    cv2 = opencv()
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    pixels: NDArray[np.uint8] | None = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    return pixels


def _size_of_plain_jpeg(data: bytes) -> tuple[int, int] | None:
    """Width and height of a JPEG with the three channels of JFIF, from its first segments (ITU T.81, annex B).

    None if a segment may hold other colours (Adobe) or an orientation (EXIF).
    """
    if not data.startswith(START_OF_JPEG) or not data.endswith(END_OF_JPEG):
        return None
    place = len(START_OF_JPEG)
    while place + 10 <= len(data) and data[place] == SEGMENT:
        kind, length = data[place + 1], int.from_bytes(data[place + 2 : place + 4], "big")
        if kind in FRAMES:
            height, width = (int.from_bytes(data[place + at : place + at + 2], "big") for at in (5, 7))
            return (width, height) if data[place + 9] == 3 else None
        if not (kind in TABLES or (kind in APPLICATIONS and kind not in (EXIF, ADOBE))):
            return None
        place += 2 + length
    return None


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise ImageError(
            f"{width}x{height} pixels are more than the limit of {max_pixels} (--data.max_image_pixels raises it)"
        )


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    if "cannot identify image file" in text:
        return "not an image that can be read"
    return f"{type(error).__name__}: {text[:200]}" if text else type(error).__name__


def _to_rgb(image: PilImage, reading: Reading) -> NDArray[np.uint8]:
    if image.mode.startswith(NUMBERS):
        return to_rgb(RawImage(np.asarray(image)[:, :, None]), reading)
    if reading.bands is not None:
        stored = np.asarray(image if image.mode in MODES_OF_BANDS else image.convert("RGB"))
        return to_rgb(RawImage(stored.reshape(*stored.shape[:2], -1)), reading)
    if image.mode == "RGB":
        return np.asarray(image)
    if _is_transparent(image):
        image = image.convert("RGBA")
        ground = Image.new("RGBA", image.size, (*WHITE, 255))
        return np.asarray(Image.alpha_composite(ground, image).convert("RGB"))
    return np.asarray(image.convert("RGB"))


def _is_transparent(image: PilImage) -> bool:
    return image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info


def check_image(path: str | Path, reading: Reading = AS_STORED) -> str | None:
    """Why an image cannot be decoded, or None if it can. All of the file is read, so a truncated file is found."""
    try:
        with _errors_in_words():
            data = _read(Path(path), reading.max_pixels)
            if data.startswith(START_OF_JPEG) and reading.bands is None and _is_whole_jpeg(data, reading.max_pixels):
                return None
        decode_image(data, reading)
    except ImageError as error:
        return EMPTY if _is_empty(path) else error.what
    return None


def _is_whole_jpeg(data: bytes, max_pixels: int) -> bool:
    """Whether a JPEG can be decoded; False if it is of an unusual kind, which `decode_image` has to look at."""
    with Image.open(io.BytesIO(data)) as image:
        if image.format != "JPEG" or image.mode not in ("RGB", "L"):
            return False
        _check_size(*image.size, max_pixels)
        # an eighth of the size: this still reads every byte, but saves most of the arithmetic
        image.draft(image.mode, (1, 1))
        image.load()
        return True


def _is_empty(path: str | Path) -> bool:
    try:
        return Path(path).stat().st_size == 0
    except OSError:
        return False


def ordered(work: Callable[[Item], Answer], items: Iterable[Item]) -> Iterator[Answer]:
    """Map with a pool of threads: answers come in order, and only a few items are taken in advance.

    Until the last answer nobody warns, nor does the caller, whose filters of warnings are those of the pool, too.
    """
    threads = min(16, available_cores() + 1)
    source = iter(items)
    with _silence, ThreadPoolExecutor(threads) as pool:
        waiting = deque(pool.submit(work, item) for item in islice(source, threads * 4))
        try:
            while waiting:
                answer = waiting.popleft().result()
                waiting.extend(pool.submit(work, item) for item in islice(source, 1))
                yield answer
        finally:
            for future in waiting:
                future.cancel()
