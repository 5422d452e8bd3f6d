"""The journal of `otx label`: a table `labels.csv` in the folder of photos, of what a person decided about each photo.

It is a table of labels like any other (`data/table.py`), with columns of its own for what was left out and confirmed.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from otx.errors import DataError
from otx.files import write_csv
from otx.findings import CheckResult, CopyPair, Finding, ImageRef

JOURNAL = "labels.csv"
COLUMNS = ("path", "label", "split", "left_out", "confirmed")
MISLABELLED, COPIES, LEAK, CONFLICT = "mislabelled", "copies", "leak", "two labels"
SINGLE = ("broken", "empty", "tiny", "huge", "odd", "small")


@dataclass(frozen=True)
class Row:
    """What is known of a photo.

    Args:
        label: its class; empty if it has none.
        split: the subset it is to be in; empty if that is left to the training.
        left_out: why it is not to be used; empty if it is.
        confirmed: the kinds of findings that a person called right as they are.
    """

    label: str = ""
    split: str = ""
    left_out: str = ""
    confirmed: tuple[str, ...] = ()

    def confirm(self, kind: str) -> Row:
        return replace(self, confirmed=tuple(sorted({*self.confirmed, kind})))

    def to_cells(self) -> tuple[str, str, str, str]:
        # a photo that is left out has no label for those who read the table
        label = "" if self.left_out else self.label
        left_out = f"{self.left_out} [{self.label}]" if self.left_out and self.label else self.left_out
        return label, self.split, left_out, " + ".join(self.confirmed)

    @classmethod
    def of_cells(cls, label: str, split: str, left_out: str, confirmed: str) -> Row:
        if left_out.endswith("]") and (place := _opening(left_out)) > 0:
            left_out, label = left_out[: place - 1], left_out[place + 1 : -1]
        return cls(label, split, left_out, tuple(each for each in confirmed.split(" + ") if each))


def _opening(text: str) -> int:
    """The place of the bracket, behind a blank, that the last one closes; -1 if there is none."""
    depth = 0
    for place in range(len(text) - 1, -1, -1):
        depth += (text[place] == "]") - (text[place] == "[")
        if depth == 0:
            return place if text[place - 1 : place] == " " else -1
    return -1


def is_journal(path: Path) -> bool:
    """Whether a file is a journal, by its first line."""
    try:
        with path.open(encoding="utf-8", errors="surrogateescape") as file:
            return file.readline().rstrip("\r\n") == ",".join(COLUMNS)
    except OSError:
        return False


def read_journal(path: Path) -> dict[str, Row]:
    """The rows of a journal by the path of the photo, relative to the journal's folder.

    Raises:
        DataError: it cannot be read.
    """
    try:
        with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
            rows = list(csv.reader(file))[1:]
    except (OSError, csv.Error) as error:
        raise DataError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    return {row[0]: Row.of_cells(row[1], row[2], row[3], row[4]) for row in rows if len(row) == len(COLUMNS)}


def left_out_in(path: Path) -> set[str]:
    """The paths that a journal leaves out of the data set; none if the file is no journal."""
    return {name for name, row in read_journal(path).items() if row.left_out} if is_journal(path) else set()


def write_journal(path: Path, rows: Mapping[str, Row]) -> None:
    """Write a journal whole or not at all, sorted by path.

    Raises:
        UsageError, StorageError: it cannot be written; what was there before is untouched.
    """
    write_csv(path, COLUMNS, ((name, *row.to_cells()) for name, row in sorted(rows.items())))


def without_confirmed(found: CheckResult, rows: Mapping[str, Row]) -> CheckResult:
    """The findings of a check without those that a person confirmed as right.

    Copies and leaks are confirmed if each of their photos is.

    Args:
        rows: by the path relative to the checked folder.
    """

    def asked(kind: str, *places: ImageRef | Finding) -> bool:
        return not all(kind in rows[place.path].confirmed if place.path in rows else False for place in places)

    def pairs(kind: str, all_pairs: Iterable[CopyPair]) -> tuple[CopyPair, ...]:
        return tuple(pair for pair in all_pairs if asked(kind, pair.first, pair.second))

    single: dict[str, Any] = {
        kind: tuple(each for each in getattr(found, kind) if asked(kind, each)) for kind in SINGLE
    }
    doubts = found.mislabelled
    if doubts is not None:
        doubts = tuple(each for each in doubts if asked(MISLABELLED, ImageRef(each.path, each.label, each.subset)))
    return replace(
        found,
        copies=tuple(group for group in found.copies if asked(COPIES, *group.images)),
        leaks=pairs(LEAK, found.leaks),
        conflicts=pairs(CONFLICT, found.conflicts),
        mislabelled=doubts,
        **single,
    )


def confirmed_below(root: Path) -> dict[str, Row]:
    """The journal's rows for a data set whose root is `root` or a folder of it, by path relative to `root`."""
    for folder in (root, *root.absolute().parents[:3]):
        journal = folder / JOURNAL
        if is_journal(journal):
            prefix = "" if folder == root else f"{root.absolute().relative_to(folder).as_posix()}/"
            rows = read_journal(journal).items()
            return {path.removeprefix(prefix): row for path, row in rows if path.startswith(prefix)}
    return {}
