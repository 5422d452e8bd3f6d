"""The CSV file that says which image is in which subset."""

from __future__ import annotations

import contextlib
import csv
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from otx.data.dataset import SUBSETS, Dataset, Subset
from otx.data.folder import NAMED_AT_MOST, shorten
from otx.data.layout import Folder
from otx.errors import DataError, nearest
from otx.files import write_csv

SPLIT_COLUMNS = ("path", "class", "subset")
MIN_TRAIN_IMAGES = 5
TEST_IS_VAL = "There are no test images of their own: test is val."


def write_split(dataset: Dataset, path: Path) -> None:
    """Write which image is in which subset (path, class, subset); test is left out if it is the same as val."""
    rows = (
        (item, dataset.classes[label], name)
        for name, subset in dataset.parts.items()
        for item, label in zip(subset.paths, subset.labels, strict=True)
    )
    write_csv(path, SPLIT_COLUMNS, rows)


@contextlib.contextmanager
def _open_split(path: Path) -> Iterator[Any]:
    """A CSV reader of the rows after the header of a split file."""
    try:
        # file names that are not UTF-8 are read as they were written
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


def check_split_file(path: Path, known: Collection[str] = ()) -> None:
    """Raise DataError if a split file cannot be read, a row is wrong, or a class has no training image.

    Args:
        known: classes that need none, since a model knows them already.
    """
    rows = read_split(path)
    trained = {name for _, _, name, subset in rows if subset == "train"}
    missing = sorted({name for _, _, name, _ in rows} - trained - set(known))
    if missing:
        # a search for the nearest name takes long
        named = [f"{name}{nearest(name, sorted({*trained, *known}))}" for name in missing[:NAMED_AT_MOST]]
        raise DataError(
            f"{path} lists classes without a training image: {shorten(named + missing[NAMED_AT_MOST:])}",
            fix="correct their names, give them training images, or leave their images out",
        )


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


def dataset_of_split_file(folder: Folder, split_file: Path, min_classes: int) -> Dataset:
    """The data set that a split file describes.

    Raises:
        DataError: it lists an image that the folder does not have, an image twice in a subset, or too few images.
    """
    rows = read_split(split_file)
    known = {path for classes in folder.splits.values() for paths in classes.values() for path in paths}
    # a run that gave them labels lists them in its split file
    unlabelled = frozenset(folder.unlabelled)
    for line, path, _, _ in rows:
        if path not in known and path not in unlabelled:
            raise DataError(
                f"{split_file}, line {line}: {folder.root} has no image {path!r}",
                fix="give the --data_root it was made for",
            )
    twice = [path for path, count in Counter((path, subset) for _, path, _, subset in rows).items() if count > 1]
    if twice:
        raise DataError(f"{split_file} lists images twice: {shorten(path for path, _ in twice)}")
    classes = tuple(sorted({name for _, _, name, _ in rows}))
    index = {name: label for label, name in enumerate(classes)}
    subsets = {
        subset: Subset.of([(path, index[name]) for _, path, name, own in rows if own == subset]) for subset in SUBSETS
    }
    notes = folder.all_notes()
    if not subsets["test"]:
        subsets["test"] = subsets["val"]
        notes.append(TEST_IS_VAL)
    if len(classes) < min_classes or not subsets["train"] or not subsets["val"]:
        least = "two classes" if min_classes == 2 else "a class"
        raise DataError(f"{split_file} must list training and validation images of {least} at least")
    unlisted = len(known - {path for _, path, _, _ in rows})
    if unlisted:
        notes.append(f"{unlisted} images of {folder.root} are not listed in {split_file.name} and not used.")
    trained = set(subsets["train"].labels)
    if untrained := [name for label, name in enumerate(classes) if label not in trained]:
        notes.append(f"No train image of {shorten(untrained)}: a training on these images does not learn that.")
    notes += [*lacking(classes, subsets), *few_photos(classes, subsets)]
    return Dataset(folder.root, classes, "split file", subsets["train"], subsets["val"], subsets["test"], tuple(notes))


def lacking(classes: tuple[str, ...], subsets: dict[str, Subset]) -> list[str]:
    """A note for each subset that has no image of some class."""
    notes = []
    for name in ("val", "test"):
        present = set(subsets[name].labels)
        missing = [item for label, item in enumerate(classes) if label not in present]
        if missing and len(missing) < len(classes):
            notes.append(f"No {name} image of {shorten(missing)}: how well that is recognised is not measured there.")
    return notes


def few_photos(classes: tuple[str, ...], subsets: dict[str, Subset]) -> list[str]:
    """A note on classes with fewer training images than a network can learn from."""
    counts = Counter(subsets["train"].labels)
    few = [f"{name} ({counts[label]})" for label, name in enumerate(classes) if 0 < counts[label] < MIN_TRAIN_IMAGES]
    return (
        [f"Classes with fewer than {MIN_TRAIN_IMAGES} images to train: {shorten(few)}. More photos would help most."]
        if few
        else []
    )
