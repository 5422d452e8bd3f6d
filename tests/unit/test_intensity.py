"""The range of values that a data set uses becomes black and white."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from otx.data.dataset import Dataset, Subset
from otx.data.decode import decode_image
from otx.data.intensity import choose_range, measure_intensity, range_in_words
from otx.data.preprocessing import Preprocessing
from otx.data.reading import Reading
from otx.export.bundle import program, write_sample
from otx.model.card import ModelCard

RNG = np.random.default_rng(0)


def folder_of(root: Path, count: int, low: float, high: float, kind: type) -> Dataset:
    """Images of even noise from `low` to `high`, half of each class."""
    for number in range(count):
        values = RNG.uniform(low, high, (40, 50)).astype(kind)
        path = root / "ab"[number % 2] / f"{number}.tif"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(values).save(path)
    train = Subset.of([(f"{'ab'[number % 2]}/{number}.tif", number % 2) for number in range(count)])
    return Dataset(root, ("a", "b"), "class folders", train, Subset.of([]), Subset.of([]))


@pytest.mark.parametrize(
    ("low", "high", "kind", "expected"),
    [
        (0, 4080, np.uint16, (0, 4095)),
        (100, 1000, np.uint16, (0, 1023)),
        (0, 65535, np.uint16, (0, 65535)),
        (0, 255, np.uint16, (0, 255)),
        (0, 0.9, np.float32, (0, 1)),
    ],
)
def test_bits_that_are_used_are_found(
    low: float, high: float, kind: type, expected: tuple[float, float], tmp_path: Path
) -> None:
    images = folder_of(tmp_path, 8, low, high, kind)
    assert measure_intensity(images, Reading(), 0) == expected


@pytest.mark.parametrize(
    ("low", "high", "kind"), [(1000, 1200, np.uint16), (-1000, 900, np.int32), (5, 90, np.float32)]
)
def test_a_narrow_range_is_taken_by_its_thousandths(low: float, high: float, kind: type, tmp_path: Path) -> None:
    images = folder_of(tmp_path, 8, low, high, kind)
    found = measure_intensity(images, Reading(), 0)
    np.testing.assert_allclose(found or (), (low, high), atol=0.01 * (high - low))


def test_a_few_hot_pixels_do_not_darken_the_rest(tmp_path: Path) -> None:
    images = folder_of(tmp_path, 8, 0, 1000, np.uint16)
    values = np.asarray(Image.open(tmp_path / "a/0.tif")).copy()
    values[0, :3] = 65535
    Image.fromarray(values).save(tmp_path / "a/0.tif")
    assert measure_intensity(images, Reading(), 0) == (0, 1023)


def test_photos_of_8_bits_have_no_range(tmp_path: Path) -> None:
    images = folder_of(tmp_path, 4, 0, 255, np.uint8)
    assert measure_intensity(images, Reading(), 0) is None


def test_images_of_one_value_have_a_range_all_the_same() -> None:
    assert choose_range([np.full(1001, 3000.0)]) == (3000, 3001)


def test_the_range_is_named_with_its_bits_and_the_option() -> None:
    text = range_in_words((0.0, 4095.0))
    assert "from 0 (black) to 4095 (white) are used (12 bits)" in text
    assert "--data.intensity LOW,HIGH" in text
    assert "bits)" not in range_in_words((1000.0, 1200.0))


def load_of_program(size: Preprocessing) -> Callable[[Path], np.ndarray]:
    """The function by which the program of a deploy folder reads an image."""
    text = program(ModelCard("resnet18", ("ant", "bee"), size, "random weights"))
    imports, _, rest = text.partition("HERE = ")
    body = rest[rest.index("\n") :].partition("pillow_heif.register_heif_opener()")[0]
    names: dict[str, Any] = {}
    exec(imports + body, names)
    loader: Callable[[Path], np.ndarray] = names["load"]
    return loader


def test_a_deploy_program_for_photos_reads_16_bits_as_otx_does(tmp_path: Path) -> None:
    Image.fromarray(RNG.integers(0, 2**16, (9, 8)).astype(np.uint16)).save(tmp_path / "deep.png")
    load = load_of_program(Preprocessing(8, 8, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)))
    np.testing.assert_array_equal(load(tmp_path / "deep.png"), decode_image(tmp_path / "deep.png"))


@pytest.mark.parametrize("bands", [(3, 2, 1), (7, 1, 4), (1, 1, 1)])
def test_the_sample_of_a_deploy_folder_has_its_colours_in_the_bands_of_the_network(
    bands: tuple[int, int, int], tmp_path: Path
) -> None:
    sample = RNG.integers(0, 256, (9, 8, 3), dtype=np.uint8)
    if bands == (1, 1, 1):
        sample = np.repeat(sample[:, :, :1], 3, axis=2)
    size = Preprocessing(8, 8, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), bands=bands)
    path = tmp_path / write_sample(tmp_path, sample, bands)
    np.testing.assert_array_equal(load_of_program(size)(path), sample)
    np.testing.assert_array_equal(decode_image(path, Reading(bands=bands)), sample)
