"""Scan a folder of images for its layout, classes and files."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from otx.data.paths import Paths
from otx.errors import DataError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif")
SPLIT_NAMES = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
NAMED_AT_MOST = 10


@dataclass
class LeftOut:
    """How many files were left out, by reason."""

    hidden: int = 0
    other: int = 0
    loose: int = 0

    def notes(self) -> list[str]:
        """A sentence for each kind of file that was left out."""
        kinds = (
            (self.hidden, "hidden"),
            (self.other, "of another kind than images"),
            (self.loose, "beside the class folders, in none of them"),
        )
        return [f"Left out: {count} file{'s' if count > 1 else ''} {kind}." for count, kind in kinds if count]


@dataclass(frozen=True)
class Folder:
    """The images of each class in `train`, `val`, `test` (or `all`), relative to the root."""

    root: Path
    splits: dict[str, dict[str, Paths]]
    folder_names: dict[str, str] = field(default_factory=dict)
    left_out: LeftOut = field(default_factory=LeftOut)


FindImages = Callable[[str, str, LeftOut], list[str]]


def scan(root: Path) -> Folder:
    """Find the images of a folder.

    Raises:
        DataError: it is not a folder, cannot be read, or holds no class folders.
    """
    return _scan(root, _all_images)


def glimpse(root: Path) -> Folder:
    """`scan` for one image of each class: enough to check a layout, without listing a million files.

    Raises:
        DataError: as for `scan`.
    """
    return _scan(root, _first_image)


def _scan(root: Path, find: FindImages) -> Folder:
    if not root.exists():
        raise DataError(
            f"there is no folder {root}", fix="--data_root takes a folder with one sub-folder for each class"
        )
    if not root.is_dir():
        raise DataError(
            f"{root} is a file, not a folder", fix="--data_root takes a folder with one sub-folder for each class"
        )
    left_out = LeftOut()
    folders = _sub_folders(root, left_out)
    names = _split_folders(root, folders)
    if names is None:
        return Folder(root, {"all": _classes(root, "", left_out, find)}, {}, left_out)
    left_out.other = left_out.loose = 0
    splits = {split: _classes(root, name, left_out, find) for split, name in names.items()}
    return Folder(root, splits, names, left_out)


def _sub_folders(root: Path, left_out: LeftOut) -> list[str]:
    folders, images = [], 0
    for entry in _entries(root):
        if not entry.name.startswith(".") and entry.is_dir():
            folders.append(entry.name)
        elif _is_image(entry.name):
            images += 1
    if not folders and not images:
        raise DataError(f"{root} is empty", fix="put one folder of images for each class into it")
    if not folders:
        raise DataError(
            f"{root} holds {images} images but no class folders",
            fix=f"sort them: {root}/CLASS_A/..., {root}/CLASS_B/...",
        )
    return folders


def _split_folders(root: Path, folders: Iterable[str]) -> dict[str, str] | None:
    """The name of each split's folder; None if the root holds plain class folders."""
    names: dict[str, str] = {}
    for folder in sorted(folders):
        split = SPLIT_NAMES.get(folder.lower())
        if split is None:
            continue
        if split in names:
            raise DataError(
                f"{root} has both {names[split]}/ and {folder}/, which mean the same", fix="keep one of them"
            )
        names[split] = folder
    others = [folder for folder in folders if folder.lower() not in SPLIT_NAMES]
    if "train" in names and _has_sub_folder(root / names["train"]):
        return {split: names[split] for split in ("train", "val", "test") if split in names}
    if names and not others and all(_has_sub_folder(root / name) for name in names.values()):
        found = ", ".join(f"{name}/" for name in names.values())
        raise DataError(f"{root} has {found} but no train/", fix=f"name the folder of the training images {root}/train")
    return None


def _has_sub_folder(folder: Path) -> bool:
    return any(not entry.name.startswith(".") and entry.is_dir() for entry in _entries(folder))


def _classes(root: Path, split: str, left_out: LeftOut, find: FindImages) -> dict[str, Paths]:
    """The images of each class folder, classes sorted as `torchvision.datasets.ImageFolder` sorts them."""
    place = root / split if split else root
    classes: dict[str, Paths] = {}
    for entry in sorted(_entries(place), key=lambda entry: entry.name):
        if entry.name.startswith("."):
            left_out.hidden += 1
        elif entry.is_dir():
            _check_name(place, entry.name)
            prefix = f"{split}/{entry.name}" if split else entry.name
            classes[entry.name] = Paths(find(entry.path, prefix, left_out))
        elif _is_image(entry.name):
            left_out.loose += 1
        else:
            left_out.other += 1
    return classes


def _check_name(place: Path, name: str) -> None:
    """Raise DataError if the name of a class is not valid UTF-8."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(
            f"the name of the class folder {os.fsencode(name)!r} in {place} is no UTF-8", fix="rename it"
        ) from error


def _all_images(folder: str, prefix: str, left_out: LeftOut) -> list[str]:
    return sorted(_images(folder, prefix, left_out, {os.path.realpath(folder)}))


def _first_image(folder: str, prefix: str, left_out: LeftOut) -> list[str]:
    """A list of the first image found, if any; sub-folders are searched last."""
    waiting, visited = [(folder, prefix)], {os.path.realpath(folder)}
    while waiting:
        place, name = waiting.pop()
        for entry in _iterate_entries(place):
            if entry.name.startswith("."):
                continue
            if _is_image(entry.name) and (entry.is_file() or not entry.is_dir()):
                return [f"{name}/{entry.name}"]
            real = os.path.realpath(entry.path) if entry.is_dir() else ""
            if real and real not in visited:
                visited.add(real)
                waiting.append((entry.path, f"{name}/{entry.name}"))
    return []


def _images(folder: str, prefix: str, left_out: LeftOut, visited: set[str]) -> list[str]:
    entries = _entries(Path(folder))
    shown = [entry for entry in entries if entry.name[0] != "."]
    left_out.hidden += len(entries) - len(shown)
    # calling _is_image for each of a million files would take a tenth of the time
    images = [
        f"{prefix}/{name}"
        for entry in shown
        if ((name := entry.name).endswith(IMAGE_SUFFIXES) or _is_image(name)) and entry.is_file()
    ]
    if len(images) == len(shown):
        return images
    for entry in shown:
        if entry.is_dir():
            # following a link to a parent folder would never end
            real = os.path.realpath(entry.path)
            if real not in visited:
                images += _images(entry.path, f"{prefix}/{entry.name}", left_out, visited | {real})
        elif _is_image(entry.name) and entry.is_symlink() and not entry.is_file():
            # a broken link is kept: decoding reports it
            images.append(f"{prefix}/{entry.name}")
        elif not (_is_image(entry.name) and entry.is_file()):
            left_out.other += 1
    return images


def _is_image(name: str) -> bool:
    return name.lower().endswith(IMAGE_SUFFIXES)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    return list(_iterate_entries(folder))


def _iterate_entries(folder: str | Path) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            yield from entries
    except OSError as error:
        raise DataError(f"{folder} cannot be read: {error.strerror}") from error


def shorten(names: Iterable[str]) -> str:
    """The first names of a list, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - NAMED_AT_MOST} more" if len(names) > NAMED_AT_MOST else ""
    return ", ".join(names[:NAMED_AT_MOST]) + more
