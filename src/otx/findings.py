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
class ClassShare(Result):
    """How large a part of the new photos is nearest to a class, and of the validation images (`usual`), 0 to 1."""

    name: str
    share: float
    usual: float


@dataclass(frozen=True)
class StrangeImage(Result):
    """A photo with its unknown score; `known`: it is not above the model's limit."""

    path: str
    score: float
    known: bool


@dataclass(frozen=True)
class ShiftResult(Result):
    """Whether photos look like those that a model was made with.

    Args:
        num_images: new photos; `num_compared` of them were compared with `num_reference` validation images.
        p_value: how often photos of the same kind would differ as much, 0 to 1; None if there are too few.
        mix_p_value: the same for how often each class comes; None if there are too few, or no classes to tell apart.
        looks_alike, is_mixed_alike: whether `p_value` and `mix_p_value` are above 0.01.
        classes: how often each class comes, the largest change first.
        num_unknown: how many have an unknown score above `limit`.
        strangest: the ten with the highest unknown scores.
    """

    num_images: int
    num_compared: int
    num_reference: int
    p_value: float | None
    mix_p_value: float | None
    looks_alike: bool | None
    is_mixed_alike: bool | None
    classes: tuple[ClassShare, ...]
    num_unknown: int
    limit: float
    strangest: tuple[StrangeImage, ...]

    @property
    def sentences(self) -> tuple[str, ...]:
        """The result in words."""
        lines = [self._look(), self._mix()]
        share = f"{self.num_unknown / max(1, self.num_images):.0%}"
        lines.append(f"Not known to the model: {self.num_unknown:,} of {self.num_images:,} photos ({share}).")
        return tuple(line for line in lines if line)

    def _look(self) -> str:
        them = f"{self.num_compared:,} photos, {self.num_reference:,} validation images"
        if self.looks_alike is None:
            return f"There are too few photos to tell whether they look like those that it learned from ({them})."
        grounds = f"({them}, p = {self.p_value:.3f})"
        if self.looks_alike:
            return f"No difference in looks to the photos that it learned from was found {grounds}."
        return (
            f"They look different from the photos that it learned from {grounds}: expect more mistakes. Label some of "
            "them and run `otx test` on these, to know how many."
        )

    def _mix(self) -> str:
        if self.is_mixed_alike is not False:
            return ""
        most = self.classes[0]
        return (
            f"Their classes are mixed differently (p = {self.mix_p_value:.3f}): “{most.name}” is {most.share:.0%} of "
            f"them, and was {most.usual:.0%}."
        )


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
        mislabelled: None if no model was given, or the photos have no labels.
        shift: whether the photos look like those of the model; None if none was given, or they are its own.
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
    shift: ShiftResult | None = None

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

    def strangest(self) -> list[tuple[ImageRef, str]]:
        """The photos that are strangest to the model, and their unknown scores; empty if they were not compared."""
        if self.shift is None:
            return []
        limit = f"(limit {self.shift.limit:.2f})"
        return [(ImageRef(item.path, "", ""), f"score {item.score:.2f} {limit}") for item in self.shift.strangest]


def _others(group: CopyGroup) -> str:
    return ", ".join(place.path for place in group.images[1:])


@dataclass(frozen=True)
class CurvePoint(Result):
    """The accuracy (0 to 1) of a classifier that learned from so many images."""

    num_images: int
    accuracy: float


@dataclass(frozen=True)
class ClassGain(Result):
    """What twice as many images of every class would add to the recall of one, 0 to 1, with its 95 % interval."""

    name: str
    num_images: int
    recall: float
    gain: float
    gain_low: float
    gain_high: float


@dataclass(frozen=True)
class LearningCurve(Result):
    """What twice as many training images would add to the accuracy, foretold from what fewer of them reach.

    Args:
        num_images: how many there are.
        points: what was measured; empty if nothing could be, and `sentence` says why.
        line: the power law through the points, up to twice as many images.
        gain: of accuracy, 0 to 1, with its 95 % interval; None without points.
        classes: the largest gain first.
        helps_most: the class that gains most, if one stands out.
    """

    num_images: int
    points: tuple[CurvePoint, ...]
    line: tuple[CurvePoint, ...]
    gain: float | None
    gain_low: float | None
    gain_high: float | None
    classes: tuple[ClassGain, ...]
    helps_most: str | None
    sentence: str
