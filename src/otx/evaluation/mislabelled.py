"""Find images that are probably mislabelled, by confident learning on a network's features.

A network's own predictions for the images it was trained on are no evidence: it has learnt their labels, right or
wrong. So a logistic regression on its features is fitted five times, each time without a fifth of the images, and
judges that fifth; copies of a picture are always in the same fifth.

Source: Northcutt et al., Confident Learning: Estimating Uncertainty in Dataset Labels, JAIR 2021, arXiv 1911.00068.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from otx.data.check import image_refs
from otx.data.dataset import Dataset
from otx.evaluation.features import ImageFeatures
from otx.events import Reporter, heartbeat
from otx.findings import CheckResult, Mislabelled
from otx.inference.classify import softmax
from otx.limits import limited_blas
from otx.model.regression import fit_regression

FOLDS = 5
PENALTIES = (0.03, 0.3)
# probabilities of all images for all classes: 2 GB
MAX_PROBABILITIES = 250_000_000

Probabilities = NDArray[np.float64]
Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Doubt:
    """The index of an image, the class that it more probably has, and by how much (0 to 1)."""

    index: int
    suggested: int
    score: float


def can_search(num_images: int, num_classes: int, reporter: Reporter) -> bool:
    """Whether wrong labels can be looked for; a warning if there are too many images and classes."""
    if num_images * num_classes <= MAX_PROBABILITIES:
        return True
    reporter.warn(
        f"Wrong labels are not looked for: {num_images} images times {num_classes} classes are more than "
        f"{MAX_PROBABILITIES}; `otx check` of some of the classes, in a folder of their own, looks for them."
    )
    return False


def list_mislabelled(
    images: ImageFeatures, dataset: Dataset, suspicions: CheckResult, reporter: Reporter
) -> tuple[Mislabelled, ...]:
    """The images of a data set that are probably mislabelled, the most certain first.

    Args:
        images: those of the data set that can be decoded.
        suspicions: the check of the data set; a picture is judged by a regression that saw none of its copies.
    """
    places = {place.path: place for place in image_refs(dataset)}
    copy_of = {place.path: group.images[0].path for group in suspicions.copies for place in group.images}
    known = [places[path] for path in images.paths]
    index = {name: number for number, name in enumerate(dataset.classes)}
    labels = [index[place.label] for place in known]
    numbers = {path: number for number, path in enumerate(places)}
    groups = [numbers[copy_of.get(place.path, place.path)] for place in known]
    with heartbeat(reporter, "looking for wrong labels"):
        doubts = find_mislabelled(images.features, labels, groups)
    return tuple(
        Mislabelled(
            **known[doubt.index].to_dict(), suggested=dataset.classes[doubt.suggested], score=round(doubt.score, 4)
        )
        for doubt in doubts
    )


def find_mislabelled(
    features: NDArray[np.float32], labels: Sequence[int], groups: Sequence[int] | None = None, *, seed: int = 0
) -> list[Doubt]:
    """The images that are probably mislabelled, the most certain first.

    Args:
        features: (N, D), the input of the network's classifier.
        labels: N indices of classes. Images of classes with fewer than five different pictures are not judged.
        groups: N numbers, the same for copies of a picture; default: no image is a copy.
    """
    targets, members = np.asarray(labels, np.int64), np.arange(len(labels)) if groups is None else np.asarray(groups)
    pictures = np.unique(np.stack([targets, members]), axis=1)[0]
    judged = np.flatnonzero(np.bincount(pictures)[targets] >= FOLDS)
    names, own = np.unique(targets[judged], return_inverse=True)
    if len(names) < 2:
        return []
    probabilities = out_of_sample(features[judged], own, members[judged], seed)
    doubts = []
    for index in np.flatnonzero(in_doubt(probabilities, own)):
        row = probabilities[index]
        best = int(row.argmax())
        doubts.append(Doubt(int(judged[index]), int(names[best]), float(row[best] - row[own[index]])))
    return sorted(doubts, key=lambda doubt: (-doubt.score, doubt.index))


def out_of_sample(features: NDArray[np.float32], labels: Labels, groups: NDArray[np.int64], seed: int) -> Probabilities:
    """Probabilities (N, C) of each image from a regression that saw neither it nor a copy of it.

    It tries two penalties and takes the one with the lower loss out of sample.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    # the square root dampens single strong features: Perronnin et al., ECCV 2010
    rows = (np.sign(features) * np.sqrt(np.abs(features))).astype(np.float32)
    folds = list(StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed).split(rows, labels, groups))
    answers: list[tuple[float, Probabilities]] = []
    for penalty in PENALTIES:
        found = np.zeros((len(labels), int(labels.max()) + 1))
        for fitted, judged in folds:
            regression = fit_regression(rows[fitted], labels[fitted], found.shape[1], penalty=penalty)
            with limited_blas():
                found[judged] = softmax(regression.logits(rows[judged]))
        answers.append((float(-np.log(found[np.arange(len(labels)), labels] + 1e-9).mean()), found))
    return min(answers, key=lambda answer: answer[0])[1]


def in_doubt(probabilities: Probabilities, labels: Labels) -> NDArray[np.bool_]:
    """Which images (N,) are probably mislabelled: those that both pruning methods of the paper select ("C+NR").

    The number of images labelled i that are of class j is estimated by counting those whose probability of j is at
    least the mean of the images labelled j. That many are selected: for each pair of classes those with the largest
    margin, and for each class those with the least probability of their label.

    Args:
        probabilities: (N, C), out of sample.
        labels: (N,), every class at least once.
    """
    classes = probabilities.shape[1]
    own = probabilities[np.arange(len(labels)), labels]
    wrong = _joint(probabilities, labels)
    np.fill_diagonal(wrong, 0)
    by_pair, by_class = np.zeros(len(labels), bool), np.zeros(len(labels), bool)
    for label in range(classes):
        rows = np.flatnonzero(labels == label)
        by_class[rows[np.argsort(own[rows], kind="stable")[: round(wrong[label].sum())]]] = True
        for other in np.flatnonzero(wrong[label]):
            margin = probabilities[rows, other] - own[rows]
            by_pair[rows[np.argsort(-margin, kind="stable")[: round(wrong[label, other])]]] = True
    return np.asarray(by_pair & by_class & (probabilities.argmax(axis=1) != labels))


def _joint(probabilities: Probabilities, labels: Labels) -> NDArray[np.float64]:
    """How many images labelled i are estimated to be of class j, (C, C); row i sums to the number labelled i."""
    classes = probabilities.shape[1]
    usual = np.array([probabilities[labels == label, label].mean() for label in range(classes)])
    sure = probabilities >= usual
    likely = np.where(sure, probabilities, -1).argmax(axis=1)
    counts = np.zeros((classes, classes))
    np.add.at(counts, (labels[sure.any(axis=1)], likely[sure.any(axis=1)]), 1)
    counts[np.diag_indices(classes)] = np.maximum(counts.diagonal(), 1)
    return np.asarray(counts / counts.sum(axis=1, keepdims=True) * np.bincount(labels)[:, None])
