"""Find classes that are mirror images of each other: a classifier takes flipped images of each for the other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from otx.data.folder import shorten
from otx.events import Reporter
from otx.model.regression import Features, Labels, fit_regression

FEWEST, MOST = 80, 500
SHARE = 20
HELD_OUT = 3
PENALTY = 10.0
DEVIATIONS = 3.0


@dataclass(frozen=True)
class MirroredPair:
    """Two classes: `taken` of `count` flipped images of the first are taken for the second, and the other way round."""

    classes: tuple[int, int]
    taken: tuple[int, int]
    count: tuple[int, int]


def mirrored_pairs(labels: Labels, plain: Labels, flipped: Labels) -> list[MirroredPair]:
    """The pairs of classes that are told apart only as long as the images are not flipped.

    More than half of the images of each are recognised, and more than half of each, flipped, are taken for the other;
    of both together, so many that a coin would give as many once in a thousand times (three standard deviations).

    Args:
        labels, plain, flipped: (N,), the class of each image, and those predicted for it as it is and flipped.
    """
    size = int(max(labels.max(), plain.max(), flipped.max())) + 1 if len(labels) else 0
    counts = np.bincount(labels, minlength=size)
    right = np.bincount(labels[plain == labels], minlength=size)
    taken = np.zeros((size, size), np.int64)
    np.add.at(taken, (labels, flipped), 1)
    usual = (2 * right > counts) & (counts > 0)
    found = []
    for a, b in np.argwhere((2 * taken > counts[:, None]) & usual[:, None] & usual[None, :]).tolist():
        hits, total = taken[a, b] + taken[b, a], counts[a] + counts[b]
        if a < b and 2 * taken[b, a] > counts[b] and 2 * hits - total >= DEVIATIONS * math.sqrt(total):
            found.append(MirroredPair((a, b), (int(taken[a, b]), int(taken[b, a])), (int(counts[a]), int(counts[b]))))
    return found


def hold_out(labels: Labels, seed: int) -> list[int]:
    """The numbers of the images to flip: equally many of each class, at most a third of it.

    A twentieth of all, at least 80 and at most 500, so that they take little time beside the features of all. With more
    classes than allow five of each, three standard deviations cannot be reached.
    """
    names = np.unique(labels)
    each = min(MOST, max(FEWEST, len(labels) // SHARE)) // len(names)
    rng = np.random.default_rng(seed)
    members = [rng.permutation(np.flatnonzero(labels == name)) for name in names]
    return sorted(number for own in members for number in own[: min(each, len(own) // HELD_OUT)].tolist())


def warn_of_mirrored(
    train: tuple[Features, Labels],
    held: Sequence[int],
    flipped: Features,
    classes: Sequence[str],
    reporter: Reporter,
) -> None:
    """Fit a classifier to the other images, ask it for those held out, as they are and flipped, and warn of pairs.

    A classifier remembers the images that it was fitted to, flipped or not, so it cannot be asked for those.

    Args:
        train: features (N, D) and labels (N,) of training images.
        held: the numbers of those held out.
        flipped: the features of these, flipped.
    """
    features, labels = train
    rest = np.setdiff1d(np.arange(len(labels)), held)
    penalty = PENALTY / features.shape[1]
    own = fit_regression(features[rest], labels[rest], len(classes), penalty=penalty, balanced=True)
    plain, mirrored = (own.logits(rows).argmax(1) for rows in (features[held], flipped))
    if pairs := mirrored_pairs(labels[held], plain, mirrored):
        found = shorten(_in_words(pair, classes) for pair in pairs)
        reporter.warn(
            f"Flipped, {found}. They may be mirror images of each other, and "
            "training images are flipped at random: --data.train_subset.augmentation.flip 0 stops that."
        )


def _in_words(pair: MirroredPair, classes: Sequence[str]) -> str:
    (a, b), taken, count = (classes[label] for label in pair.classes), pair.taken, pair.count
    return (
        f"{taken[0]} of {count[0]} images of {a!r} are taken for {b!r} and {taken[1]} of {count[1]} of {b!r} for {a!r}"
    )
