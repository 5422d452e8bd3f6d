"""An archive of images as a data root: unpacked once into the cache, without trusting its file names and sizes."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from otx.errors import DataError, StorageError, first_line
from otx.files import staged_folder, take_place
from otx.places import cache_folder

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
SPARE = 1 << 30
CHUNK = 1 << 20
Member = tuple[str, IO[bytes]]


def is_archive(path: Path) -> bool:
    """Whether a file is an archive, by its name."""
    return path.name.lower().endswith(SUFFIXES) and path.is_file()


def unpacked(path: Path) -> Path:
    """The folder in the cache that an archive is unpacked to; the same one until the archive changes."""
    state = path.stat()
    told = f"{path.resolve()} {state.st_size} {state.st_mtime_ns}".encode("utf-8", "surrogateescape")
    return cache_folder() / "archives" / f"{path.name}-{hashlib.sha256(told).hexdigest()[:12]}"


def unpack(path: Path) -> Path:
    """Unpack an archive, unless that was done before.

    Links, devices and the like are not unpacked.

    Returns:
        The folder with its files.

    Raises:
        DataError: it is damaged, or a file in it would be written outside of its folder.
        StorageError: the disk has no room for it.
    """
    folder = unpacked(path)
    if folder.is_dir():
        return folder
    with staged_folder(folder.parent, f"{path.name} to {folder}", fix="set OTX_CACHE to a folder of yours") as staging:
        room = shutil.disk_usage(staging).free - SPARE
        for name, file in _members(path):
            room -= _copy(file, staging / _checked(path, name), room, path)
        if not folder.is_dir():  # another process may have been faster
            take_place(staging, folder)
    return folder


def _members(path: Path) -> Iterator[Member]:
    """The ordinary files of an archive: name and content."""
    with _errors_in_words(path):
        yield from _members_of_zip(path) if path.name.lower().endswith(".zip") else _members_of_tar(path)


def _members_of_zip(path: Path) -> Iterator[Member]:
    with zipfile.ZipFile(path) as archive:
        for item in archive.infolist():
            # the upper 16 bits are the Unix mode: 0x8000 is a regular file, 0 means not given
            if not item.is_dir() and (item.external_attr >> 16) & 0xF000 in (0, 0x8000):
                with archive.open(item) as file:
                    yield item.filename, file


def _members_of_tar(path: Path) -> Iterator[Member]:
    with tarfile.open(path) as archive:
        for member in archive:
            if member.isfile() and (content := archive.extractfile(member)) is not None:
                yield member.name, content
        _check_end(archive)


def _check_end(archive: tarfile.TarFile) -> None:
    """Raise an error if a tar archive that was read stops at a damaged header, or if its compressed data are damaged.

    tarfile takes such a header for the end, and reads no further than the end: checksums of compressed data lie behind.
    """
    rest = archive.fileobj
    assert rest is not None
    rest.seek(archive.offset)
    if any(rest.read(tarfile.BLOCKSIZE)):
        raise tarfile.ReadError("a header in it is damaged")
    while rest.read(CHUNK):
        pass


@contextlib.contextmanager
def _errors_in_words(path: Path) -> Iterator[None]:
    """Turn any error of reading an archive into a DataError."""
    try:
        yield
    except (NotImplementedError, RuntimeError) as error:  # it is encrypted, or packed in a way that Python cannot read
        raise DataError(
            f"{path} cannot be unpacked: {first_line(error)}", fix="unpack it, and give the folder"
        ) from error
    except Exception as error:  # a damaged file can make a reader raise anything
        if isinstance(error, OSError) and error.strerror:
            raise DataError(f"{path} cannot be read: {error.strerror}") from error
        raise DataError(
            f"{path} is damaged, or no archive: {first_line(error).rstrip(':')}", fix="copy or download it again"
        ) from error


def _checked(path: Path, name: str) -> PurePosixPath:
    """The relative path of a member.

    Raises:
        DataError: it leads out of the folder.
    """
    place = PurePosixPath(name.replace("\\", "/"))
    if not place.parts or place.is_absolute() or ".." in place.parts or ":" in place.parts[0]:
        raise DataError(
            f"{path} holds a file that would be written outside of its folder: {name}", fix="unpack it yourself"
        )
    return place


def _copy(file: IO[bytes], place: Path, room: int, path: Path) -> int:
    """Write a file and return its size, counted here: the archive may state a wrong one.

    Raises:
        StorageError: the file is larger than `room`.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    size = 0
    with place.open("wb") as target:
        while chunk := _read(file, path):
            size += len(chunk)
            if size > room:
                raise StorageError(
                    f"there is no room to unpack {path}", fix="make room, or set OTX_CACHE to another disk"
                )
            target.write(chunk)
    return size


def _read(file: IO[bytes], path: Path) -> bytes:
    with _errors_in_words(path):
        return file.read(CHUNK)
