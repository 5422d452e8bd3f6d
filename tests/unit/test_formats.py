"""Photo formats as phones, cameras and scanners write them: found in a folder, and decoded to the pixels they hold."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pillow_heif
import pytest
from PIL import Image

from otx.data.decode import decode_image, preview_image
from otx.data.layout import scan
from otx.errors import ImageError

RAMP = np.stack(np.meshgrid(np.linspace(0, 255, 48), np.linspace(0, 255, 32), [128.0], indexing="xy"), -1)[:, :, 0]
PIXELS = np.ascontiguousarray(RAMP.round().astype(np.uint8))
# suffix, Pillow's format, options, the largest difference of a pixel
FORMATS: dict[str, tuple[str, dict[str, Any], int]] = {
    ".jfif": ("JPEG", {"quality": 95}, 12),
    ".mpo": ("MPO", {"quality": 95}, 12),
    ".jp2": ("JPEG2000", {"irreversible": False}, 0),
    ".avif": ("AVIF", {"quality": 100}, 12),
    ".ppm": ("PPM", {}, 0),
    ".tga": ("TGA", {}, 0),
    ".dib": ("DIB", {}, 0),
    ".webp": ("WEBP", {"lossless": True}, 0),
    ".tiff": ("TIFF", {"compression": "tiff_lzw"}, 0),
}


def write(path: Path, kind: str, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(PIXELS).save(path, kind, **options)
    return path


def write_heic(path: Path, **options: Any) -> Path:
    """A file as an iPhone writes it: HEVC, 4:2:0."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pillow_heif.from_pillow(Image.fromarray(PIXELS)).save(path, quality=95, **options)
    return path


def difference(path: Path) -> int:
    return int(np.abs(decode_image(path).astype(int) - PIXELS).max())


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_format_is_found_and_decoded_to_its_pixels(suffix: str, tmp_path: Path) -> None:
    kind, options, allowed = FORMATS[suffix]
    path = write(tmp_path / "a" / f"photo{suffix.upper()}", kind, **options)
    write(tmp_path / "b" / "photo.png", "PNG")
    assert scan(tmp_path).splits["all"]["a"] == [f"a/photo{suffix.upper()}"]
    assert difference(path) <= allowed


@pytest.mark.parametrize("name", ["IMG_0001.HEIC", "photo.heif", "photo.hif", "photo.jpg", "photo"])
def test_the_photo_of_an_iphone_is_read_whatever_it_is_called(name: str, tmp_path: Path) -> None:
    path = (
        write_heic(tmp_path / "a" / name, format="HEIF") if name == "photo" else write_heic(tmp_path / "a" / "x.heic")
    )
    path = path.rename(path.with_name(name))
    write(tmp_path / "b" / "photo.png", "PNG")
    folder = scan(tmp_path)
    assert (folder.splits["all"]["a"], folder.left_out.notes()) == ([f"a/{name}"], [])
    assert difference(path) <= 12
    assert (preview_image(path).width, preview_image(path).height) == (48, 32)


def test_a_heic_is_checked_in_a_process_that_has_read_none(tmp_path: Path) -> None:
    program = f"from otx.data.decode import check_image; print(check_image({str(write_heic(tmp_path / 'x.heic'))!r}))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "None\n"


def test_an_iphone_photo_taken_upright_is_rotated(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = write_heic(tmp_path / "x.heic", exif=exif.tobytes())
    assert decode_image(path).shape == (48, 32, 3)


def test_a_damaged_heic_says_so(tmp_path: Path) -> None:
    path = tmp_path / "x.heic"
    path.write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(2000))
    with pytest.raises(ImageError):
        decode_image(path)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "AVIF", "JPEG2000"])
@pytest.mark.parametrize("name", ["photo", "photo.bin", "photo.1"])
def test_an_image_without_the_suffix_of_one_is_found_by_its_content(kind: str, name: str, tmp_path: Path) -> None:
    write(tmp_path / "a" / name, kind)
    write(tmp_path / "b" / "photo.png", "PNG")
    assert scan(tmp_path).splits["all"]["a"] == [f"a/{name}"]


def test_raw_photos_are_named_with_what_to_do(tmp_path: Path) -> None:
    for name in ("a/1.NEF", "a/2.dng", "a/3.dng"):
        write(tmp_path / name, "TIFF")
    write(tmp_path / "a" / "4.png", "PNG")
    write(tmp_path / "b" / "5.png", "PNG")
    folder = scan(tmp_path)
    assert folder.splits["all"]["a"] == ["a/4.png"]
    note = "Left out: 3 files in a camera's raw format (2 .dng, 1 .nef): convert them to JPEG or TIFF."
    assert folder.left_out.notes() == [note]
