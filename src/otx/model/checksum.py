"""A checksum inside the file itself, so that a flipped bit is an error and not another prediction.

A file is written with a checksum of zeros somewhere in its metadata, which is then replaced by the digest of all other
bytes. For an IR the digest includes the `.bin`, so that the two files must come from the same export.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import mmap
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from otx.errors import ModelError, StorageError, UsageError
from otx.files import atomic

CHECKSUM_KEY = "otx_seal"
SIZE = 16
UNFINISHED = ".export."
EMPTY = f"{CHECKSUM_KEY}:{'0' * 2 * SIZE}"
PATTERN = re.compile(rf"{CHECKSUM_KEY}:[0-9a-f]{{{2 * SIZE}}}".encode())


def with_checksum(data: bytes) -> bytes:
    """The content of a file with its checksum filled in; unchanged if it has no place for one."""
    place = PATTERN.search(data)
    return data if place is None else _fill(data, place.span(), ())


def add_checksum(path: Path) -> None:
    """Fill in the checksum of a file that nobody reads yet."""
    data = path.read_bytes()
    place = PATTERN.search(data)
    if place is not None:
        path.write_bytes(_fill(data, place.span(), _halves(path)))


def verify_checksum(path: Path) -> None:
    """Compare a file with its checksum; a file without one passes: otx did not write it, or an older version did.

    If an export was killed after it moved only one of an IR's two files into place, this moves the other.

    Raises:
        ModelError: the content is not what otx wrote.
    """
    states = [file.stat() for file in (path, *_halves(path))]
    whole = _is_whole(path, tuple((state.st_mtime_ns, state.st_size, state.st_ino) for state in states))
    if not whole and not _complete(path):
        halves = "" if path.suffix != ".xml" else f", or {path.with_suffix('.bin').name} is that of another export"
        raise ModelError(
            f"{path} is damaged: its content is not what otx wrote{halves}",
            fix="train or export it again (where another tool changed it on purpose: remove its entry "
            f"{CHECKSUM_KEY!r})",
        )


def move_into_place(beside: Path, folder: Path, names: Sequence[str]) -> None:
    """Move files from the folder `beside` into `folder`, one after the other, once all are flushed to the disk."""
    for name in names:
        # Windows flushes only files that are open for writing
        with (beside / name).open("r+b") as file:
            os.fsync(file.fileno())
    for name in names:
        (beside / name).replace(folder / name)


def _complete(path: Path) -> bool:
    """Move the `.xml` that belongs to this `.bin` into place, if an export was killed between the two."""
    for other in path.parent.glob(f"{UNFINISHED}*/{path.name}") if path.suffix == ".xml" else ():
        with contextlib.suppress(OSError, UsageError, StorageError):
            data = other.read_bytes()
            place = PATTERN.search(data)
            if place is not None and _fill(data, place.span(), _halves(path)) == data:
                with atomic(path, "wb") as file:
                    file.write(data)
                return True
    return False


@functools.lru_cache(maxsize=16)
def _is_whole(path: Path, _state: tuple[tuple[int, int, int], ...]) -> bool:
    """Whether the checksum is right or missing; computed once for each state of the file."""
    if path.stat().st_size == 0:
        return True
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        place = PATTERN.search(data)
        if place is None:
            # the key stands in the file twice, as the name of the entry and in its value: damage leaves one of them
            return data.find(CHECKSUM_KEY.encode()) < 0
        return _digest(data, place.span(), _halves(path)) == data[place.start() : place.end()]


def _halves(path: Path) -> list[Path]:
    return [path.with_suffix(".bin")] if path.suffix == ".xml" else []


def _fill(data: bytes, place: tuple[int, int], others: Iterable[Path]) -> bytes:
    return data[: place[0]] + _digest(data, place, others) + data[place[1] :]


def _digest(data: bytes | mmap.mmap, place: tuple[int, int], others: Iterable[Path]) -> bytes:
    digest = hashlib.blake2b(digest_size=SIZE)
    with memoryview(data) as view, view[: place[0]] as before, view[place[1] :] as after:
        digest.update(before)
        digest.update(after)
    for path in others:
        with path.open("rb") as file:
            while piece := file.read(1 << 20):
                digest.update(piece)
    return f"{CHECKSUM_KEY}:{digest.hexdigest()}".encode()
