"""Write files atomically (to a temporary file, then renamed), and check in advance what can be written where."""

from __future__ import annotations

import contextlib
import csv
import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from otx.errors import OtxError, StorageError, UsageError

STAGING = ".writing."
TABLES = (".csv", ".json")
MACHINE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ENOENT)
NO_ROOM = "make room on the disk; nothing that was written before is lost"


@contextlib.contextmanager
def atomic(path: Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a temporary file for writing; it replaces `path` only when it is complete and on the disk.

    Raises:
        UsageError: the file cannot be written; what was there before is untouched.
        StorageError: the same, because the disk is full or the folder was removed.
    """
    # file names that are not valid UTF-8 go into CSV files unchanged
    encoding, errors, newline = (None, None, None) if "b" in mode else ("utf-8", "surrogateescape", "")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, beside = tempfile.mkstemp(dir=path.parent, prefix=STAGING)
    except OSError as error:
        raise cannot_write(path, error) from error
    try:
        with os.fdopen(handle, mode, encoding=encoding, errors=errors, newline=newline) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        Path(beside).chmod(0o644)
        Path(beside).replace(path)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        # an error here must not hide the first one
        with contextlib.suppress(OSError):
            Path(beside).unlink()


@contextlib.contextmanager
def staged_folder(parent: Path, what: str, *, prefix: str = STAGING, fix: str = "") -> Iterator[Path]:
    """Make a hidden folder inside another, for files that are then moved to their place; it is removed at the end.

    Args:
        what: what is being written, for the error.

    Raises:
        UsageError: it cannot be written; what was there before is untouched.
        StorageError: the same, because the disk is full or the folder was removed.
    """
    staging = None
    try:
        parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(dir=parent, prefix=prefix))
        yield staging
    except OSError as error:
        raise cannot_write(what, error, fix) from error
    finally:
        if staging is not None:
            shutil.rmtree(staging, ignore_errors=True)


def take_place(staging: Path, folder: Path) -> None:
    """Rename a staged folder to `folder`, which must be missing or empty."""
    staging.chmod(0o755)
    with contextlib.suppress(FileNotFoundError):
        folder.rmdir()  # not every system replaces an empty folder
    staging.replace(folder)


def cannot_write(path: str | Path, error: OSError, fix: str = "") -> OtxError:
    """The error for a file that cannot be written: StorageError if the machine is the cause, else UsageError."""
    what = f"cannot write {path}: {error.strerror or error}"
    if error.errno in MACHINE_ERRORS:
        return StorageError(what, fix=NO_ROOM if error.errno in (errno.ENOSPC, errno.EDQUOT) else "")
    return UsageError(what, fix=fix)


def clear_leftovers(folder: Path) -> None:
    """Remove a killed process's temporary files and folders in a folder; nothing else may be writing there."""
    for path in sorted(folder.rglob(f"{STAGING}*")):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def check_folder(folder: Path, fix: str, *, room: int = 1 << 20, file: Path | None = None) -> None:
    """Raise if nothing can be written to a folder, which need not exist yet; tested by writing there.

    Args:
        room: bytes that must fit.
        file: the file to be written there, if it is only one.

    Raises:
        UsageError: it is not a folder, or not writable.
        StorageError: the disk is full.
    """
    what = f"to {folder}" if file is None else str(file)
    try:
        place = next(place for place in (folder, *folder.absolute().parents) if place.exists())
        if not place.is_dir():
            raise UsageError(f"cannot write {what}: {'it' if place == folder else place} is a file", fix=fix)
        with tempfile.TemporaryFile(dir=place) as trial:
            trial.write(bytes(room))
    except OSError as error:
        if error.errno == errno.ENOENT:
            # the folder exists, but takes no new files, as /proc
            raise UsageError(f"cannot write {what}: nothing can be made in {place}", fix=fix) from error
        raise cannot_write(what, error, fix) from error


def check_output(path: Path, what: str, suffixes: Sequence[str], example: str) -> None:
    """Raise UsageError if `what` (a plural) cannot be written to the file that `--output` names."""
    if path.suffix.lower() not in suffixes:
        raise UsageError(f"--output {path}: {what} are written as {' or '.join(suffixes)}", allowed=suffixes)
    if path.is_dir():
        raise UsageError(f"--output {path} is a folder", fix=f"--output {path / example}")
    check_folder(path.parent, "choose another --output", room=1 << 12, file=path)


def write_text(path: Path, text: str) -> None:
    with atomic(path) as file:
        file.write(text)


def write_json(path: Path, data: Any) -> None:
    write_text(path, json.dumps(data, indent=2, ensure_ascii=False) + "\n")


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    with atomic(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
