"""Small image folders for the tests."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from otx.data.digits import write_digits

COLORS = ((200, 40, 40), (40, 200, 40), (40, 40, 200), (200, 200, 40), (40, 200, 200), (200, 40, 200), (230, 230, 230))


def write_image(path: Path, color: tuple[int, int, int] = (10, 20, 30), size: tuple[int, int] = (32, 24)) -> Path:
    """Write an image of a single colour; `size` is (width, height)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).save(path)
    return path


def write_classes(root: Path, counts: dict[str, int], *, size: tuple[int, int] = (40, 32), seed: int = 0) -> Path:
    """Write class folders; the images of a class share a colour, with noise."""
    rng = np.random.default_rng(seed)
    for index, (name, count) in enumerate(sorted(counts.items())):
        (root / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            noise = rng.normal(0, 30, (size[1], size[0], 3))
            pixels = np.clip(np.array(COLORS[index % len(COLORS)]) + noise, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number:03}.png")
    return root


def write_noise(path: Path, size: tuple[int, int] = (50, 40), seed: int = 0) -> Path:
    """Write an image of noise as JPEG, large enough to test cut-off files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).save(path, "JPEG", quality=95)
    return path


def write_folders(root: Path, folders: dict[str, int]) -> Path:
    """Folders with so many tiny images each, `0.png`, `1.png`, ..."""
    for folder, count in folders.items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            write_image(root / folder / f"{number}.png", size=(2, 2))
    return root


def write_digit_splits(folder: Path, labels: Sequence[str], splits: Mapping[str, tuple[int, int]]) -> Path:
    """Handwritten digits in split folders: digit N under `labels[N]`, of each a range of its images in each split."""
    source, root = write_digits(folder / "source"), folder / "digits"
    for digit, label in enumerate(labels):
        files = sorted((source / str(digit)).iterdir())
        for split, (first, last) in splits.items():
            (root / split / label).mkdir(parents=True)
            for file in files[first:last]:
                shutil.copy(file, root / split / label / file.name)
    return root
