"""The digits that scikit-learn ships, as a folder of images."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from images import write_image
from otx.data.digits import NUM_DIGITS, resolve_data_root, write_digits
from otx.data.load import load_dataset
from otx.errors import UsageError


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_digits(tmp_path_factory.mktemp("cache") / "deep" / "digits")


def test_every_digit_is_in_the_folder_of_its_class(digits: Path) -> None:
    from sklearn.datasets import load_digits

    written = Counter(path.parent.name for path in digits.glob("*/*.png"))
    assert written == Counter(str(label) for label in load_digits().target)
    assert sum(written.values()) == NUM_DIGITS == 1797


def test_the_pixels_are_those_of_scikit_learn_stretched_to_8_bit(digits: Path) -> None:
    from sklearn.datasets import load_digits

    source = load_digits()
    for number in range(0, NUM_DIGITS, 97):
        path = digits / str(source.target[number]) / f"{number:04}.png"
        with Image.open(path) as image:
            assert image.mode == "L"
            np.testing.assert_allclose(np.asarray(image), source.images[number] * 255 / 16, atol=0.5)


def test_the_folder_is_a_data_set_of_ten_classes(digits: Path) -> None:
    dataset = load_dataset(digits)
    assert dataset.classes == tuple("0123456789")
    assert len(dataset.train) + len(dataset.val) + len(dataset.test) == NUM_DIGITS
    assert dataset.notes == ()


def test_nothing_is_left_beside_the_folder(digits: Path) -> None:
    assert [path.name for path in digits.parent.iterdir()] == ["digits"]


def test_what_is_complete_is_not_written_again(digits: Path) -> None:
    before = (digits.stat().st_ino, (digits / "0" / "0000.png").stat().st_mtime_ns)
    assert write_digits(digits) == digits
    assert (digits.stat().st_ino, (digits / "0" / "0000.png").stat().st_mtime_ns) == before


def test_what_is_incomplete_is_completed(digits: Path) -> None:
    lost = digits / "0" / "0000.png"
    content = lost.read_bytes()
    lost.unlink()
    write_digits(digits)
    assert lost.read_bytes() == content


def test_without_scikit_learn_the_command_that_installs_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(UsageError, match="scikit-learn, which is missing") as caught:
        write_digits(tmp_path / "digits")
    assert caught.value.fix == "pip install scikit-learn"
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_names_the_variable_that_changes_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UsageError, match="cannot write the digits to .*file/digits") as caught:
        write_digits(tmp_path / "file" / "digits")
    assert caught.value.fix == "set OTX_CACHE to a folder of yours"


def test_the_name_digits_stands_for_the_folder_in_the_cache(digits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTX_CACHE", str(digits.parent))
    assert resolve_data_root("digits") == digits


def test_a_folder_of_ones_own_named_digits_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_image(tmp_path / "digits" / "ant" / "0.png")
    monkeypatch.chdir(tmp_path)
    assert resolve_data_root("digits") == Path("digits")
    assert [path.name for path in (tmp_path / "digits").iterdir()] == ["ant"]


def test_any_other_name_is_a_path_and_none_is_an_error() -> None:
    assert resolve_data_root("photos/digits") == Path("photos/digits")
    with pytest.raises(UsageError, match="--data_root is missing") as caught:
        resolve_data_root(None)
    assert "--data_root digits" in caught.value.fix
