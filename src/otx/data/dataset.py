"""A data set: the classes, and which image is in which subset."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
from array import array
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from otx.data.folder import Folder, scan, some
from otx.data.paths import Paths
from otx.data.split import split_class
from otx.errors import DataError, nearest
from otx.results import BadImage
from otx.workspace import write_csv

SUBSETS = ("train", "val", "test")
SPLIT_COLUMNS = ("path", "class", "subset")
TEST_IS_VAL = "There are no test images of their own: test is val."
MAX_UNREADABLE = 0.1


@dataclass(frozen=True)
class Subset:
    """Images by their path relative to the data root, and the index of the class of each."""

    paths: Sequence[str]
    labels: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def without(self, bad: Collection[str]) -> Subset:
        kept = [(path, label) for path, label in zip(self.paths, self.labels, strict=True) if path not in bad]
        return _subset(kept)


@dataclass(frozen=True)
class Dataset:
    """Images sorted into subsets. `layout` says how the folder was laid out, `notes` what a person should know."""

    root: Path
    classes: tuple[str, ...]
    layout: str
    train: Subset
    val: Subset
    test: Subset
    notes: tuple[str, ...] = ()

    def with_classes(self, classes: tuple[str, ...]) -> Dataset:
        """The same images, labelled by the places of their classes in another list, which knows all of them."""
        if classes == self.classes:
            return self
        places = [classes.index(name) for name in self.classes]

        def moved(subset: Subset) -> Subset:
            return Subset(subset.paths, tuple(places[label] for label in subset.labels))

        return dataclasses.replace(
            self, classes=classes, train=moved(self.train), val=moved(self.val), test=moved(self.test)
        )

    @property
    def parts(self) -> dict[str, Subset]:
        """The subsets by name; a test that is val is there once, as val."""
        names = SUBSETS[:2] if self.test == self.val else SUBSETS
        return {name: getattr(self, name) for name in names}

    def without(self, bad: Collection[str]) -> Dataset:
        """The same data set without some images, given by their paths."""
        gone = frozenset(bad)
        parts = {name: getattr(self, name).without(gone) for name in SUBSETS}
        return dataclasses.replace(self, **parts)


def load_dataset(
    root: str | Path,
    *,
    seed: int = 0,
    test_share: float = 0.2,
    val_share: float = 0.1,
    split_file: Path | None = None,
    min_classes: int = 2,
) -> Dataset:
    """Recognise the layout of a folder of images and split off what is missing.

    Args:
        root: holds `train/`, `val/` (or `valid/`, `validation/`), `test/` with class folders, or class folders.
        split_file: a CSV file (path, class, subset) that decides instead.
        min_classes: 1 where the classes are added to those of a model.

    Raises:
        DataError: the folder or the split file cannot be used; nothing was started.
    """
    root = Path(root)
    folder = scan(root)
    if split_file is not None:
        return _from_split_file(folder, split_file, min_classes)
    train = folder.splits.get("train", folder.splits.get("all", {}))
    check_classes(folder, train, min_classes)
    classes = tuple(sorted(train))
    parts = {name: (Paths(), array("l")) for name in SUBSETS}
    need_test = "val" not in folder.splits and "test" not in folder.splits
    for label, name in enumerate(classes):
        split = split_class(
            # what has been dealt out need not be held twice
            train.pop(name),
            seed=seed,
            test_share=test_share if need_test else 0.0,
            val_share=0.0 if "val" in folder.splits else val_share,
        )
        own = [(subset, folder.splits.get(subset, {}).get(name, ())) for subset in ("val", "test")]
        for subset, paths in [*zip(SUBSETS, split, strict=True), *own]:
            parts[subset][0].extend(paths)
            parts[subset][1].extend([label] * len(paths))
    notes = folder.left_out.notes()
    if not need_test and "test" not in folder.splits:
        parts["test"] = parts["val"]
        notes.append(TEST_IS_VAL)
    subsets = {name: Subset(paths, tuple(labels)) for name, (paths, labels) in parts.items()}
    notes += _lacking(classes, subsets)
    if not subsets["val"]:
        raise DataError(f"no image of {root} is left to validate on", fix="add images, or raise --data.val_share")
    layout = "/".join(folder.splits) if "train" in folder.splits else "class folders"
    return Dataset(root, classes, layout, subsets["train"], subsets["val"], subsets["test"], tuple(notes))


def _subset(items: Sequence[tuple[str, int]]) -> Subset:
    return Subset(Paths([path for path, _ in items]), tuple(label for _, label in items))


def check_classes(folder: Folder, train: dict[str, Paths], min_classes: int) -> None:
    """Raise DataError where the classes of a folder's splits do not make a data set.

    Args:
        train: those of the images to train on, one of the folder's splits.
    """
    for split, classes in folder.splits.items():
        empty = [name for name, paths in classes.items() if not paths]
        place = folder.root / folder.folder_names.get(split, "")
        if empty:
            raise DataError(
                f"class folders with no image in {place}: {some(empty)}",
                fix="put images into them, or remove the folders",
            )
    if len(train) < min_classes:
        names = some(train) or "none"
        raise DataError(
            f"a classifier needs two classes at least, {folder.root} has {len(train)} ({names})",
            fix="one folder of images for each class",
        )
    for split in ("val", "test"):
        unknown = [name for name in folder.splits.get(split, {}) if name not in train]
        if unknown:
            raise DataError(
                f"{folder.folder_names[split]}/ has classes that {folder.folder_names['train']}/ does not know: "
                f"{some(f'{name}{nearest(name, train)}' for name in unknown)}",
                fix="give them training images, or remove them",
            )
    others = [classes for split, classes in folder.splits.items() if split not in ("train", "all")]
    alone = [name for name in train if others and not any(name in classes for classes in others)]
    if alone:
        where = " nor ".join(f"{folder.folder_names[split]}/" for split in ("val", "test") if split in folder.splits)
        raise DataError(
            f"classes that are in {folder.folder_names['train']}/ but not in {where}: {some(alone)}",
            fix="move some of their images there, or leave the splitting to otx: put all class folders side by side",
        )


def _lacking(classes: tuple[str, ...], subsets: dict[str, Subset]) -> list[str]:
    notes = []
    for name in ("val", "test"):
        present = set(subsets[name].labels)
        missing = [item for label, item in enumerate(classes) if label not in present]
        if missing and len(missing) < len(classes):
            notes.append(f"No {name} image of {some(missing)}: how well that is recognised is not measured there.")
    return notes


def pick_evenly(images: Subset, count: int, seed: int) -> Subset:
    """The images that `pick_numbers` picks."""
    chosen = pick_numbers(images, count, seed)
    return Subset(tuple(images.paths[i] for i in chosen), tuple(images.labels[i] for i in chosen))


def pick_numbers(images: Subset, count: int, seed: int) -> list[int]:
    """The numbers of `count` of the images at random, as many of each class as there are; of a small class all.

    Args:
        seed: the same seed picks the same images.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(images))
    labels = np.asarray(images.labels)[order]
    # the first of each class, then the second of each class, ...
    turn = np.empty(len(order), np.int64)
    for label in np.unique(labels):
        turn[labels == label] = np.arange((labels == label).sum())
    return sorted(order[np.argsort(turn, kind="stable")][:count].tolist())


def write_split(dataset: Dataset, path: Path) -> None:
    """Write which image is in which subset (path, class, subset); test that is val is written once, as val."""
    rows = (
        (item, dataset.classes[label], name)
        for name, subset in dataset.parts.items()
        for item, label in zip(subset.paths, subset.labels, strict=True)
    )
    write_csv(path, SPLIT_COLUMNS, rows)


@contextlib.contextmanager
def _open_split(path: Path) -> Iterator[Any]:
    """A CSV reader behind the header of a split file."""
    try:
        # names of files that are no UTF-8 are read as they were written
        with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = next(reader, None)
            if header is None or tuple(header) != SPLIT_COLUMNS:
                raise DataError(f"{path} must begin with the line {','.join(SPLIT_COLUMNS)}, got {header}")
            yield reader
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"the split file {path} cannot be read: {getattr(error, 'strerror', None) or error}",
            fix=f"--data.split_file takes a CSV file with the columns {', '.join(SPLIT_COLUMNS)}",
        ) from error


def check_split_file(path: Path) -> None:
    """Raise DataError where a split file cannot be read, or does not begin as one."""
    with _open_split(path):
        pass


def read_split(path: Path) -> list[tuple[int, str, str, str]]:
    """The rows of a split file: line, path, class, subset.

    Raises:
        DataError: it cannot be read, or a row is wrong.
    """
    with _open_split(path) as reader:
        rows = [(reader.line_num, row) for row in reader]
    for line, row in rows:
        if len(row) != len(SPLIT_COLUMNS):
            raise DataError(f"{path}, line {line}: {len(SPLIT_COLUMNS)} values expected, got {len(row)}")
        if row[2] not in SUBSETS:
            raise DataError(
                f"{path}, line {line}: unknown subset {row[2]!r}{nearest(row[2], SUBSETS)}", allowed=SUBSETS
            )
    return [(line, row[0], row[1], row[2]) for line, row in rows]


def _from_split_file(folder: Folder, split_file: Path, min_classes: int) -> Dataset:
    rows = read_split(split_file)
    known = {path for classes in folder.splits.values() for paths in classes.values() for path in paths}
    for line, path, _, _ in rows:
        if path not in known:
            raise DataError(
                f"{split_file}, line {line}: {folder.root} has no image {path!r}",
                fix="give the --data_root it was made for",
            )
    twice = [path for path, count in Counter((path, subset) for _, path, _, subset in rows).items() if count > 1]
    if twice:
        raise DataError(f"{split_file} lists images twice: {some(path for path, _ in twice)}")
    classes = tuple(sorted({name for _, _, name, _ in rows}))
    index = {name: label for label, name in enumerate(classes)}
    subsets = {
        subset: _subset([(path, index[name]) for _, path, name, own in rows if own == subset]) for subset in SUBSETS
    }
    notes = folder.left_out.notes()
    if not subsets["test"]:
        subsets["test"] = subsets["val"]
        notes.append(TEST_IS_VAL)
    if len(classes) < min_classes or not subsets["train"] or not subsets["val"]:
        least = "two classes" if min_classes == 2 else "a class"
        raise DataError(f"{split_file} must list training and validation images of {least} at least")
    unlisted = len(known - {path for _, path, _, _ in rows})
    if unlisted:
        notes.append(f"{unlisted} images of {folder.root} are not listed in {split_file.name} and not used.")
    notes += _lacking(classes, subsets)
    return Dataset(folder.root, classes, "split file", subsets["train"], subsets["val"], subsets["test"], tuple(notes))


def load_test_images(root: str | Path, classes: tuple[str, ...]) -> tuple[Subset, str]:
    """The images of a folder that a model was not trained on: those of `test/`, else of `val/`, else all.

    Args:
        classes: the classes of the model; an image's label is the index of its folder's name in them.

    Returns:
        The images, and in words which they are.

    Raises:
        DataError: the folder cannot be used, or holds classes the model does not know.
    """
    root = Path(root)
    folder = scan_for_test(root)
    split = next(name for name in ("test", "val", "all", "train") if name in folder.splits)
    found = folder.splits[split]
    unknown = [name for name in found if name not in classes]
    if unknown:
        named = some(f"{name}{nearest(name, classes)}" for name in unknown)
        raise DataError(f"{root} has classes that the model does not know: {named}", allowed=classes)
    items = [(path, classes.index(name)) for name, paths in found.items() for path in paths]
    if not items:
        raise DataError(f"there is no image in {root}")
    return _subset(items), "all images" if split == "all" else f"its {folder.folder_names[split]}/ folder"


def scan_for_test(root: Path) -> Folder:
    """`scan`, for a folder that may have `test/` or `val/` without `train/`."""
    for name in ("test", "val", "valid", "validation"):
        if (root / name).is_dir() and not (root / "train").is_dir():
            inner = scan(root / name)
            if "all" in inner.splits:
                paths = {
                    label: Paths([f"{name}/{path}" for path in items]) for label, items in inner.splits["all"].items()
                }
                return Folder(root, {"test": paths}, {"test": name}, inner.left_out)
    return scan(root)


def refuse_if_too_many_bad(dataset: Dataset, bad: Iterable[BadImage]) -> None:
    """Raise DataError where more than a tenth of the images of a class cannot be decoded."""
    label_of = {
        path: label
        for name in SUBSETS
        for path, label in zip(getattr(dataset, name).paths, getattr(dataset, name).labels, strict=True)
    }
    totals = Counter(label_of.values())
    broken: dict[int, list[str]] = {}
    for image in bad:
        broken.setdefault(label_of[image.path], []).append(image.path)
    for label, paths in sorted(broken.items()):
        if len(paths) > MAX_UNREADABLE * totals[label]:
            raise DataError(
                f"{len(paths)} of the {totals[label]} images of class {dataset.classes[label]!r} cannot be decoded: "
                f"{some(paths)}",
                fix="replace or remove these files; up to a tenth of a class may be unreadable",
            )
