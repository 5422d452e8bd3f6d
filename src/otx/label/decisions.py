"""What the page may ask for, checked, and turned into rows of the journal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from otx.data.journal import CONFLICT, COPIES, LEAK, MISLABELLED, SINGLE, Row
from otx.label.board import Board
from otx.label.review import SPLITS

KINDS = (LEAK, CONFLICT, MISLABELLED, COPIES, *SINGLE)
OF_COPIES = (LEAK, CONFLICT, COPIES)
NOT_WANTED = "not wanted"
Rows = dict[int, Row]


def take(board: Board, asked: Any) -> None:
    """Do what the page asks for: `{"action": ..., "ids": [...], ...}`.

    Actions: `label` (with `label`), `leave_out`, `confirm` (with `kind`), `keep_one` (with `keep` and `kind`), `split`
    (with `split`). With `kind`, `label` also confirms that the finding is settled.

    Raises:
        ValueError: it is not understood; nothing has changed.
        UsageError, StorageError: the journal cannot be written; nothing has changed.
    """
    if not isinstance(asked, dict):
        raise ValueError("a decision is an object")
    actions: dict[str, Callable[[Board, list[int], dict[str, Any]], tuple[str, Rows]]] = {
        "label": _label,
        "leave_out": _leave_out,
        "confirm": _confirm,
        "keep_one": _keep_one,
        "split": _split,
    }
    action = asked.get("action")
    if not isinstance(action, str) or action not in actions:
        raise ValueError(f"unknown action {str(action)[:40]!r}")
    with board.lock:
        board.decide(*actions[action](board, _ids(board, asked), asked))


def _ids(board: Board, asked: dict[str, Any]) -> list[int]:
    ids = asked.get("ids")
    count = len(board.photos.paths)
    if not isinstance(ids, list) or not ids:
        raise ValueError("a decision is about one photo at least")
    if any(not isinstance(each, int) or isinstance(each, bool) or not 0 <= each < count for each in ids):
        raise ValueError(f"photos have numbers from 0 to {count - 1}")
    return list(dict.fromkeys(ids))


def _text(asked: dict[str, Any], key: str, allowed: tuple[str, ...] = ()) -> str:
    value = asked.get(key, "")
    if not isinstance(value, str) or (allowed and value not in allowed):
        raise ValueError(f"{key} must be a text" + (f", one of {', '.join(allowed)}" if allowed else ""))
    return value


def _label(board: Board, ids: list[int], asked: dict[str, Any]) -> tuple[str, Rows]:
    text = _text(asked, "label")
    label = board.name(text) if text else ""
    rows = board.labelled(label, ids)
    if "kind" in asked:
        kind = _text(asked, "kind", KINDS)
        rows = {number: row.confirm(kind) for number, row in rows.items()}
    return f"{label or 'no label'}: {_photos(ids)}", rows


def _leave_out(board: Board, ids: list[int], asked: dict[str, Any]) -> tuple[str, Rows]:
    why = asked.get("why", NOT_WANTED)
    if not isinstance(why, str) or len(why) > 200:
        raise ValueError("why must be a short text")
    why = " ".join("".join(each for each in why if each.isprintable() and each not in "[]").split()) or NOT_WANTED
    return f"left out: {_photos(ids)}", {number: replace(board.row(number), left_out=why) for number in ids}


def _confirm(board: Board, ids: list[int], asked: dict[str, Any]) -> tuple[str, Rows]:
    kind = _text(asked, "kind", KINDS)
    return f"right as it is: {_photos(ids)}", {number: _settled(board.row(number), kind) for number in ids}


def _keep_one(board: Board, ids: list[int], asked: dict[str, Any]) -> tuple[str, Rows]:
    keep = asked.get("keep")
    if keep not in ids:
        raise ValueError("keep must be one of the ids")
    kind, kept = _text(asked, "kind", OF_COPIES), board.photos.paths[keep]
    kept = kept.translate(str.maketrans("", "", "[]"))
    rows = {number: replace(board.row(number), left_out=f"copy of {kept}") for number in ids if number != keep}
    row = board.row(keep)
    if asked.get("label"):
        row = replace(row, label=board.name(_text(asked, "label")))
    return f"one copy of {len(ids)} kept", {**rows, keep: _settled(row, kind)}


def _split(board: Board, ids: list[int], asked: dict[str, Any]) -> tuple[str, Rows]:
    """Put photos into one split; the copies among them are then right as they are."""
    split = _text(asked, "split", SPLITS)
    rows = {number: replace(_settled(board.row(number), LEAK), split=split) for number in ids}
    if not any(row.split for row in board.rows.values()):
        # a folder without splits: from now on every photo has the one that the check saw it in
        everywhere = {number: replace(board.row(number), split=name) for number, name in board.subsets.items()}
        rows = {**everywhere, **rows}
    return f"all in {split}: {_photos(ids)}", rows


def _settled(row: Row, kind: str) -> Row:
    """A row whose finding is right as it is; for copies, whatever they were found as."""
    for each in OF_COPIES if kind in OF_COPIES else (kind,):
        row = row.confirm(each)
    return row


def _photos(ids: list[int]) -> str:
    return f"{len(ids)} photo{'s' if len(ids) > 1 else ''}"
