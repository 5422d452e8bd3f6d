"""Split the images of a class by a hash of their paths and the seed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def share_of(count: int, share: float) -> int:
    """How many images a share of `count` is: rounded, at least one if there are two, never all; none for share 0."""
    if share == 0 or count < 2:
        return 0
    return min(max(1, round(count * share)), count - 1)


def split_class(
    paths: Sequence[str], *, seed: int, test_share: float, val_share: float
) -> tuple[list[str], list[str], list[str]]:
    """Split the images of one class into train, val and test, each sorted.

    The images are ranked by a hash of seed and path. The lowest are test, the highest val, the rest train. So one
    more image moves at most the image at each of the two boundaries.

    Args:
        paths: paths relative to the data root.
        test_share: share of all images, 0 for no test images.
        val_share: share of the images that are not test.
    """
    num_test = share_of(len(paths), test_share)
    num_val = share_of(len(paths) - num_test, val_share)
    first_val = len(paths) - num_val
    paths = sorted(paths)
    ranked = np.argsort(_ranks(paths, seed), kind="stable")

    def part(places: NDArray[np.int64]) -> list[str]:
        return [paths[place] for place in np.sort(places).tolist()]

    return part(ranked[num_test:first_val]), part(ranked[first_val:]), part(ranked[:num_test])


def _ranks(paths: Sequence[str], seed: int) -> NDArray[np.uint64]:
    begun = hashlib.blake2b(f"{seed}:".encode(), digest_size=8)
    digests = bytearray()
    for path in paths:
        digest = begun.copy()
        # file names that are not valid UTF-8 come with surrogates
        digest.update(path.encode("utf-8", "surrogateescape"))
        digests += digest.digest()
    return np.frombuffer(digests, ">u8")
