"""Walk through folders of images: which files are images, and what is left out."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from otx.data.paths import Paths
from otx.errors import DataError
from otx.workspace import is_own

IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".heic", ".heif", ".hif", ".avif", ".jfif",
    ".jpe", ".jp2", ".j2k", ".jpx", ".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".mpo", ".dib", ".dcm", ".dicom",
)  # fmt: skip
# camera raw formats, which otx does not decode
RAW_SUFFIXES = (
    ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2", ".pef", ".srw", ".raw",
)  # fmt: skip
# files that are not images: the scan need not open them to find out
OTHER_SUFFIXES = {
    ".txt", ".xml", ".json", ".csv", ".tsv", ".md", ".html", ".pdf", ".yaml", ".yml", ".py", ".zip", ".mat", ".npy",
    ".npz", ".mp4", ".mov", ".avi", ".aae", ".db", ".ini", ".svg", ".psd", ".doc", ".docx", ".xls", ".xlsx", ".pth",
    ".safetensors",
}  # fmt: skip
SIGNATURES = (
    b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"P5\n", b"P6\n",
    b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51",
)  # fmt: skip
HEADER = 132
# files and folders that operating systems and programs put beside photos, in lower case
SYSTEM_NAMES = {
    "__macosx", "@eadir", "$recycle.bin", "lost+found", "system volume information", "#recycle", "__pycache__",
    "thumbs.db", "desktop.ini", "ehthumbs.db",
}  # fmt: skip
NAMED_AT_MOST = 10


@dataclass
class LeftOut:
    """How many files were left out, by reason.

    Attributes:
        system: folders and files of the system, such as `__MACOSX/`; a folder counts once.
        own: folders that otx wrote.
        other: number of files that are not images, by suffix.
        raw: number of photos in a camera's raw format, by suffix.
        loose: images beside the class folders.
    """

    hidden: int = 0
    system: int = 0
    own: list[str] = field(default_factory=list)
    other: Counter[str] = field(default_factory=Counter)
    raw: Counter[str] = field(default_factory=Counter)
    loose: int = 0

    def add_file(self, name: str) -> None:
        """Count a file that otx cannot read as an image."""
        suffix = os.path.splitext(name)[1].lower()  # noqa: PTH122 - hot
        (self.raw if suffix in RAW_SUFFIXES else self.other)[suffix] += 1

    def notes(self) -> list[str]:
        """A sentence for each kind of file that was left out."""
        kinds = (
            (self.hidden, "hidden"),
            (self.system, "of the system, such as __MACOSX or Thumbs.db"),
            (self.other.total(), f"of another kind than images ({_suffixes(self.other)})"),
            (self.raw.total(), f"in a camera's raw format ({_suffixes(self.raw)}): convert them to JPEG or TIFF"),
            (self.loose, "beside the class folders, in none of them"),
        )
        counted = [f"Left out: {count} file{'s' if count > 1 else ''} {kind}." for count, kind in kinds if count]
        return [*counted, *([f"Left out, since otx wrote it: {shorten(self.own)}."] if self.own else [])]


def _suffixes(counts: Counter[str]) -> str:
    return shorten(f"{count} {suffix or 'without a suffix'}" for suffix, count in counts.most_common())


FindImages = Callable[[str, str, LeftOut], list[str]]


def class_folders(root: Path, split: str, left_out: LeftOut, find: FindImages) -> dict[str, Paths]:
    """The images of each class folder, classes sorted as `torchvision.datasets.ImageFolder` sorts them.

    Args:
        split: the folder of a split, relative to the root; empty if the class folders lie in the root itself.
        find: `all_images` or `first_image`.
    """
    place = root / split if split else root
    classes: dict[str, Paths] = {}
    for entry in sorted(entries(place), key=lambda entry: entry.name):
        if is_left_out(entry, left_out):
            continue
        if entry.is_dir():
            _check_name(place, entry.name)
            prefix = f"{split}/{entry.name}" if split else entry.name
            classes[entry.name] = Paths(find(entry.path, prefix, left_out))
        elif is_image(entry.name):
            left_out.loose += 1
        else:
            left_out.add_file(entry.name)
    return classes


def is_left_out(entry: os.DirEntry[str], left_out: LeftOut) -> bool:
    """Whether an entry is hidden, a system file, or a folder that otx wrote; counts it if so."""
    if entry.name[0] == ".":
        left_out.hidden += 1
    elif entry.name.lower() in SYSTEM_NAMES:
        left_out.system += 1
    elif entry.is_dir() and is_own(Path(entry.path)):
        left_out.own.append(f"{entry.name}/")
    else:
        return False
    return True


def look(folder: Path) -> tuple[list[str], int]:
    """The names of the folders in a folder that may hold photos, and the number of images beside them."""
    left_out = LeftOut()
    shown = [entry for entry in entries(folder) if not is_left_out(entry, left_out)]
    folders = [entry.name for entry in shown if entry.is_dir()]
    return folders, sum(is_image(entry.name) and not entry.is_dir() for entry in shown)


def folders_alone(folder: Path) -> set[str]:
    """The names of the sub-folders, or nothing if there are images beside them. Stops at the first image."""
    names, left_out = set(), LeftOut()
    for entry in lazily(folder):
        if is_left_out(entry, left_out):
            continue
        if entry.is_dir():
            names.add(entry.name)
        elif is_image(entry.name):
            return set()
    return names


def _check_name(place: Path, name: str) -> None:
    """Raise DataError if the name of a class is not valid UTF-8."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(
            f"the name of the class folder {os.fsencode(name)!r} in {place} is no UTF-8", fix="rename it"
        ) from error


def all_images(folder: str, prefix: str, left_out: LeftOut) -> list[str]:
    return sorted(_images(folder, prefix, left_out, {os.path.realpath(folder)}))


def first_image(folder: str, prefix: str, left_out: LeftOut) -> list[str]:
    """A list of the first image found, if any; sub-folders are searched last."""
    waiting, visited = [(folder, prefix)], {os.path.realpath(folder)}
    while waiting:
        place, name = waiting.pop()
        for entry in lazily(place):
            if is_left_out(entry, left_out):
                continue
            if is_image(entry.name) and (entry.is_file() or not entry.is_dir()):
                return [f"{name}/{entry.name}"]
            real = os.path.realpath(entry.path) if entry.is_dir() else ""
            if real and real not in visited:
                visited.add(real)
                waiting.append((entry.path, f"{name}/{entry.name}"))
    return []


def _images(folder: str, prefix: str, left_out: LeftOut, visited: set[str]) -> list[str]:
    there = entries(Path(folder))
    # calling is_left_out for each of a million files would take a tenth of the time
    shown = [entry for entry in there if entry.name[0] != "."]
    left_out.hidden += len(there) - len(shown)
    images = [
        f"{prefix}/{name}"
        for entry in shown
        if ((name := entry.name).endswith(IMAGE_SUFFIXES) or is_image(name)) and entry.is_file()
    ]
    if len(images) == len(shown):
        return images
    for entry in shown:
        if entry.name.lower() in SYSTEM_NAMES:
            left_out.system += 1
        elif entry.is_dir():
            if is_own(Path(entry.path)):
                left_out.own.append(f"{prefix}/{entry.name}/")
                continue
            # following a link back to an outer folder would never end
            real = os.path.realpath(entry.path)
            if real not in visited:
                images += _images(entry.path, f"{prefix}/{entry.name}", left_out, visited | {real})
        elif is_image(entry.name) and entry.is_symlink() and not entry.is_file():
            # keep a dangling link: decoding reports it
            images.append(f"{prefix}/{entry.name}")
        elif not (is_image(entry.name) and entry.is_file()):
            if entry.is_file() and looks_like_image(entry):
                images.append(f"{prefix}/{entry.name}")
            else:
                left_out.add_file(entry.name)
    return images


def is_image(name: str) -> bool:
    return name.lower().endswith(IMAGE_SUFFIXES)


def looks_like_image(entry: os.DirEntry[str]) -> bool:
    """Whether a file without an image suffix starts like an image; files of known other kinds are not opened."""
    suffix = os.path.splitext(entry.name)[1].lower()  # noqa: PTH122 - hot
    if suffix in OTHER_SUFFIXES or suffix in RAW_SUFFIXES:
        return False
    try:
        with open(entry.path, "rb") as file:  # noqa: PTH123 - hot
            start = file.read(HEADER)
    except OSError:
        return False
    is_webp = start[:4] == b"RIFF" and start[8:12] == b"WEBP"
    is_heif = start[4:8] == b"ftyp" and start[8:12] in (b"heic", b"heix", b"mif1", b"avif")
    return is_webp or is_heif or start.endswith(b"DICM") or start.startswith(SIGNATURES)


def entries(folder: Path) -> list[os.DirEntry[str]]:
    return list(lazily(folder))


def lazily(folder: str | Path) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            yield from entries
    except OSError as error:
        raise DataError(f"{folder} cannot be read: {error.strerror}") from error


def images_in_words(count: int) -> str:
    return "1 image" if count == 1 else f"{count} images"


def shorten(names: Iterable[str]) -> str:
    """The first names of a list, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - NAMED_AT_MOST} more" if len(names) > NAMED_AT_MOST else ""
    return ", ".join(names[:NAMED_AT_MOST]) + more
