"""Names of classes that mean something, or that an exported file cannot hold as they are."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otx.model.metadata import spaceless
from otx.training.usable_images import mirrored_names


@pytest.mark.parametrize(
    ("classes", "names"),
    [
        (("blue tit", "blue_tit"), ["blue_tit_2", "blue_tit"]),
        (("blue_tit", "blue tit", "blue\ttit"), ["blue_tit", "blue_tit_2", "blue_tit_3"]),
        (("a b", "a_b", "a_b_2"), ["a_b_3", "a_b", "a_b_2"]),
        (("a b", "c"), ["a_b", "c"]),
        (("a\x01b", "a_b"), ["a_b_2", "a_b"]),
    ],
)
def test_names_without_spaces_stay_apart(classes: tuple[str, ...], names: list[str]) -> None:
    assert spaceless(classes) == names


@given(st.lists(st.text("ab _2", min_size=1, max_size=4), unique=True, max_size=6))
def test_no_two_names_are_the_same(classes: list[str]) -> None:
    found = spaceless(classes)
    assert len(set(found)) == len(classes)
    assert not any(" " in name for name in found)


@pytest.mark.parametrize(
    ("classes", "pair"),
    [
        (("arrow left", "arrow right"), ("arrow left", "arrow right")),
        (("LEFT", "none", "Right"), ("LEFT", "Right")),
        (("left", "up"), None),
        (("copyright", "left"), None),
    ],
)
def test_left_and_right_are_noticed(classes: tuple[str, ...], pair: tuple[str, str] | None) -> None:
    assert mirrored_names(classes) == pair
