"""Arrows that point left and right, under names that do not say so: the flip is on by default and destroys them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from conftest import Recorder
from otx import Engine

SHARED = Path(__file__).resolve().parents[3] / "shared"
WEIGHTS = SHARED / "weights" / "mobilenetv2_100.imagenet_backbone.safetensors"
SIDE = 96
WARNING = "They may be mirror images of each other"


def draw_arrow(image: Image.Image, rng: np.random.Generator, *, direction: int) -> None:
    """Draw an arrow of a random size, place and colour; direction 1 is right, -1 left."""
    half = rng.uniform(0.32, 0.45) * SIDE
    head, thick = half * rng.uniform(0.6, 0.9), half * rng.uniform(0.15, 0.3)
    upper = [(-half, -thick), (half - head, -thick), (half - head, -head), (half, 0)]
    outline = upper + [(x, -y) for x, y in reversed(upper[:-1])]
    x, y = rng.uniform(half, SIDE - half, 2)
    color = tuple(rng.integers(0, 256, 3).tolist())
    points = [(x + direction * dx, y + dy) for dx, dy in outline]
    ImageDraw.Draw(image).polygon(points, fill=color, outline="white", width=2)


@pytest.fixture(scope="module")
def arrows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`a` points right and `b` left, on crops of photos."""
    photos = sorted((SHARED / "data" / "flowers").rglob("*.jpg"))
    if not photos or not WEIGHTS.is_file():
        pytest.skip("needs ../shared/data/flowers and ../shared/weights")
    root, rng = tmp_path_factory.mktemp("arrows"), np.random.default_rng(0)
    for name, direction in (("a", 1), ("b", -1)):
        (root / name).mkdir()
        for number in range(120):
            with Image.open(photos[rng.integers(len(photos))]) as photo:
                x, y = (int(rng.integers(0, side - SIDE)) for side in photo.size)
                image = photo.convert("RGB").crop((x, y, x + SIDE, y + SIDE))
            draw_arrow(image, rng, direction=direction)
            image.save(root / name / f"{number:03}.png")
    return root


@pytest.mark.parametrize(
    ("flip", "max_epochs", "warned"), [(0.5, 1, True), (0.0, 1, False), (0.5, 0, False)], ids=["flip", "no", "head"]
)
def test_mirrored_classes_are_warned_of_where_images_are_flipped(
    flip: float, max_epochs: int, warned: bool, arrows: Path, tmp_path: Path, recorder: Recorder
) -> None:
    settings = {
        "model.weights": str(WEIGHTS),
        "data.train_subset.augmentation.flip": flip,
        "data.input_size": 128,
        "data.num_workers": 0,
        "max_epochs": max_epochs,
        "report": False,
    }
    Engine(arrows, model="timm/mobilenetv2_100", work_dir=tmp_path, overrides=settings, reporter=recorder).train()
    said = [text for text in recorder.warnings if WARNING in text]
    assert len(said) == warned
    if warned:
        assert said[0].startswith("Flipped, ")
        assert "of 'a' are taken for 'b'" in said[0]
        assert "--data.train_subset.augmentation.flip 0" in said[0]
