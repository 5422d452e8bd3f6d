"""Files of more than 8 bits or three bands are read as they are stored, or refused; never shortened in silence."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from otx.data.decode import check_image, decode_image, deep_values, preview_image
from otx.data.raw import _oriented
from otx.data.reading import RawImage, Reading, to_rgb
from otx.errors import ImageError

RNG = np.random.default_rng(0)
TWELVE_BITS = Reading(intensity=(0.0, 4095.0))
COLOURS = (RNG.integers(0, 256, (32, 48, 3)) * 16).astype(np.uint16)
COLOURS_8 = np.round(COLOURS / 4095 * 255).astype(np.uint8)


def tiff(values: NDArray[Any], **options: Any) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, values, **options)
    return buffer.getvalue()


def png(values: NDArray[Any]) -> bytes:
    return bytes(cv2.imencode(".png", values[:, :, [2, 1, 0, *range(3, values.shape[2])]])[1].tobytes())


@pytest.mark.parametrize("compression", [None, "lzw", "zlib"])
def test_a_tiff_of_16_bits_a_colour_is_not_cut_to_its_high_bytes(compression: str | None) -> None:
    data = tiff(COLOURS, photometric="rgb", compression=compression)
    np.testing.assert_array_equal(decode_image(data, TWELVE_BITS), COLOURS_8)


def test_a_png_of_16_bits_a_colour_is_not_cut_to_its_high_bytes() -> None:
    np.testing.assert_array_equal(decode_image(png(COLOURS), TWELVE_BITS), COLOURS_8)
    np.testing.assert_array_equal(decode_image(png(COLOURS)), np.round(COLOURS / 257).astype(np.uint8))


def test_a_transparent_png_of_16_bits_lies_over_white() -> None:
    alpha = np.zeros((32, 48, 1), np.uint16)
    alpha[:, 24:] = 65535
    pixels = decode_image(png(np.concatenate([COLOURS, alpha], axis=2)), TWELVE_BITS)
    assert (pixels[:, :24] == 255).all()
    np.testing.assert_array_equal(pixels[:, 24:], COLOURS_8[:, 24:])


@pytest.mark.parametrize("kind", ["I;16", "I", "F"])
def test_grey_of_more_bits_is_scaled_to_the_range(kind: str) -> None:
    grey = COLOURS[:, :, 0].astype({"I;16": np.uint16, "I": np.int32, "F": np.float32}[kind])
    buffer = io.BytesIO()
    Image.fromarray(grey).save(buffer, "TIFF")
    np.testing.assert_array_equal(decode_image(buffer.getvalue(), TWELVE_BITS)[:, :, 1], COLOURS_8[:, :, 0])


def test_values_beyond_the_range_are_black_and_white() -> None:
    grey = np.array([[-1000, -150, 0, 250, 3000]], np.int16)
    pixels = decode_image(tiff(grey), Reading(intensity=(-150.0, 250.0)))
    np.testing.assert_array_equal(pixels[0, :, 0], [0, 0, 96, 255, 255])


def four_bands(fourth: NDArray[Any]) -> NDArray[np.uint8]:
    colours = RNG.integers(0, 256, (32, 48, 3)).astype(np.uint8)
    return np.concatenate([colours, fourth.reshape(32, 48, 1).astype(np.uint8)], axis=2)


@pytest.mark.parametrize("stored_as", ["unassalpha", "assocalpha", "unspecified"])
def test_a_fourth_band_that_holds_a_picture_is_refused_by_name(stored_as: str) -> None:
    data = tiff(four_bands(RNG.integers(0, 90, (32, 48))), photometric="rgb", extrasamples=[stored_as])
    with pytest.raises(ImageError, match=r"it has 4 bands.*--data\.bands 3,2,1 names them"):
        decode_image(data)


def test_a_fourth_band_of_zeros_does_not_turn_the_image_white() -> None:
    data = tiff(four_bands(np.zeros((32, 48))), photometric="rgb", extrasamples=["unassalpha"])
    with pytest.raises(ImageError, match="it has 4 bands"):
        decode_image(data)


def test_a_mask_in_a_tiff_lies_over_white() -> None:
    mask = np.zeros((32, 48))
    mask[:, 10:] = 255
    values = four_bands(mask)
    pixels = decode_image(tiff(values, photometric="rgb", extrasamples=["unassalpha"]))
    assert (pixels[:, :10] == 255).all()
    np.testing.assert_array_equal(pixels[:, 10:], values[:, 10:, :3])


def test_padding_in_a_tiff_is_ignored() -> None:
    values = four_bands(np.full((32, 48), 7))
    data = tiff(values, photometric="rgb", extrasamples=["unspecified"])
    np.testing.assert_array_equal(decode_image(data), values[:, :, :3])


@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_chosen_bands_become_red_green_and_blue(planar: str, tmp_path: Path) -> None:
    bands = RNG.integers(0, 256, (13, 32, 48)).astype(np.uint8)
    values = bands if planar == "separate" else np.ascontiguousarray(bands.transpose(1, 2, 0))
    path = tmp_path / "satellite.tif"
    path.write_bytes(tiff(values, photometric="minisblack", planarconfig=planar, compression="lzw"))
    pixels = decode_image(path, Reading(bands=(4, 3, 2)))
    np.testing.assert_array_equal(pixels, bands[[3, 2, 1]].transpose(1, 2, 0))
    assert "it has 13 bands" in (check_image(path) or "")
    with pytest.raises(ImageError, match=r"it has 13 bands, and --data\.bands asks for band 14"):
        decode_image(path, Reading(bands=(14, 3, 2)))
    assert preview_image(path, Reading(bands=(4, 3, 2))).kind == "13 bands"


def test_pages_of_one_band_are_bands_where_bands_are_chosen() -> None:
    pages = RNG.integers(0, 256, (5, 32, 48)).astype(np.uint8)
    data = tiff(pages, photometric="minisblack")
    np.testing.assert_array_equal(decode_image(data)[:, :, 0], pages[0])
    np.testing.assert_array_equal(decode_image(data, Reading(bands=(5, 1, 2)))[:, :, 0], pages[4])


def test_bands_of_an_ordinary_image_are_its_colours() -> None:
    buffer = io.BytesIO()
    Image.fromarray(COLOURS_8).save(buffer, "PNG")
    np.testing.assert_array_equal(decode_image(buffer.getvalue(), Reading(bands=(3, 2, 1))), COLOURS_8[:, :, ::-1])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_stored_pixels_are_turned_as_pillow_turns_them(orientation: int) -> None:
    from PIL import ImageOps

    image = Image.fromarray(COLOURS_8)
    exif = image.getexif()
    exif[0x112] = orientation
    np.testing.assert_array_equal(_oriented(COLOURS_8, orientation), np.asarray(ImageOps.exif_transpose(image)))


def test_only_values_of_more_bits_are_measured(tmp_path: Path) -> None:
    Image.fromarray(COLOURS_8).save(tmp_path / "plain.jpg")
    assert deep_values(tmp_path / "plain.jpg", Reading()) is None
    (tmp_path / "deep.png").write_bytes(png(COLOURS))
    np.testing.assert_array_equal(deep_values(tmp_path / "deep.png", Reading()), COLOURS)


@given(st.sampled_from([np.uint16, np.int16, np.int32, np.float32]), st.floats(-5e3, 5e3), st.floats(1, 5e4))
def test_brighter_values_are_never_darker(kind: type, low: float, width: float) -> None:
    values = np.sort(RNG.uniform(-3e4, 6e4, (4, 9))).astype(kind)
    pixels = to_rgb(RawImage(np.sort(values)[:, :, None]), Reading(intensity=(low, low + width)))
    assert (np.diff(pixels[:, :, 0].astype(int), axis=1) >= 0).all()
    assert pixels.shape == (4, 9, 3)


def test_a_truncated_tiff_or_png_is_an_error_in_words() -> None:
    for data in (tiff(COLOURS, photometric="rgb")[:900], png(COLOURS)[:900]):
        with pytest.raises(ImageError):
            decode_image(data)
