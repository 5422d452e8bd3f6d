"""Files that Pillow shortens to 8 bits or to three bands: TIFF of several bands, PNG of 16 bits a colour, DICOM."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otx.data.preprocessing import opencv
from otx.data.reading import Range, RawImage
from otx.errors import ImageError

TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
PNG, DEPTH, COLOURS, SIZE = b"\x89PNG\r\n\x1a\n", 24, 25, 16
DICOM, DICOM_AT = b"DICM", 128
START = DICOM_AT + len(DICOM)
ORIENTATION = 0x112
# what is opaque or transparent, and little in between, is a mask and not a band
MASK_SHARE = 0.9
CheckSize = Callable[[int, int], None]


def is_dicom(data: bytes) -> bool:
    return data[DICOM_AT:START] == DICOM


def is_raw(start: bytes) -> bool:
    """Whether a file that begins like this may be one of those that Pillow would shorten; START bytes suffice."""
    is_deep_png = start.startswith(PNG) and len(start) > COLOURS and start[DEPTH] == 16 and start[COLOURS] in (2, 4, 6)
    return is_dicom(start) or start.startswith(TIFF) or is_deep_png


def read_raw(data: bytes, check_size: CheckSize, *, all_bands: bool) -> RawImage | None:
    """The stored pixels of a file that Pillow would shorten; None for every other file.

    Args:
        check_size: gets width and height before anything is decoded, and raises ImageError if that is too much.
        all_bands: several single-band pages of a TIFF are the bands of one image.

    Raises:
        ImageError: it cannot be read.
    """
    if is_dicom(data):
        return _dicom(data, check_size)
    if data.startswith(TIFF):
        return _tiff(data, check_size, all_bands=all_bands)
    return _png(data, check_size) if is_raw(data[:START]) else None


def _png(data: bytes, check_size: CheckSize) -> RawImage:
    width, height = (int.from_bytes(data[at : at + 4], "big") for at in (SIZE, SIZE + 4))
    check_size(width, height)
    cv2 = opencv()
    found = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if found is None:
        raise ImageError("a damaged PNG of 16 bits a colour")
    values = _oriented(found, _orientation(data))
    colours = values[:, :, 2::-1] if values.shape[2] >= 3 else values[:, :, :1]
    alpha = None if values.shape[2] == 3 else (values[:, :, -1] / 65535).astype(np.float32)
    return RawImage(colours, alpha)


def _orientation(data: bytes) -> int:
    from PIL import Image

    with Image.open(io.BytesIO(data)) as image:
        return int(image.getexif().get(ORIENTATION, 1))


def _oriented(values: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Turn an image upright. Source: TIFF 6.0, tag 274."""
    if orientation in (5, 6, 7, 8):
        values = values.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        values = values[:, ::-1]
    if orientation in (3, 4, 7, 8):
        values = values[::-1]
    return values


def _tiff(data: bytes, check_size: CheckSize, *, all_bands: bool) -> RawImage | None:
    import tifffile

    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = file.pages.first
        bands, bits = page.samplesperpixel, page.bitspersample
        pages = list(file.pages) if all_bands and bands == 1 else [page]
        is_plain = (bands == 1 and bits <= 32) or (bands == 3 and bits == 8)
        if (is_plain and len(pages) == 1) or page.photometric == tifffile.PHOTOMETRIC.SEPARATED:
            return None
        check_size(page.imagewidth, page.imagelength)
        values = np.concatenate([_bands_last(each) for each in pages], axis=2)
        extra = page.extrasamples
        orientation = page.tags.get(ORIENTATION)
    values = _oriented(values, 1 if orientation is None else int(orientation.value))
    # 1 and 2: associated and unassociated alpha
    if len(extra) == 1 and bands in (2, 4):
        return _without_mask(values, is_alpha=int(extra[0]) in (1, 2))
    return RawImage(values)


def _bands_last(page: Any) -> NDArray[Any]:
    """The pixels of a TIFF page as (H, W, bands)."""
    values: NDArray[Any] = page.asarray()
    if "S" not in page.axes:
        return values.reshape(*values.shape[-2:], 1)
    return np.moveaxis(values, page.axes.index("S"), -1)


def _without_mask(values: NDArray[Any], *, is_alpha: bool) -> RawImage:
    """Take the last band for opacity where it can be nothing else; where it holds a picture, it is a band."""
    last = values[:, :, -1]
    top = np.iinfo(last.dtype).max if np.issubdtype(last.dtype, np.integer) else 1.0
    is_mask = (last == top).any() and ((last == 0) | (last == top)).mean() >= MASK_SHARE
    if is_alpha and is_mask:
        return RawImage(values[:, :, :-1], (last / top).astype(np.float32))
    if not is_alpha and last.min() == last.max():
        return RawImage(values[:, :, :-1])
    return RawImage(values)


def _dicom(data: bytes, check_size: CheckSize) -> RawImage:
    try:
        import pydicom
        from pydicom.pixels.processing import apply_modality_lut, apply_voi
        from pydicom.pixels.utils import pixel_array
    except ImportError as error:
        raise ImageError("it is a DICOM file, which needs `pip install 'otx[medical]'`") from error

    head = pydicom.dcmread(io.BytesIO(data))
    if "PixelData" not in head:
        raise ImageError("a DICOM file without an image")
    check_size(int(head.Columns), int(head.Rows))
    several = int(head.get("NumberOfFrames") or 1) > 1
    values = pixel_array(head, index=0 if several else None)
    if values.ndim == 3:
        return RawImage(values)
    grey = apply_modality_lut(values, head)
    if "VOILUTSequence" in head:
        grey = apply_voi(grey, head)
    return RawImage(
        grey[:, :, None], window=_window(head), inverted=head.get("PhotometricInterpretation") == "MONOCHROME1"
    )


def _window(head: Any) -> Range | None:
    """The first window of a DICOM file as its black and white values. Source: DICOM PS3.3, C.11.2.1.2."""
    if "VOILUTSequence" in head or "WindowCenter" not in head or "WindowWidth" not in head:
        return None
    center, width = (_first(head[name].value) for name in ("WindowCenter", "WindowWidth"))
    if center is None or not width or width < 1:
        return None
    if str(head.get("VOILUTFunction", "LINEAR")) == "LINEAR_EXACT" or width == 1:
        return center - width / 2, center + width / 2
    return center - 0.5 - (width - 1) / 2, center - 0.5 + (width - 1) / 2


def _first(value: Any) -> float | None:
    found = value[0] if isinstance(value, (list, tuple)) or hasattr(value, "__getitem__") else value
    return None if found is None else float(found)
