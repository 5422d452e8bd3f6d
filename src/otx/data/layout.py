"""Recognise how a folder of images is laid out: split folders, class folders, or folders around them."""

from __future__ import annotations

import os
import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from otx.data.archive import is_archive
from otx.data.folder import (
    FindImages,
    LeftOut,
    all_images,
    class_folders,
    first_image,
    folders_alone,
    images_in_words,
    lazily,
    look,
    shorten,
)
from otx.data.paths import Paths
from otx.data.split_names import FILLERS, split_of, splits_among
from otx.data.table import Images, Table, find_table, is_table, join_tables, read_table
from otx.errors import DataError

MIN_SHARE = 0.9
NO_LABELS = {"unknown", "unlabeled", "unlabelled", "all", "none"}


@dataclass(frozen=True)
class Folder:
    """The images found: for each of `train`, `val`, `test` (or `all`), those of each class, relative to the root.

    Attributes:
        root: the folder that was given, or one below it.
        folder_names: the folder of each split, relative to the root.
        notes: sentences on how the folder was understood, if that is not obvious.
        table: the name of the table that the classes come from, if they do not come from folders.
        unlabelled: the images to which the table gives no label.
    """

    root: Path
    splits: dict[str, dict[str, Paths]]
    folder_names: dict[str, str] = field(default_factory=dict)
    left_out: LeftOut = field(default_factory=LeftOut)
    notes: tuple[str, ...] = ()
    table: str = ""
    unlabelled: Sequence[str] = ()

    @property
    def layout(self) -> str:
        """How the folder is laid out, in words."""
        if self.table:
            return f"table {self.table}"
        return "/".join(self.splits) if "train" in self.splits else "class folders"

    def all_notes(self) -> list[str]:
        """The notes, and what was left out."""
        return [*self.notes, *self.left_out.notes()]


def scan(root: Path) -> Folder:
    """Find the images of a folder.

    Raises:
        DataError: it is not a folder, cannot be read, holds no class folders, or is ambiguous.
    """
    return _scan(root, all_images)


def glimpse(root: Path) -> Folder:
    """`scan` for only one image in each class folder: enough to check the layout, and fast even with a million files.

    Raises:
        DataError: as for `scan`.
    """
    return _scan(root, first_image)


def go_down(root: Path) -> Path:
    """The folder that holds the class or split folders: `photos/dataset/images` if each holds nothing but the next.

    The root itself, unless at least two folders, or a split folder, are found below it.
    """
    place, visited = root, {os.path.realpath(root)}
    while True:
        folders, images = look(place)
        if len(folders) != 1 or images:
            return place if len(folders) > 1 else root
        if split_of(folders[0]) is not None and look(place / folders[0])[0]:
            return place
        place = place / folders[0]
        if os.path.realpath(place) in visited:
            return root
        visited.add(os.path.realpath(place))


def _check_exists(given: Path) -> None:
    fix = "--data_root takes a folder with one sub-folder for each class"
    if not given.exists():
        raise DataError(f"there is no folder {given}", fix=fix)
    if not given.is_dir():
        raise DataError(f"{given} is a file, not a folder", fix=fix)


def scan_known(root: Path) -> Folder:
    """`scan` for a folder whose split comes from a file. If the layout is not recognised, all images are listed.

    Raises:
        DataError: it is not a folder, or holds no image.
    """
    try:
        return scan(root)
    except DataError:
        images = Images(root).paths if root.is_dir() else []
        if not images:
            raise
        return Folder(root, {"all": {"": Paths(images)}})


def _scan(given: Path, find: FindImages) -> Folder:
    if given.is_file() and is_table(given):
        return _of_table(read_table(given))
    _check_exists(given)
    table = find_table(given) or _table_of_splits(given)
    if table is not None and (table.is_journal or not table.agrees_with_folders()):
        _refuse_if_folders_may_be_meant(table)
        return _of_table(table)
    return scan_folders(given, find)


def scan_folders(given: Path, find: FindImages = all_images) -> Folder:
    """`scan` without regard to tables of labels.

    Raises:
        DataError: it cannot be read, holds no class folders, or is ambiguous.
    """
    root = go_down(given)
    notes = [] if root == given else [f"{given} holds one folder and nothing beside it: its images are in {root}."]
    folders = _check_sub_folders(root)
    names = _split_folders(root, folders)
    left_out = LeftOut()
    if not names:
        _refuse_splits(root, folders)
        classes = class_folders(root, "", left_out, find)
        return Folder(root, {"all": classes}, {}, left_out, tuple(notes))
    notes += _beside(root, folders)
    splits: dict[str, dict[str, Paths]] = {}
    for split, name in list(names.items()):
        found = class_folders(root, name, left_out, find)
        if split == "train" or _has_labels(found, splits.get("train", found)):
            splits[split] = found
        else:
            notes += _unlabelled(root, names.pop(split))
            left_out.loose = 0
    return Folder(root, splits, names, left_out, tuple(notes))


def _of_table(table: Table) -> Folder:
    names = {split: split for split in table.splits if split != "all"}
    return Folder(table.path.parent, table.splits, names, LeftOut(), table.notes, table.path.name, table.unlabelled)


def _refuse_if_folders_may_be_meant(table: Table) -> None:
    """Raise DataError if class folders lie beside a table that lists less than MIN_SHARE of the images."""
    root = table.path.parent
    there = look(root)[0]
    folders = [folder for folder in set(there) - set(splits_among(there)) if look(root / folder)[1]]
    if len(folders) > 1 and table.share < MIN_SHARE and not table.is_journal:
        raise DataError(
            f"{root} has class folders ({shorten(sorted(folders))}) and {table.path.name}, which gives "
            f"{table.share:.0%} of the images other classes",
            fix=f"--data_root {table.path} takes them from the table; to take them from the folders, move it away",
        )


def _table_of_splits(root: Path) -> Table | None:
    """The tables inside the split folders, joined: exports of Roboflow and Hugging Face have one in each."""
    found = {}
    for folder, split in splits_among(look(root)[0]).items():
        if (table := find_table(root / folder)) is not None:
            found[split] = table.below(folder)
    if "train" not in found or any(set(table.splits) != {"all"} for table in found.values()):
        return None
    return join_tables(root, found)


def _check_sub_folders(root: Path) -> list[str]:
    folders, images = look(root)
    if not folders and not images:
        archives = [Path(entry.path) for entry in lazily(root) if is_archive(Path(entry.path))]
        if archives:
            names = shorten(path.name for path in archives)
            raise DataError(f"{root} holds no images, but {names}", fix=f"give the archive: --data_root {archives[0]}")
        raise DataError(f"{root} is empty, or holds no images", fix="put one folder of images for each class into it")
    if not folders:
        raise DataError(
            f"{root} holds {images} images but no class folders",
            fix=f"sort them: {root}/CLASS_A/..., {root}/CLASS_B/..., or name groups of them on a page: "
            f"{shlex.join(['otx', 'label', str(root)])}",
        )
    return folders


def _split_folders(root: Path, folders: Collection[str]) -> dict[str, str]:
    """The folder of each split, relative to the root; empty for plain class folders."""
    named = splits_among(folders)
    filled = {folder: split for folder, split in named.items() if look(root / folder)[0]}
    if len(named) == len(folders) > 1 and not filled:
        raise DataError(
            f"{shorten(named)} in {root} hold no class folders",
            fix=f"sort the images: {root / min(named, key=lambda name: named[name] != 'train')}/CLASS_A/..., or add a "
            "table of labels",
        )
    names: dict[str, str] = {}
    for folder, split in filled.items():
        if split in names:
            raise DataError(
                f"{root} has both {names[split]}/ and {folder}/, which mean the same", fix="keep one of them"
            )
        names[split] = folder
    if "train" not in names:
        if names and len(filled) == len(folders):
            found = ", ".join(f"{name}/" for name in names.values())
            raise DataError(
                f"{root} has {found} but no train/", fix=f"name the folder of the training images {root}/train"
            )
        return {}
    _refuse_a_class_called_train(root, names, [folder for folder in folders if folder not in named])
    for folder, split in named.items():
        names.setdefault(split, folder)  # photos without class folders
    return {split: _inner(root, names[split]) for split in ("train", "val", "test") if split in names}


def _refuse_a_class_called_train(root: Path, names: Mapping[str, str], others: Sequence[str]) -> None:
    """Raise DataError if `train/` may be one of the classes: the only split, beside folders of photos."""
    photos = [folder for folder in others if look(root / folder)[1]] if len(names) == 1 else []
    if photos:
        raise DataError(
            f"{root} has {names['train']}/, which looks like the training images, beside {shorten(photos)}, which look "
            "like classes",
            fix=f"rename {names['train']}/ if it is a class; if not, move the other folders away",
        )


def _inner(root: Path, name: str) -> str:
    """The folder of a split that holds its classes: `seg_train/seg_train` or `train/images`, relative to the root."""
    while True:
        folders, images = look(root / name)
        if len(folders) != 1 or images:
            return name
        inner = folders[0]
        if not (split_of(inner) or inner.lower() in FILLERS or inner == name.rpartition("/")[2]):
            return name
        name = f"{name}/{folders[0]}"


def _beside(root: Path, folders: Collection[str]) -> list[str]:
    """A note on the folders beside the split folders."""
    others = sorted(f"{folder}/" for folder in set(folders) - set(splits_among(folders)))
    return [f"Left out, since it is beside the split folders: {shorten(others)}."] if others else []


def _has_labels(found: Mapping[str, Paths], train: Collection[str]) -> bool:
    """Whether a split has class folders; one such as `unknown/` does not count, unless train has it too."""
    return any(name in train or name.lower() not in NO_LABELS for name in found)


def _unlabelled(root: Path, name: str) -> list[str]:
    """A note on images without labels, as in data sets of competitions."""
    folder = root / name
    count = len(all_images(str(folder), name, LeftOut()))
    without = f"{name}/ holds {images_in_words(count)} and no class folders: left out, since there are no labels."
    return [f"{without} `{shlex.join(['otx', 'predict', str(folder)])}` classifies them."] if count else []


def _refuse_splits(root: Path, folders: Sequence[str]) -> None:
    """Raise DataError if all class folders hold the same sub-folders and no images: they are probably splits."""
    inside = {folder: folders_alone(root / folder) for folder in folders}
    for folder, inner in inside.items():
        if "train" in splits_among(inner).values() and len(inner) > 1 and len(folders) > 1:
            others = sorted(set(folders) - {folder})
            raise DataError(
                f"{root / folder} holds split folders ({shorten(sorted(inner))}), so it is not a class, but "
                f"{shorten(others)} beside it may be one",
                fix=f"--data_root {shlex.quote(str(root / folder))}",
            )
    first = inside[folders[0]]
    if len(folders) < 2 or len(first) < 2 or any(inner != first for inner in inside.values()):
        return
    raise DataError(
        f"{shorten(sorted(folders))} in {root} all hold the same folders and no images ({shorten(sorted(first))}): "
        "they look like splits, not like classes",
        fix=f"call them {root}/train, {root}/val and {root}/test, or give one of them: --data_root {root / folders[0]}",
    )


def scan_for_test(root: Path) -> Folder:
    """`scan`, for a folder that may have `test/` or `val/` without `train/`."""
    _check_exists(root)
    root = go_down(root)
    folders, _ = look(root)
    named = {split: folder for folder, split in splits_among(folders).items() if look(root / folder)[0]}
    for name in (named[split] for split in ("test", "val") if split in named and "train" not in named):
        inner = scan(root / name)
        if "all" in inner.splits:
            prefix = inner.root.relative_to(root).as_posix()
            found = {
                label: Paths([f"{prefix}/{path}" for path in items]) for label, items in inner.splits["all"].items()
            }
            return Folder(root, {"test": found}, {"test": name}, inner.left_out, inner.notes)
    return scan(root)
