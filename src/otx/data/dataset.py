"""A data set in memory: the classes, and which image is in which subset."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import numpy as np

from otx.data.paths import Paths

SUBSETS = ("train", "val", "test")


@dataclass(frozen=True)
class Subset:
    """Images by their path relative to the data root, and the index of the class of each."""

    paths: Sequence[str]
    labels: tuple[int, ...]

    @classmethod
    def of(cls, items: Sequence[tuple[str, int]]) -> Subset:
        """The images of (path, label) pairs; the paths are packed."""
        return cls(Paths([path for path, _ in items]), tuple(label for _, label in items))

    def __len__(self) -> int:
        return len(self.paths)

    def without(self, bad: Collection[str]) -> Subset:
        kept = [(path, label) for path, label in zip(self.paths, self.labels, strict=True) if path not in bad]
        return Subset.of(kept)


class Split(StrEnum):
    """The splits of a data set, as results name them."""

    TRAIN = "training split"
    VAL = "validation split"
    TEST = "test split"


@dataclass(frozen=True)
class ImageSet:
    """Labelled images in the folder `root`; those of more than `max_pixels` pixels are not decoded.

    `split` is a `Split`, or says in words which images of another folder these are.
    """

    root: Path
    subset: Subset
    split: str
    max_pixels: int

    def __len__(self) -> int:
        return len(self.subset)

    @property
    def is_own(self) -> bool:
        """Whether these are a split of the data set that a model was trained on."""
        return self.split in tuple(Split)

    def items(self) -> Iterator[tuple[str, int]]:
        """(path relative to the root, label) of each image."""
        return zip(self.subset.paths, self.subset.labels, strict=True)

    def files(self) -> Iterator[Path]:
        return (self.root / path for path in self.subset.paths)


@dataclass(frozen=True)
class DataRequest:
    """The folder and split file that the user asks for in place of a model's own; None: the model's own."""

    root: str | Path | None
    split_file: str | Path | None
    max_pixels: int


@dataclass(frozen=True)
class Dataset:
    """Images sorted into subsets. `layout` says how the folder was laid out, `notes` what the user should know.

    `unlabelled` are images of a folder whose table gives them no label; no subset has them.
    """

    root: Path
    classes: tuple[str, ...]
    layout: str
    train: Subset
    val: Subset
    test: Subset
    notes: tuple[str, ...] = ()
    unlabelled: Sequence[str] = ()

    def with_classes(self, classes: tuple[str, ...]) -> Dataset:
        """The same images, labelled by the index of their class in `classes`, which must have all of them."""
        if classes == self.classes:
            return self
        index = {name: place for place, name in enumerate(classes)}
        places = [index[name] for name in self.classes]

        def moved(subset: Subset) -> Subset:
            return Subset(subset.paths, tuple(places[label] for label in subset.labels))

        return dataclasses.replace(
            self, classes=classes, train=moved(self.train), val=moved(self.val), test=moved(self.test)
        )

    @property
    def parts(self) -> dict[str, Subset]:
        """The subsets by name; without test if it is the same as val."""
        names = SUBSETS[:2] if self.test == self.val else SUBSETS
        return {name: getattr(self, name) for name in names}

    def without(self, bad: Collection[str]) -> Dataset:
        """The same data set without some images, given by their paths."""
        gone = frozenset(bad)
        parts = {name: getattr(self, name).without(gone) for name in SUBSETS}
        return dataclasses.replace(self, **parts)


def pick_evenly(images: Subset, count: int, seed: int) -> Subset:
    """The images that `pick_numbers` picks."""
    chosen = pick_numbers(images, count, seed)
    return Subset(tuple(images.paths[i] for i in chosen), tuple(images.labels[i] for i in chosen))


def pick_numbers(images: Subset, count: int, seed: int) -> list[int]:
    """The numbers of `count` random images, equally many of each class; all images of a class that has too few.

    Args:
        seed: the same seed picks the same images.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(images))
    labels = np.asarray(images.labels, np.int64)[order]
    # the first of each class, then the second of each class, ...
    by_class = np.argsort(labels, kind="stable")
    counts = np.bincount(labels)
    turn = np.empty(len(order), np.int64)
    turn[by_class] = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    return sorted(order[np.argsort(turn, kind="stable")][:count].tolist())
