"""The pixel values of every kind of image that a folder may hold."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from images import write_image, write_noise
from otx.data.check import scan_images
from otx.data.decode import check_image, decode_image, ordered
from otx.data.reading import Reading
from otx.errors import ImageError

RGB = np.array([[[10, 200, 30], [250, 0, 90]], [[0, 0, 0], [255, 255, 255]]], np.uint8)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def with_a_warning() -> bytes:
    """A photo at whose EXIF data Pillow warns while it decodes them: they end too early."""
    exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0"
    return encoded(Image.fromarray(RGB), "JPEG", exif=exif)


def test_decoding_in_threads_leaves_the_filters_of_warnings_as_they_were(tmp_path: Path) -> None:
    for number in range(200):
        (tmp_path / f"{number}.jpg").write_bytes(with_a_warning())
    before = list(warnings.filters)
    for _ in range(5):
        # within the pool, beside a caller that has filters of its own
        found = ordered(lambda path: decode_image(path), tmp_path.iterdir())
        for pixels in found:
            with warnings.catch_warnings():
                assert pixels.shape == RGB.shape
        assert len(scan_images(tmp_path, [path.name for path in tmp_path.iterdir()]).looks) == 200
    assert warnings.filters == before


def test_a_single_thread_is_silent_within_and_hears_warnings_again_behind() -> None:
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        with Image.open(io.BytesIO(with_a_warning())) as image:
            ImageOps.exif_transpose(image)
        assert len(heard) > 0, "the photo must give a warning"
        heard.clear()
        decode_image(with_a_warning())
        assert heard == []
        warnings.warn("after", stacklevel=1)
        assert [str(item.message) for item in heard] == ["after"]


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "WEBP"])
def test_colours_of_lossless_kinds_are_exact(kind: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    pixels = decode_image(encoded(Image.fromarray(RGB), kind, **options))
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, RGB)


@pytest.mark.parametrize("suffix", ["jpg", "JPEG", "png", "BMP", "webp", "tif", "TIFF", "gif", "PnG"])
def test_every_suffix_in_any_case_is_read(suffix: str, tmp_path: Path) -> None:
    path = write_image(tmp_path / f"a.{suffix.lower()}", (200, 100, 50)).rename(tmp_path / f"b.{suffix}")
    np.testing.assert_allclose(decode_image(path)[5, 5], (200, 100, 50), atol=3)


def test_the_content_counts_not_the_suffix(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(encoded(Image.fromarray(RGB), "PNG"))
    np.testing.assert_array_equal(decode_image(path), RGB)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    upright = np.zeros((20, 30, 3), np.uint8)
    upright[:10, :15] = 255
    # the stored pixels for each of the eight orientations of the camera
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = decode_image(encoded(Image.fromarray(np.ascontiguousarray(stored)), "PNG", exif=exif))
    np.testing.assert_array_equal(pixels, upright)


def test_grey_becomes_three_equal_channels() -> None:
    grey = np.array([[0, 100], [200, 255]], np.uint8)
    np.testing.assert_array_equal(decode_image(encoded(Image.fromarray(grey), "PNG")), np.stack([grey] * 3, axis=2))


@pytest.mark.parametrize(("kind", "order"), [("PNG", "<u2"), ("TIFF", "<u2"), ("TIFF", ">u2")])
def test_grey_of_16_bit_is_scaled_not_cut(kind: str, order: str) -> None:
    values = np.array([[0, 256], [32768, 65535]], order)
    image = Image.frombytes("I;16" if order == "<u2" else "I;16B", (2, 2), values.tobytes())
    pixels = decode_image(encoded(image, kind))
    np.testing.assert_array_equal(pixels[:, :, 0], [[0, 1], [128, 255]])
    np.testing.assert_array_equal(pixels[:, :, 0], pixels[:, :, 2])


@pytest.mark.parametrize(("high", "expected"), [(1.0, 255), (0.5, 128), (255.0, 255), (200.0, 200)])
def test_float_images_are_read_in_either_range(high: float, expected: int) -> None:
    image = Image.fromarray(np.array([[0.0, high]], np.float32))
    np.testing.assert_array_equal(decode_image(encoded(image, "TIFF"))[0, :, 1], [0, expected])


@pytest.mark.parametrize("values", [[[-1.0, 2.0]], [[0.0, 5000.0]], [[np.nan, 1.0]]])
def test_floats_that_are_no_brightness_are_refused(values: list[list[float]]) -> None:
    with pytest.raises(ImageError, match="grey values"):
        decode_image(encoded(Image.fromarray(np.array(values, np.float32)), "TIFF"))


def test_a_palette_is_looked_up() -> None:
    image = Image.fromarray(np.array([[0, 1], [1, 0]], np.uint8), "L").convert("P")
    image.putpalette([10, 20, 30, 200, 100, 50])
    np.testing.assert_array_equal(decode_image(encoded(image, "PNG"))[0], [[10, 20, 30], [200, 100, 50]])


def test_transparency_of_a_palette_is_laid_over_white() -> None:
    image = Image.fromarray(np.array([[0, 1]], np.uint8), "L").convert("P")
    image.putpalette([10, 20, 30, 200, 100, 50])
    pixels = decode_image(encoded(image, "PNG", transparency=0))
    np.testing.assert_array_equal(pixels[0], [[255, 255, 255], [200, 100, 50]])


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_is_laid_over_white(mode: str) -> None:
    values = {"RGBA": [(0, 0, 0, 255), (0, 0, 0, 0), (0, 0, 0, 51)], "LA": [(0, 255), (0, 0), (0, 51)]}[mode]
    image = Image.new(mode, (3, 1))
    image.putdata(values) if not hasattr(image, "put_data") else image.put_data(values)
    np.testing.assert_array_equal(decode_image(encoded(image, "PNG"))[0, :, 0], [0, 255, 204])


def test_one_bit_becomes_black_and_white() -> None:
    image = Image.fromarray(np.array([[0, 255]], np.uint8)).convert("1")
    np.testing.assert_array_equal(decode_image(encoded(image, "PNG"))[0, :, 0], [0, 255])


def test_cmyk_jpeg_has_the_colours_that_a_viewer_shows() -> None:
    # pure cyan ink over white paper: no red, all green and blue
    image = Image.new("CMYK", (16, 16), (255, 0, 0, 0))
    np.testing.assert_allclose(decode_image(encoded(image, "JPEG", quality=100))[8, 8], (0, 255, 255), atol=3)
    paper = Image.new("CMYK", (16, 16), (0, 0, 0, 0))
    np.testing.assert_allclose(decode_image(encoded(paper, "JPEG", quality=100))[8, 8], (255, 255, 255), atol=3)


def test_the_first_frame_of_a_gif_counts() -> None:
    frames = [Image.new("RGB", (4, 4), color) for color in ((255, 0, 0), (0, 255, 0))]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(decode_image(data)[0, 0], (255, 0, 0))


def test_a_truncated_jpeg_is_refused_by_both_ways_of_looking(tmp_path: Path) -> None:
    path = write_noise(tmp_path / "cut.jpg")
    path.write_bytes(path.read_bytes()[:-400])
    with pytest.raises(ImageError, match="truncated"):
        decode_image(path)
    assert "truncated" in (check_image(path) or "")


def test_what_is_no_image_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("hello")
    with pytest.raises(ImageError, match="not an image that can be read"):
        decode_image(tmp_path / "text.png")
    with pytest.raises(ImageError, match="no such file"):
        decode_image(tmp_path / "gone.png")
    with pytest.raises(ImageError):
        decode_image(tmp_path)


@pytest.mark.parametrize("name", ["big.jpg", "big.png"])
def test_too_many_pixels_are_refused_with_the_option_that_allows_them(name: str, tmp_path: Path) -> None:
    path = write_image(tmp_path / name, size=(100, 50))
    with pytest.raises(ImageError, match=r"100x50 pixels are more than the limit of 4999 \(--data.max_image_pixels"):
        decode_image(path, Reading(4999))
    assert "limit of 4999" in (check_image(path, Reading(4999)) or "")
    assert decode_image(path, Reading(5000)).shape == (50, 100, 3)


def test_checking_a_folder_names_the_broken_ones_in_order(tmp_path: Path) -> None:
    names = [f"{number:02}.jpg" for number in range(40)]
    for number, name in enumerate(names):
        write_noise(tmp_path / name, seed=number)
    for name in ("03.jpg", "31.jpg"):
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:700])
    assert [image.path for image in scan_images(tmp_path, names).bad] == ["03.jpg", "31.jpg"]


@settings(max_examples=150)
@given(st.data(), st.sampled_from(["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"]))
def test_damaged_bytes_give_an_image_or_an_image_error(data: st.DataObject, kind: str) -> None:
    content = bytearray(encoded(Image.fromarray(RGB.repeat(8, 0).repeat(8, 1)), kind))
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        assert decode_image(bytes(content), Reading(10**6)).shape[2] == 3
    except ImageError as error:
        assert error.what


def test_a_plain_jpeg_has_pillows_pixels(tmp_path: Path) -> None:
    for number, (size, sampling) in enumerate([((61, 47), 0), ((500, 375), 2), ((17, 400), 1)]):
        path = tmp_path / f"{number}.jpg"
        noise = np.random.default_rng(number).integers(0, 256, (size[1] // 4 + 1, size[0] // 4 + 1, 3), np.uint8)
        Image.fromarray(noise).resize(size).save(path, quality=87, subsampling=sampling, progressive=number == 1)
        with Image.open(path) as image:
            expected = np.asarray(image)
        np.testing.assert_array_equal(decode_image(path), expected)


def test_a_jpeg_cut_off_or_with_something_behind_it_is_left_to_pillow(tmp_path: Path) -> None:
    path = tmp_path / "whole.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 80, 3), np.uint8)).save(path)
    data = path.read_bytes()
    np.testing.assert_array_equal(decode_image(data + b"a note"), decode_image(data))
    with pytest.raises(ImageError, match="truncated"):
        decode_image(data[:-200])
