"""What is known of the photos of a folder, and every change of it: written to the journal before it counts."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from otx.active import UNLABELLED
from otx.data.journal import Row
from otx.files import STAGING
from otx.label.names import clean_name
from otx.label.photos import Photos
from otx.label.place import Change, ClassOrder, History, save_rows

NOTHING = Row()


class Board:
    """The rows of all photos by number; safe to use from several threads.

    Attributes:
        labels: (N,) the index of each photo's class in `classes`, -1 without one.
        left_out: (N,) whether a photo is not to be used.
        version: grows with every change.
        subsets: the split that the check saw each photo in, by number.
    """

    def __init__(self, photos: Photos, place: Path) -> None:
        self.photos, self.lock = photos, threading.RLock()
        self.history, self._order = History(place / "history.jsonl"), ClassOrder(place / "classes.json")
        self._rows = dict(photos.rows)
        self._number = {path: number for number, path in enumerate(photos.paths)}
        self.labels = np.full(len(photos.paths), UNLABELLED)
        self.left_out = np.zeros(len(photos.paths), bool)
        self.version = 0
        self.subsets: dict[int, str] = {}
        for leftover in photos.root.glob(f"{STAGING}*"):  # of a killed process
            leftover.unlink(missing_ok=True)
        self._order.add(sorted({row.label for row in self._rows.values() if row.label}))
        for path in self._rows:
            self._show(path)

    @property
    def classes(self) -> list[str]:
        return self._order.names

    @property
    def rows(self) -> dict[str, Row]:
        with self.lock:
            return dict(self._rows)

    def row(self, number: int) -> Row:
        return self._rows.get(self.photos.paths[number], NOTHING)

    def number_of(self, path: str) -> int | None:
        return self._number.get(path)

    def name(self, label: str) -> str:
        """The class that a person means by a name; see `clean_name`."""
        return label if label in self.classes else clean_name(label, self.classes)

    def decide(self, what: str, rows: Mapping[int, Row]) -> None:
        """Give photos new rows, in the journal first.

        Args:
            what: what it is called when it can be undone.

        Raises:
            UsageError, StorageError: the journal cannot be written; nothing has changed.
        """
        with self.lock:
            paths = {self.photos.paths[number]: row for number, row in rows.items()}
            change: Change = {
                path: (self._rows.get(path), row) for path, row in paths.items() if self._rows.get(path) != row
            }
            if not change:
                return
            self.history.add(what, change)
            try:
                self._apply({path: after for path, (_, after) in change.items()})
            except BaseException:
                self.history.undo()
                raise

    def undo(self) -> tuple[str, list[int]]:
        """Take back the last change; returns what it was called and its photos, nothing if there is none."""
        with self.lock:
            what = self.history.last
            if not what:
                return "", []
            change = self.history.newest
            self._apply({path: row for path, (row, _) in change.items()})
            self.history.undo()
            return what, [number for path in change if (number := self._number.get(path)) is not None]

    def _apply(self, rows: Mapping[str, Row | None]) -> None:
        old = dict(self._rows)
        self._order.add([row.label for row in rows.values() if row is not None and row.label])
        for path, row in rows.items():
            if row is None:
                # a row without a label stands against the label of a class folder
                self._rows.pop(path, None)
            else:
                self._rows[path] = row
        try:
            save_rows(self.photos.root, self._rows)
        except BaseException:
            self._rows = old
            raise
        for path in rows:
            self._show(path)
        self.version += 1

    def _show(self, path: str) -> None:
        number, row = self._number.get(path), self._rows.get(path, NOTHING)
        if number is None:  # it is elsewhere now
            return
        self.left_out[number] = bool(row.left_out)
        known = row.label and not row.left_out
        self.labels[number] = self.classes.index(row.label) if known else UNLABELLED

    def labelled(self, label: str, numbers: list[int]) -> dict[int, Row]:
        """Rows that give photos a class; empty takes it away."""
        return {number: replace(self.row(number), label=label, left_out="") for number in numbers}
