"""Would more photos help? What shares of the training images reach, continued to twice as many.

A linear classifier is fitted to the features of an eighth, a quarter, half and all of the images of four folds of five,
and judges the fifth. So each image is judged by classifiers that did not see it, and no validation image is needed. It
is a regularised discriminant (Friedman 1989) in the directions in which the features vary most: fitted in closed form,
it costs a hundredth of the regression that the model begins with. docs/trust.md says how good the forecast is.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from otx.errors import DataError
from otx.files import write_json
from otx.findings import ClassGain, CurvePoint, LearningCurve
from otx.limits import one_blas_thread
from otx.plain import structured
from otx.training.power_law import draw_again, forecast
from otx.workspace import RunFolder

SHARES = (1 / 8, 1 / 4, 1 / 2, 1.0)
# how often each share is drawn for each fold: few images vary more
DRAWS = (4, 4, 2, 1)
FOLDS = 5
DIRECTIONS = 256
# added to the variance along each direction, as multiples of the mean variance
RIDGES = (0.3, 1.0, 3.0, 10.0)
MOST_CLASSES = 200
FEWEST_IMAGES = 40
FEWEST_OF_CLASS = 5
# how often a class must gain most to be named
SURE = 0.8
# an interval in standard deviations of the draws: twice what would do if the judged images were all that is uncertain
WIDE = 3.5
# how far a gain may be off, as a share of it: a curve need not be a power law, and new images are another draw
MODEL_ERROR = 0.5
UNCLEAR = 0.05

Features = NDArray[np.float32]
Labels = NDArray[np.int64]
Floats = NDArray[np.float64]


def look_ahead(
    probed: tuple[Features, Labels], classes: Sequence[str], num_images: int, run: RunFolder, seed: int
) -> None:
    """Write the learning curve of a new run, from the features that its classifier was fitted to."""
    curve = learning_curve(*probed, classes, num_images, seed)
    write_json(run.learning_curve, curve.to_dict())


def read_curve(run: RunFolder) -> LearningCurve | None:
    """The learning curve of a run; None if it has none.

    Raises:
        DataError: it is damaged.
    """
    if not run.learning_curve.is_file():
        return None
    try:
        return structured(LearningCurve, json.loads(run.learning_curve.read_text(encoding="utf-8")))
    except (KeyError, ValueError, TypeError) as error:
        raise DataError(f"{run.learning_curve} is damaged: {error}", fix="remove it") from error


def learning_curve(
    features: Features, labels: Labels, classes: Sequence[str], num_images: int, seed: int
) -> LearningCurve:
    """What twice as many training images would add.

    Args:
        features: the classifier's input (N, D).
        labels: (N,).
        num_images: of the whole training; more than N if the features of some were left out.
    """
    if reason := why_not(labels, classes, num_images):
        sentence = f"Whether more photos would help was not looked at: {reason}."
        return LearningCurve(num_images, (), (), None, None, None, (), None, sentence)
    with one_blas_thread():
        sizes, errors = measure_shares(features, labels, len(classes), seed)
        return _continued(sizes, errors, labels, classes, seed)


def why_not(labels: Labels, classes: Sequence[str], num_images: int) -> str:
    """Why no curve can be made; empty if it can."""
    counts = np.bincount(labels, minlength=len(classes))
    rarest = int(counts.argmin())
    if len(labels) < num_images:
        return f"features were computed of {len(labels):,} of the {num_images:,} training images alone"
    if len(classes) > MOST_CLASSES:
        return f"that takes long for {len(classes):,} classes; it is done for up to {MOST_CLASSES}"
    if len(labels) < FEWEST_IMAGES:
        return f"{len(labels)} training images are too few to tell; it takes {FEWEST_IMAGES}"
    if counts[rarest] < FEWEST_OF_CLASS:
        few = f"“{classes[rarest]}” has {counts[rarest]} training image{'s' if counts[rarest] != 1 else ''}"
        return f"{few}; it takes {FEWEST_OF_CLASS} of each class"
    return ""


def measure_shares(features: Features, labels: Labels, num_classes: int, seed: int) -> tuple[Floats, Floats]:
    """The number of images of each share (S,), and how often each image was mistaken (S, N), 0 to 1."""
    rng = np.random.default_rng(seed)
    rows, folds = _few_directions(features), _deal(labels, rng)
    sizes, errors = [], []
    for share, draws in zip(SHARES, DRAWS, strict=True):
        wrong, fitted = np.zeros((len(RIDGES), len(labels))), 0
        for fold in range(FOLDS):
            judged = np.flatnonzero(folds == fold)
            for _ in range(draws):
                drawn = _draw(labels, folds != fold, share, rng)
                answers = _answers(rows[drawn], labels[drawn], rows[judged], num_classes)
                wrong[:, judged] += [answer != labels[judged] for answer in answers]
                fitted += len(drawn)
        sizes.append(fitted / (FOLDS * draws))
        errors.append(wrong[wrong.sum(1).argmin()] / draws)
    return np.asarray(sizes), np.asarray(errors)


def _few_directions(features: Features) -> Floats:
    """The features (N, at most DIRECTIONS) along the directions in which they vary most."""
    rows = (features - features.mean(0)).astype(np.float64)
    if len(rows) < rows.shape[1]:
        values, vectors = np.linalg.eigh(rows @ rows.T)
        return np.asarray(vectors[:, -DIRECTIONS:] * np.sqrt(np.maximum(values[-DIRECTIONS:], 0)))
    return np.asarray(rows @ np.linalg.eigh(rows.T @ rows)[1][:, -DIRECTIONS:])


def _deal(labels: Labels, rng: np.random.Generator) -> Labels:
    """A fold for each image, equally many of each class in each."""
    folds = np.empty_like(labels)
    for label in np.unique(labels):
        own = rng.permutation(np.flatnonzero(labels == label))
        folds[own] = (np.arange(len(own)) + rng.integers(FOLDS)) % FOLDS
    return folds


def _draw(labels: Labels, among: NDArray[np.bool_], share: float, rng: np.random.Generator) -> Labels:
    """The numbers of a share of the images of each class, at least one."""
    own = (rng.permutation(np.flatnonzero((labels == label) & among)) for label in np.unique(labels))
    return np.concatenate([numbers[: max(1, round(share * len(numbers)))] for numbers in own])


def _answers(rows: Floats, labels: Labels, judged: Floats, num_classes: int) -> Iterator[Labels]:
    """For each ridge the classes (M,) of judged rows (M, R), by a discriminant fitted to rows (N, R)."""
    middle, counts = rows.mean(0), np.bincount(labels, minlength=num_classes)
    means = np.zeros((num_classes, rows.shape[1]))
    np.add.at(means, labels, rows - middle)
    means /= np.maximum(counts, 1)[:, None]
    inner = rows - middle - means[labels]
    variances, turn = np.linalg.eigh(inner.T @ inner / max(1, len(rows) - num_classes))
    means, turned = means @ turn, (judged - middle) @ turn
    usual = float(np.square(rows - middle).mean())
    for ridge in RIDGES:
        weights = means / (np.maximum(variances, 0) + ridge * usual)
        logits = turned @ weights.T - (weights * means).sum(1) / 2
        logits[:, counts == 0] = -np.inf
        yield logits.argmax(1)


def _continued(sizes: Floats, errors: Floats, labels: Labels, classes: Sequence[str], seed: int) -> LearningCurve:
    count = len(labels)
    ahead = np.asarray([count, 2 * count], np.float64)
    gain, low, high, _ = _gain(sizes, errors, ahead, seed)
    rows, drawn = [], []
    for label, name in enumerate(classes):
        own = errors[:, labels == label]
        *figures, gains = _gain(sizes, own, ahead, seed + 1 + label)
        recall = 1 - float(forecast(sizes, own.mean(1)[None], ahead[:1])[0, 0])
        rows.append(ClassGain(name, own.shape[1], recall, *figures))
        drawn.append(gains)
    most = np.bincount(np.argmax(drawn, axis=0), minlength=len(classes)) / len(drawn[0])
    best = classes[int(most.argmax())] if most.max() >= SURE else None
    grid = np.geomspace(sizes[0], 2 * count, 40)
    line = forecast(sizes, errors.mean(1)[None], grid)[0]
    return LearningCurve(
        num_images=count,
        points=_points(sizes, errors.mean(1)),
        line=_points(grid, line),
        gain=gain,
        gain_low=low,
        gain_high=high,
        classes=tuple(sorted(rows, key=lambda row: -row.gain)),
        helps_most=best,
        sentence=in_words(count, gain, low, high, best),
    )


def _points(sizes: Floats, errors: Floats) -> tuple[CurvePoint, ...]:
    return tuple(CurvePoint(round(size), 1 - error) for size, error in zip(sizes, errors.tolist(), strict=True))


def _gain(sizes: Floats, errors: Floats, ahead: Floats, seed: int) -> tuple[float, float, float, Floats]:
    """The fall of the error between two numbers of images, the ends of its 95 % interval, and the draws behind it."""
    found = forecast(sizes, np.concatenate([errors.mean(1)[None], draw_again(errors, seed)]), ahead)
    gains = found[:, 0] - found[:, 1]
    gain = float(gains[0])
    spread = math.hypot(WIDE * float(gains[1:].std()), MODEL_ERROR * gain)
    return gain, max(0.0, gain - spread), gain + spread, gains[1:]


def in_words(count: int, gain: float, low: float, high: float, best: str | None) -> str:
    """The forecast as a sentence."""
    twice = f"Twice as many training photos ({2 * count:,} instead of {count:,})"
    span = f"{100 * low:.1f} to {100 * high:.1f}"
    if high < 0.005:
        return f"{twice} would bring next to nothing: {span} points of accuracy."
    if low < 0.005 and high > UNCLEAR:
        return f"There are too few photos to tell what twice as many would bring: {span} points of accuracy."
    most = "" if best is None else f", most for “{best}”"
    if low < 0.0005:
        return f"{twice} would bring about {100 * gain:.1f} points of accuracy, or none ({span}){most}."
    return f"{twice} would bring about {100 * gain:.1f} points of accuracy ({span}){most}."
