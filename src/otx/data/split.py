"""Split the images of a class: which side an image is on follows from its path and the seed alone."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence


def share_of(count: int, share: float) -> int:
    """How many of `count` images a share is: rounded, at least one where two are there, never all."""
    if share == 0 or count < 2:
        return 0
    return min(max(1, round(count * share)), count - 1)


def split_class(
    paths: Sequence[str], *, seed: int, test_share: float, val_share: float
) -> tuple[list[str], list[str], list[str]]:
    """Split the images of one class into train, val and test, each sorted.

    The images are ranked by a hash of seed and path. The lowest are test, the highest val, the rest train. So one
    more image moves at most the image at each of the two boundaries, and its neighbours do not matter.

    Args:
        paths: paths relative to the data root.
        test_share: share of all images, 0 for no test images.
        val_share: share of the images that are not test.
    """
    ranked = sorted(paths, key=lambda path: _rank(path, seed))
    num_test = share_of(len(ranked), test_share)
    num_val = share_of(len(ranked) - num_test, val_share)
    first_val = len(ranked) - num_val
    return sorted(ranked[num_test:first_val]), sorted(ranked[first_val:]), sorted(ranked[:num_test])


def _rank(path: str, seed: int) -> bytes:
    # file systems hand out names that are no valid UTF-8 as surrogates
    return hashlib.blake2b(f"{seed}:{path}".encode("utf-8", "surrogateescape"), digest_size=8).digest()
