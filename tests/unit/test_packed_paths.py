"""Packed paths behave like the list that they stand for."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otx.data.paths import AT_ONCE, Paths

names = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)


@given(st.lists(names), st.lists(names))
def test_it_is_the_sequence_that_was_put_in(first: list[str], second: list[str]) -> None:
    paths = Paths(first)
    paths.extend(second)
    wanted = first + second
    assert list(paths) == wanted and paths == wanted and len(paths) == len(wanted)
    assert [paths[place] for place in range(-len(wanted), len(wanted))] == wanted + wanted
    assert paths[1:-1] == tuple(wanted[1:-1])
    assert pickle.loads(pickle.dumps(paths)) == wanted


def test_more_than_is_unpacked_at_once() -> None:
    wanted = [f"class/{number}.png" for number in range(2 * AT_ONCE + 1)]
    assert list(Paths(wanted)) == wanted


def test_names_that_are_no_utf8() -> None:
    wanted = [b"a\xff.png".decode("utf-8", "surrogateescape"), "ä.png"]
    assert list(Paths(wanted)) == wanted


def test_what_is_not_there() -> None:
    paths = Paths(["a", "b"])
    assert paths != ["a"] and paths != ["a", "c"] and paths != 3
    with pytest.raises(IndexError):
        paths[2]
