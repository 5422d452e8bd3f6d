"""A saliency map leaves the photo visible, and grows lighter from a little to much."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from otx.inference.overlay import colours, draw_overlay, heat

NOISE = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
RAMP = np.linspace(0, 1, 80, dtype=np.float32)[None]


def test_a_map_of_zeros_is_the_photo_in_grey() -> None:
    photo = Image.fromarray(NOISE)
    shown = heat(photo, np.zeros((7, 7), np.float32))
    assert np.array_equal(np.asarray(shown), np.asarray(photo.convert("L").convert("RGB")))


def test_where_the_map_is_one_the_photo_is_still_seen() -> None:
    seen = np.asarray(heat(Image.fromarray(NOISE), np.ones((7, 7), np.float32)).convert("L"), float).ravel()
    grey = np.asarray(Image.fromarray(NOISE).convert("L"), float).ravel()
    assert np.corrcoef(seen, grey)[0, 1] > 0.99
    assert seen.std() > grey.std() / 5


def test_the_colours_grow_lighter_and_more_opaque() -> None:
    drawn = np.asarray(colours(RAMP, (80, 1)), float)[0]
    lightness = drawn[:, :3] @ (0.2126, 0.7152, 0.0722)
    assert (np.diff(lightness) >= -1).all()
    assert (np.diff(drawn[:, 3]) >= 0).all()
    assert (drawn[0, 3], lightness[-1] > 200) == (0, True)


@pytest.mark.parametrize("caption", [(), ("cat: 97.1%",), ("a class with a very long name " * 3 + ": 97.1%",)])
def test_an_overlay_has_a_legend_beside_or_below_its_caption(caption: tuple[str, ...]) -> None:
    sheet = np.asarray(draw_overlay(NOISE, RAMP, caption).convert("RGB"), int)
    bottom = sheet[-25:]
    coloured = np.ptp(bottom, axis=2) > 100
    assert coloured.any(axis=0).sum() > 20, "the bright end of the colours"
    assert not coloured[:, : sheet.shape[1] // 2].any()
