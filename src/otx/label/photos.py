"""The photos of a folder, whatever their order: a pile, a partly sorted one, or a finished data set."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from otx.data.journal import JOURNAL, Row, is_journal, read_journal
from otx.data.layout import NO_LABELS, Folder, scan, scan_folders
from otx.data.table import Images
from otx.errors import DataError

# folders that cameras and people make, which are no classes: 2024-05-01, 100CANON, DCIM, inbox
NO_CLASSES = re.compile(
    r"(19|20)\d\d([-_. ]?\d\d.*)?|\d{3}[A-Z_]{2,}.*|dcim|camera( roll)?|inbox|new|unsorted|to ?sort|photos|images|imgs",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class FolderLabels:
    """The labels that the layout of a folder gives, by path; none if it is a pile.

    `prefix` is the folder of the data set, empty or ending in `/`; `split_folders` the folder of each split in it.
    """

    rows: dict[str, Row]
    words: str = "a pile"
    prefix: str = ""
    split_folders: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Photos:
    """The photos of a folder by path relative to it, sorted, and what is known of each.

    `rows` has one for each photo that has a label or about which a person decided something, also of those that are
    elsewhere now. `layout` says in words where the labels come from.
    """

    root: Path
    paths: tuple[str, ...]
    rows: dict[str, Row]
    layout: str
    folders: FolderLabels


def find_photos(root: Path) -> Photos:
    """The photos of a folder and its sub-folders, with the labels of the journal, of a table or of class folders.

    Raises:
        DataError: it is not a folder, or holds no photo.
    """
    check_is_folder(root)
    paths = tuple(Images(root).paths)
    if not paths:
        raise DataError(f"{root} holds no photos", fix="otx label FOLDER takes a folder of photos")
    folders, journal = _labels_of_folder(root, set(paths), scan_folders), root / JOURNAL
    if is_journal(journal):
        return Photos(root, paths, folders.rows | read_journal(journal), JOURNAL, folders)
    labelled = _labels_of_folder(root, set(paths), scan)
    return Photos(root, paths, dict(labelled.rows), labelled.words, folders)


def check_is_folder(root: Path) -> None:
    """Raise DataError if it is none."""
    if not root.is_dir():
        raise DataError(f"there is no folder {root}", fix="otx label FOLDER takes a folder of photos")


def _labels_of_folder(root: Path, paths: set[str], find: Callable[[Path], Folder]) -> FolderLabels:
    try:
        folder = find(root)
    except DataError:
        return FolderLabels({})
    below = folder.root.relative_to(root).as_posix()
    prefix = "" if below == "." else f"{below}/"
    rows = {
        f"{prefix}{path}": Row(name, "" if split == "all" else split)
        for split, classes in folder.splits.items()
        for name, images in classes.items()
        if _may_be_class(name)
        for path in images
    }
    rows = {path: row for path, row in rows.items() if path in paths}
    return FolderLabels(rows, folder.layout, prefix, folder.folder_names) if rows else FolderLabels({})


def _may_be_class(name: str) -> bool:
    return name.lower() not in NO_LABELS and not NO_CLASSES.fullmatch(name)
