"""Suspicions about a data set as cards to go through, and which of them are still open."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from otx.data.journal import CONFLICT, COPIES, LEAK, MISLABELLED, SINGLE
from otx.findings import CheckResult, CopyGroup, CopyPair
from otx.label.board import Board

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Card:
    """A suspicion.

    Args:
        kind: of `data.journal`.
        numbers: the photos that it is about.
        text: what is suspicious, as a sentence.
        label: the class that a mislabelled photo has.
        suggested: the class that it more probably has.
        subsets: for copies, the subset of each photo.
    """

    kind: str
    numbers: tuple[int, ...]
    text: str
    label: str = ""
    suggested: str = ""
    subsets: tuple[str, ...] = ()


def cards_of(found: CheckResult, board: Board, prefix: str = "") -> list[Card]:
    """The cards of a check, the most serious kinds first.

    Args:
        prefix: the checked folder relative to the board's, empty or ending in `/`.
    """
    return [card for card in _cards(found, board, prefix) if card.numbers]


def _cards(found: CheckResult, board: Board, prefix: str) -> Iterator[Card]:
    groups = sorted(
        ((_kind_of(group, found), group) for group in found.copies),
        key=lambda item: (LEAK, CONFLICT, COPIES).index(item[0]),
    )

    def numbers(*paths: str) -> tuple[int, ...]:
        known = [board.number_of(prefix + path) for path in paths]
        return tuple(number for number in known if number is not None)

    for kind, group in groups:
        if kind != COPIES:
            yield _copies(kind, group, numbers(*(place.path for place in group.images)))
    for doubt in found.mislabelled or ():
        text = f"This is filed under {doubt.label}, and looks more like {doubt.suggested}."
        yield Card(MISLABELLED, numbers(doubt.path), text, doubt.label, doubt.suggested)
    for kind in SINGLE[:2]:
        for each in getattr(found, kind):
            yield Card(kind, numbers(each.path), f"This file cannot be used: {each.reason}.")
    for kind, group in groups:
        if kind == COPIES:
            yield _copies(kind, group, numbers(*(place.path for place in group.images)))
    for kind in SINGLE[2:]:
        for each in getattr(found, kind):
            yield Card(kind, numbers(each.path), f"This photo is unusual among the others: {each.reason}.")


def _kind_of(group: CopyGroup, found: CheckResult) -> str:
    inside = {place.path for place in group.images}

    def has(pairs: tuple[CopyPair, ...]) -> bool:
        return any(pair.first.path in inside and pair.second.path in inside for pair in pairs)

    return LEAK if has(found.leaks) else CONFLICT if has(found.conflicts) else COPIES


def _copies(kind: str, group: CopyGroup, numbers: tuple[int, ...]) -> Card:
    subsets = tuple(place.subset for place in group.images)
    labels = dict.fromkeys(place.label for place in group.images if place.label)
    what = "The same file" if group.exact else "The same picture"
    where = {
        LEAK: f"is in {' and in '.join(dict.fromkeys(filter(None, subsets)))}: a test on it means little",
        CONFLICT: f"has two labels: {' and '.join(labels)}",
        COPIES: f"is there {len(numbers)} times",
    }
    return Card(kind, numbers, f"{what} {where[kind]}.", subsets=subsets)


def is_open(card: Card, board: Board) -> bool:
    """Whether nobody has decided about a card yet."""
    rows = [board.row(number) for number in card.numbers]
    if all(card.kind in row.confirmed for row in rows):
        return False
    if card.kind in (LEAK, CONFLICT, COPIES):
        return sum(not row.left_out for row in rows) > 1
    return not any(row.left_out for row in rows)
