"""Do new photos look like those that a model was made with? A test of two samples on its features.

The new photos are compared with validation images, whose labels the network did not learn: of its training images it
knows more than it will of any new one. Features are compared by the maximum mean discrepancy with a Gaussian kernel;
how large it would be by chance follows from dealing the images anew to both sides, 999 times. Each image changes sides
only with images that are nearest to the same class, so that another mix of classes is no alarm; the mix is tested by
itself.

Source: Gretton et al., "A Kernel Two-Sample Test", JMLR 2012; Rabanser et al., "Failing Loudly", arXiv 1810.11953.
`benchmarks/shift.py` measures false alarms and what is seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from otx.findings import ClassShare, ShiftResult, StrangeImage
from otx.limits import one_blas_thread
from otx.model.unknown import KnownClasses

Floats = NDArray[np.floating]
Labels = NDArray[np.int64]

DEALS = 999
# a difference as large comes by chance in one of so many folders that look the same
LEVEL = 0.01
# of more new photos, random ones are compared
MAX_COMPARED = 500
FEWEST = 10
STRANGEST = 10
TOO_OLD = "train it again with this version of otx"


@dataclass(frozen=True)
class Reference:
    """What a model holds of its images: the summary, validation images as it sees them (N, R), limit, classes."""

    known: KnownClasses
    sample: NDArray[np.float32]
    limit: float
    classes: tuple[str, ...]


@dataclass(frozen=True)
class Photos:
    """N new photos: their paths, features of M random ones (M, D), unknown scores (N,)."""

    paths: Sequence[str]
    features: NDArray[np.float32]
    scores: NDArray[np.float32]


def compare(reference: Reference, photos: Photos, seed: int = 0) -> ShiftResult:
    """Compare photos with a model's validation images."""
    rng = np.random.default_rng(seed)
    drawn = np.sort(rng.permutation(len(photos.features))[:MAX_COMPARED])
    with one_blas_thread():
        new = reference.known.whitened(photos.features[drawn])
        rows = np.concatenate([new, reference.sample])
        classes = reference.known.nearest(rows)
        is_new = np.arange(len(rows)) < len(new)
        is_enough = min(len(new), len(reference.sample)) >= FEWEST
        look = look_p_value(rows, is_new, classes, rng) if is_enough else None
        mix = mix_p_value(classes, is_new, rng) if is_enough and len(reference.known.means) > 1 else None
    return ShiftResult(
        num_images=len(photos.paths),
        num_compared=len(new),
        num_reference=len(reference.sample),
        p_value=look,
        mix_p_value=mix,
        looks_alike=None if look is None else look > LEVEL,
        is_mixed_alike=None if mix is None else mix > LEVEL,
        classes=_shares(classes, is_new, reference.classes) if mix is not None else (),
        num_unknown=int((photos.scores > reference.limit).sum()),
        limit=reference.limit,
        strangest=_strangest(photos, reference.limit),
    )


def look_p_value(rows: Floats, is_new: NDArray[np.bool_], classes: Labels, rng: np.random.Generator) -> float:
    """How often a deal within the classes differs as much as the two sides do.

    Args:
        rows: the images of both sides (N, R).
        is_new: which of them are new (N,).
        classes: the class that each is nearest to (N,).
    """
    deals = np.stack([is_new, *(_dealt(is_new, classes, rng) for _ in range(DEALS))]).astype(np.float64)
    # within each class the old images weigh as much as the new ones
    counts = np.bincount(classes[is_new], minlength=int(classes.max()) + 1)
    olds = np.bincount(classes[~is_new], minlength=len(counts))
    on_both = (counts > 0) & (olds > 0)
    ratio = np.where(on_both, counts / np.maximum(olds, 1), 0)[classes]
    weights = (deals * on_both[classes] - (1 - deals) * ratio) / max(1, counts.sum())
    found = np.einsum("dn,dn->d", weights @ kernel(rows), weights)
    return float((found >= found[0] * (1 - 1e-9)).mean())


def kernel(rows: Floats) -> NDArray[np.float64]:
    """The Gaussian kernel (N, N) of rows (N, R), as wide as the median distance."""
    rows = rows.astype(np.float64)
    lengths = np.square(rows).sum(1)
    squares = np.maximum(lengths[:, None] + lengths - 2 * rows @ rows.T, 0)
    return np.asarray(np.exp(-squares / max(float(np.median(squares)), 1e-12)))


def mix_p_value(classes: Labels, is_new: NDArray[np.bool_], rng: np.random.Generator) -> float:
    """How often a deal mixes the classes as differently as the two sides do: a permutation test with chi-square."""
    own = np.eye(int(classes.max()) + 1)[classes]
    deals = np.stack([is_new, *(rng.permutation(is_new) for _ in range(DEALS))]).astype(np.float64)
    expected = own.sum(0) * is_new.mean()
    found = (np.square(deals @ own - expected) / np.maximum(expected, 1e-12)).sum(1)
    return float((found >= found[0] * (1 - 1e-9)).mean())


def _dealt(is_new: NDArray[np.bool_], classes: Labels, rng: np.random.Generator) -> NDArray[np.bool_]:
    """The sides dealt anew, within each class."""
    # sorted by class in two ways: as they are, and shuffled
    shuffled = rng.permutation(len(classes))
    shuffled = shuffled[np.argsort(classes[shuffled], kind="stable")]
    dealt = np.empty_like(is_new)
    dealt[np.argsort(classes, kind="stable")] = is_new[shuffled]
    return dealt


def _shares(classes: Labels, is_new: NDArray[np.bool_], names: tuple[str, ...]) -> tuple[ClassShare, ...]:
    """How large a part each class is of the new photos and of the validation images, the largest change first."""
    new, old = (np.bincount(classes[side], minlength=len(names)) / side.sum() for side in (is_new, ~is_new))
    order = np.argsort(-np.abs(new - old), kind="stable")
    return tuple(ClassShare(names[place], float(new[place]), float(old[place])) for place in order)


def _strangest(photos: Photos, limit: float) -> tuple[StrangeImage, ...]:
    order = np.argsort(-photos.scores, kind="stable")[:STRANGEST]
    return tuple(
        StrangeImage(photos.paths[place], round(float(photos.scores[place]), 4), bool(photos.scores[place] <= limit))
        for place in order
    )
