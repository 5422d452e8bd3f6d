"""Text on the pages can be read in both colour schemes: a contrast of 4.5 to 1, as WCAG 2.2 asks (1.4.3)."""

from __future__ import annotations

import re

import numpy as np
import pytest
from numpy.typing import NDArray

from otx.report.page import read_part

# the rules of the page before those of printing; the second scheme changes the first
LIGHT, DARK = re.findall(r":root \{(.*?)\}", read_part("page.css"), re.S)[:2]
STRONGEST_CELL = float(re.findall(r'"range": \[\s*[\d.]+,\s*([\d.]+)\s*\]', read_part("matrix.vl.json"))[0])


def colours_of(scheme: str) -> dict[str, NDArray[np.float64]]:
    rules = LIGHT if scheme == "light" else LIGHT + DARK
    found = re.findall(r"--([\w-]+): #([0-9a-f]{6})", rules)
    return {name: np.frombuffer(bytes.fromhex(value), np.uint8) / 255 for name, value in found}


def contrast(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    def luminance(colour: NDArray[np.float64]) -> float:
        linear = np.where(colour <= 0.04045, colour / 12.92, ((colour + 0.055) / 1.055) ** 2.4)
        return float(linear @ (0.2126, 0.7152, 0.0722))

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(
    ("text", "ground"),
    [
        *((text, ground) for text in ("ink", "soft", "accent") for ground in ("paper", "raised")),
        *((name, f"{name}-ground") for name in ("good", "warn", "bad")),
    ],
)
def test_text_stands_out_from_its_ground(text: str, ground: str, scheme: str) -> None:
    colours = colours_of(scheme)
    assert contrast(colours[text], colours[ground]) >= 4.5


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("fill", ["plain", "accent"])
def test_a_number_stands_out_from_the_strongest_cell_of_the_matrix(fill: str, scheme: str) -> None:
    colours = colours_of(scheme)
    cell = STRONGEST_CELL * colours[fill] + (1 - STRONGEST_CELL) * colours["paper"]
    assert contrast(colours["ink"], cell) >= 4.5
