"""From a folder of images to a data set: recognise its layout, and split off what is missing."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from otx.data.dataset import SUBSETS, Dataset, Subset
from otx.data.folder import NAMED_AT_MOST, shorten
from otx.data.layout import Folder, scan, scan_for_test, scan_known
from otx.data.paths import Paths
from otx.data.split import split_class
from otx.data.split_file import TEST_IS_VAL, dataset_of_split_file, few_photos, lacking
from otx.errors import DataError, nearest
from otx.recipe import Recipe
from otx.results import BadImage

MAX_UNREADABLE = 0.1


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
        root: holds `train/`, `val/` (or `valid/`, `validation/`), `test/` with class folders, or only class folders.
        split_file: a CSV file (path, class, subset) that decides instead.
        min_classes: 1 if the classes are added to those of a model.

    Raises:
        DataError: the folder or the split file cannot be used.
    """
    if split_file is not None:
        return dataset_of_split_file(scan_known(Path(root)), split_file, min_classes)
    folder = scan(Path(root))
    root = folder.root
    train = folder.splits.get("train", folder.splits.get("all", {}))
    check_classes(folder, train, min_classes)
    classes = tuple(sorted(train))
    need_test = "val" not in folder.splits and "test" not in folder.splits
    shares = {
        "test_share": test_share if need_test else 0.0,
        "val_share": 0.0 if "val" in folder.splits else val_share,
    }
    subsets = _make_subsets(folder, train, classes, seed, shares)
    notes = folder.all_notes()
    if not need_test and "test" not in folder.splits:
        subsets["test"] = subsets["val"]
        notes.append(TEST_IS_VAL)
    notes += [*lacking(classes, subsets), *few_photos(classes, subsets)]
    if not subsets["val"]:
        raise DataError(f"no image of {root} is left to validate on", fix="add images, or raise --data.val_share")
    return Dataset(root, classes, folder.layout, **subsets, notes=tuple(notes), unlabelled=folder.unlabelled)


def _make_subsets(
    folder: Folder, train: dict[str, Paths], classes: tuple[str, ...], seed: int, shares: dict[str, float]
) -> dict[str, Subset]:
    """The folder's own subsets, and those split off its training images. Empties `train`."""
    parts = {name: (Paths(), array("l")) for name in SUBSETS}
    for label, name in enumerate(classes):
        # popped, so that its paths are not in memory twice
        split = split_class(train.pop(name), seed=seed, **shares)
        own = [(subset, folder.splits.get(subset, {}).get(name, ())) for subset in ("val", "test")]
        for subset, paths in [*zip(SUBSETS, split, strict=True), *own]:
            parts[subset][0].extend(paths)
            parts[subset][1].extend([label] * len(paths))
    return {name: Subset(paths, tuple(labels)) for name, (paths, labels) in parts.items()}


def split_options(recipe: Recipe) -> dict[str, Any]:
    """How a recipe splits images, as arguments of `load_dataset`."""
    data = recipe.data
    split_file = None if data.split_file is None else Path(data.split_file)
    return {
        "seed": recipe.seed,
        "test_share": data.test_share,
        "val_share": data.val_share,
        "split_file": split_file,
    }


def check_classes(folder: Folder, train: dict[str, Paths], min_classes: int) -> None:
    """Raise DataError if the classes of a folder's splits do not make a data set.

    Args:
        train: the split to train on, one of the folder's.
    """
    empty = [name for name, paths in train.items() if not paths]
    if empty:
        raise DataError(
            f"class folders with no image in {folder.root / folder.folder_names.get('train', '')}: {shorten(empty)}",
            fix="put images into them, or remove the folders",
        )
    if len(train) < min_classes:
        names = shorten(train) or "none"
        raise DataError(
            f"a classifier needs two classes at least, {folder.root} has {len(train)} ({names})",
            fix="one folder of images for each class",
        )
    for split in ("val", "test"):
        unknown = [name for name in folder.splits.get(split, {}) if name not in train]
        if unknown:
            raise DataError(
                f"{folder.folder_names[split]}/ has classes that {folder.folder_names['train']}/ does not know: "
                f"{shorten(f'{name}{nearest(name, train)}' for name in unknown)}",
                fix="give them training images, or remove them",
            )
    others = [classes for split, classes in folder.splits.items() if split not in ("train", "all")]
    alone = [name for name in train if others and not any(name in classes for classes in others)]
    if alone:
        where = " nor ".join(f"{folder.folder_names[split]}/" for split in ("val", "test") if split in folder.splits)
        raise DataError(
            f"classes that are in {folder.folder_names['train']}/ but not in {where}: {shorten(alone)}",
            fix="move some of their images there, or leave the splitting to otx: put all class folders side by side",
        )


def load_test_images(root: str | Path, classes: tuple[str, ...]) -> tuple[Subset, str]:
    """The images of a folder to test a model on: those of `test/`, else `val/`, else all class folders, else `train/`.

    Args:
        classes: the classes of the model; an image's label is the index of its folder's name in them.

    Returns:
        The images, and a description of which they are.

    Raises:
        DataError: the folder cannot be used, or holds classes the model does not know.
    """
    folder = scan_for_test(Path(root))
    root = folder.root
    split = next(name for name in ("test", "val", "all", "train") if name in folder.splits)
    found = folder.splits[split]
    places = {name: place for place, name in enumerate(classes)}
    unknown = [name for name in found if name not in places]
    if unknown:
        # a search for the nearest name takes long
        named = shorten(
            [f"{name}{nearest(name, classes)}" for name in unknown[:NAMED_AT_MOST]] + unknown[NAMED_AT_MOST:]
        )
        raise DataError(f"{root} has classes that the model does not know: {named}", allowed=classes)
    items = [(path, places[name]) for name, paths in found.items() for path in paths]
    if not items:
        raise DataError(f"there is no image in {root}")
    return Subset.of(items), "all images" if split == "all" else f"its {folder.folder_names[split]}/ folder"


def refuse_if_too_many_bad(dataset: Dataset, bad: Iterable[BadImage]) -> None:
    """Raise DataError if more than a tenth of the images of a class, or all to train on, cannot be decoded."""
    label_of = {
        path: label
        for name in SUBSETS
        for path, label in zip(getattr(dataset, name).paths, getattr(dataset, name).labels, strict=True)
    }
    totals = Counter(label_of.values())
    broken: dict[int, list[BadImage]] = {}
    for image in bad:
        broken.setdefault(label_of[image.path], []).append(image)
    for label, images in sorted(broken.items()):
        if len(images) > MAX_UNREADABLE * totals[label]:
            raise DataError(
                f"{len(images)} of the {totals[label]} images of class {dataset.classes[label]!r} cannot be decoded: "
                f"{shorten(image.path for image in images)}; the first: {images[0].reason}",
                fix="replace or remove these files; up to a tenth of a class may be unreadable",
            )
    left = dataset.train.without({image.path for images in broken.values() for image in images})
    if lost := set(dataset.train.labels) - set(left.labels):
        raise DataError(
            f"no image to train on of {shorten(dataset.classes[label] for label in sorted(lost))} can be decoded",
            fix="replace these files, or add photos",
        )
