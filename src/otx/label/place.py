"""The hidden folder `.label` beside the photos: who has the page open, what can be undone, the order of the classes."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from otx.data.journal import JOURNAL, Row, is_journal, write_journal
from otx.errors import UsageError
from otx.files import cannot_write, write_json

PLACE = ".label"
Change = dict[str, tuple[Row | None, Row | None]]


@contextlib.contextmanager
def locked(root: Path) -> Iterator[Path]:
    """The hidden folder, for one process at a time; a process that is killed gives it free.

    Raises:
        UsageError: another process has it, or it cannot be written.
    """
    place = root / PLACE
    try:
        place.mkdir(exist_ok=True)
        file = (place / "lock").open("a+")
    except OSError as error:
        raise cannot_write(f"to {place}", error, "otx label keeps its journal in the folder of photos") from error
    with file:
        try:
            _lock(file)
        except OSError as error:
            file.seek(0)
            raise UsageError(
                f"{root} is being labelled already: {file.read().strip() or 'by another process'}",
                fix="use that page, or end it with Ctrl-C",
            ) from error
        file.truncate(0)
        file.write(f"process {os.getpid()}")
        file.flush()
        yield place


def _lock(file: IO[str]) -> None:
    if sys.platform == "win32":
        import msvcrt

        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def save_rows(root: Path, rows: Mapping[str, Row]) -> None:
    """Write the journal of a folder; a table of another program that has its name is first given another name.

    Raises:
        UsageError, StorageError: it cannot be written; what was there before is untouched.
    """
    path = root / JOURNAL
    if not path.is_file() or is_journal(path):
        return write_journal(path, rows)
    number = 1
    while (kept := path.with_name(f"labels-before-{number}.csv")).exists():
        number += 1
    path.rename(kept)
    try:
        write_journal(path, rows)
    except BaseException:
        kept.rename(path)
        raise


class History:
    """What was decided, newest last, in a file that only grows: a killed process loses nothing that was done.

    A line is a change (what it was called, and the rows of each photo before and after), or says that the last one
    was undone.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._changes: list[tuple[str, Change]] = []
        if path.is_file():
            self._read()

    def __len__(self) -> int:
        return len(self._changes)

    @property
    def last(self) -> str:
        """What the change is called that would be undone; empty if there is none."""
        return self._changes[-1][0] if self._changes else ""

    def add(self, what: str, change: Change) -> None:
        plain = {path: [None if row is None else asdict(row) for row in rows] for path, rows in change.items()}
        self._append({"what": what, "change": plain})
        self._changes.append((what, change))

    @property
    def newest(self) -> Change:
        """The last change; there must be one."""
        return self._changes[-1][1]

    def undo(self) -> None:
        """Forget the last change; there must be one."""
        self._append({"undone": True})
        self._changes.pop()

    def _append(self, line: dict[str, Any]) -> None:
        """Write a line whole or not at all."""
        length = None
        try:
            # surrogates of names that are not UTF-8 are escaped by JSON
            with self._path.open("ab") as file:
                length = file.tell()
                file.write(json.dumps(line).encode("ascii") + b"\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            if length is not None:
                with contextlib.suppress(OSError):
                    os.truncate(self._path, length)
            raise cannot_write(self._path, error) from error

    def _read(self) -> None:
        data = self._path.read_bytes()
        if data and not data.endswith(b"\n"):  # a killed process's last line
            with self._path.open("ab") as file:
                file.write(b"\n")
        for line in data.splitlines():
            with contextlib.suppress(ValueError, KeyError, TypeError, IndexError):
                self._take(json.loads(line))

    def _take(self, line: dict[str, Any]) -> None:
        if "undone" in line:
            self._changes.pop()
            return
        change = {path: (_row(before), _row(after)) for path, (before, after) in line["change"].items()}
        self._changes.append((line["what"], change))


def _row(plain: dict[str, Any] | None) -> Row | None:
    return None if plain is None else Row(**{**plain, "confirmed": tuple(plain["confirmed"])})


class ClassOrder:
    """The classes in the order in which they were named, which their keys 1 to 9 follow."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.names: list[str] = []
        if path.is_file():
            with contextlib.suppress(ValueError, OSError):
                self.names = [str(name) for name in json.loads(path.read_text(encoding="utf-8"))]

    def add(self, names: list[str]) -> None:
        """Append the names that are not known yet."""
        new = [name for name in dict.fromkeys(names) if name not in self.names]
        if new:
            self.names += new
            write_json(self._path, self.names)
