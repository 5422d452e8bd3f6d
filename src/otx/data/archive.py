"""An archive of images as a data root: unpacked once into the cache, without trusting its file names and sizes."""

from __future__ import annotations

import hashlib
import shutil
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from otx.errors import DataError, StorageError
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
        try:
            for name, file in _members(path):
                room -= _copy(file, staging / _checked(path, name), room, path)
        except (zipfile.BadZipFile, tarfile.TarError, EOFError, RuntimeError, NotImplementedError, ValueError) as error:
            raise DataError(f"{path} cannot be unpacked: {error}", fix="unpack it, and give the folder") from error
        if not folder.is_dir():  # another process may have been faster
            take_place(staging, folder)
    return folder


def _members(path: Path) -> Iterator[Member]:
    """The ordinary files of an archive: name and content."""
    if path.name.lower().endswith(".zip"):
        with zipfile.ZipFile(path) as archive:
            for item in archive.infolist():
                # the upper 16 bits are the Unix mode: 0x8000 is a regular file, 0 means not given
                if not item.is_dir() and (item.external_attr >> 16) & 0xF000 in (0, 0x8000):
                    with archive.open(item) as file:
                        yield item.filename, file
        return
    with tarfile.open(path) as archive_of_tar:
        for member in archive_of_tar:
            if member.isfile() and (content := archive_of_tar.extractfile(member)) is not None:
                yield member.name, content


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
        while chunk := file.read(CHUNK):
            size += len(chunk)
            if size > room:
                raise StorageError(
                    f"there is no room to unpack {path}", fix="make room, or set OTX_CACHE to another disk"
                )
            target.write(chunk)
    return size
