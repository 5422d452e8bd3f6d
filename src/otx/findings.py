"""What is found out about images: those that are wrong or unusual in some way (`otx check`), or of other things."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from otx.plain import Result


@dataclass(frozen=True)
class UnknownResult(Result):
    """How well a model tells images of other things, in `folder`, from test images of its classes; all from 0 to 1.

    `auroc` is the probability that one of the others has the higher `unknown_score`. With the model's limit,
    `let_through` is the share of the others that it takes for known, `known_lost` that of the test images that it does
    not.
    """

    folder: Path
    num_images: int
    limit: float
    auroc: float
    let_through: float
    known_lost: float


@dataclass(frozen=True)
class ClassCount(Result):
    """How many images of a class each subset holds. If val serves as test, `test` is 0."""

    name: str
    train: int
    val: int
    test: int


@dataclass(frozen=True)
class ImageRef(Result):
    """An image by its path relative to the data root, the class it is filed under, and its subset."""

    path: str
    label: str
    subset: str


@dataclass(frozen=True)
class Finding(Result):
    """One image that is wrong or unusual in some way, and the reason."""

    path: str
    label: str
    subset: str
    reason: str

    @property
    def place(self) -> ImageRef:
        return ImageRef(self.path, self.label, self.subset)


@dataclass(frozen=True)
class CopyGroup(Result):
    """Two or more files of the same picture. `exact`: the same bytes; else another size, quality or brightness."""

    images: tuple[ImageRef, ...]
    exact: bool


@dataclass(frozen=True)
class CopyPair(Result):
    """Two files of the same picture. `likeness` is the correlation of their thumbnails, 1 for the same bytes."""

    first: ImageRef
    second: ImageRef
    exact: bool
    likeness: float


@dataclass(frozen=True)
class Mislabelled(Result):
    """An image that is probably of another class than the one it is filed under.

    `score` is the probability of `suggested` minus that of `label`, 0 to 1, by a classifier not trained on the image.
    """

    path: str
    label: str
    subset: str
    suggested: str
    score: float


@dataclass(frozen=True)
class CheckResult(Result):
    """What `otx check` found; the lists are sorted by path, but `mislabelled` has the most certain first.

    Args:
        layout: how the folder is laid out; `notes` is what the user should know about it.
        num_images: number of images checked.
        broken, empty, tiny, huge, odd: images that cannot be decoded, have no content, are very small, very large or
            unusual among the others.
        small: images smaller than the network's input, if they are few; otherwise a note counts them.
        copies: groups of files of the same picture.
        leaks: for each validation and test image (`second`) that is in train as well, the training image (`first`).
        conflicts: the same picture under two labels.
        mislabelled: None if no model was given.
    """

    data_root: Path
    layout: str
    notes: tuple[str, ...]
    num_images: int
    classes: tuple[ClassCount, ...]
    broken: tuple[Finding, ...]
    empty: tuple[Finding, ...]
    tiny: tuple[Finding, ...]
    huge: tuple[Finding, ...]
    odd: tuple[Finding, ...]
    copies: tuple[CopyGroup, ...]
    leaks: tuple[CopyPair, ...]
    conflicts: tuple[CopyPair, ...]
    mislabelled: tuple[Mislabelled, ...] | None = None
    small: tuple[Finding, ...] = ()

    def by_kind(self) -> dict[str, list[tuple[ImageRef, str]]]:
        """Every finding by kind, the most serious kinds first: the image, and what is wrong with it."""
        labelled = [
            (ImageRef(m.path, m.label, m.subset), f"{m.label}, more likely {m.suggested} ({m.score:.2f})")
            for m in self.mislabelled or ()
        ]
        return {
            "leak": [(p.second, f"{p.second.subset}; in train: {p.first.path}") for p in self.leaks],
            "two labels": [(p.second, f"{p.second.label}; as {p.first.label}: {p.first.path}") for p in self.conflicts],
            "mislabelled?": labelled,
            **{kind: [(f.place, f.reason) for f in getattr(self, kind)] for kind in ("broken", "empty")},
            "copies": [
                (group.images[0], f"{'same bytes' if group.exact else 'same picture'}: {_others(group)}")
                for group in self.copies
            ],
            **{kind: [(f.place, f.reason) for f in getattr(self, kind)] for kind in ("tiny", "small", "huge", "odd")},
        }


def _others(group: CopyGroup) -> str:
    return ", ".join(place.path for place in group.images[1:])
