"""scikit-learn's 1,797 handwritten digits of 8x8 pixels, to try everything without a download."""

from __future__ import annotations

import shutil
from pathlib import Path

from otx.data.archive import is_archive, unpack
from otx.errors import UsageError
from otx.files import staged_folder, take_place
from otx.places import cache_folder

DIGITS = "digits"
NUM_DIGITS = 1797


def resolve_data_root(data_root: str | Path | None) -> Path:
    """The folder of images that `--data_root` means; `digits` is written out on first use.

    Raises:
        UsageError: none is given.
    """
    if data_root is None:
        raise UsageError(
            "--data_root is missing", fix="--data_root FOLDER, or --data_root digits to try it without images"
        )
    if is_digits(data_root):
        return write_digits(cache_folder() / DIGITS)
    return unpack(Path(data_root)) if is_archive(Path(data_root)) else Path(data_root)


def is_digits(data_root: str | Path | None) -> bool:
    """Whether `--data_root` means the digits, and not a folder of that name in the working directory."""
    return str(data_root) == DIGITS and not Path(DIGITS).exists()


def write_digits(folder: Path) -> Path:
    """Write the digits as PNG files into class folders `0` to `9`, unless they are there already.

    Raises:
        UsageError: scikit-learn is missing, or the folder cannot be written.
    """
    if folder.is_dir() and sum(1 for _ in folder.glob("[0-9]/*.png")) == NUM_DIGITS:
        return folder
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise UsageError(
            "the digits come with scikit-learn, which is missing", fix="pip install scikit-learn"
        ) from error
    from PIL import Image

    digits = load_digits()
    what, fix = f"the digits to {folder}", "set OTX_CACHE to a folder of yours"
    with staged_folder(folder.parent, what, prefix=f".{folder.name}.", fix=fix) as beside:
        for number, (image, label) in enumerate(zip(digits.images, digits.target, strict=True)):
            place = beside / str(label)
            place.mkdir(exist_ok=True)
            Image.fromarray((image * (255 / 16)).round().astype("uint8")).save(place / f"{number:04}.png")
        shutil.rmtree(folder, ignore_errors=True)
        take_place(beside, folder)
    return folder
