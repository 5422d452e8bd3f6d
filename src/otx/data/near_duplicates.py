"""Find near duplicates: copies of a picture under another name, in another size or JPEG quality.

Two steps. A perceptual hash finds candidates without comparing all pairs: a bit for each of the 8 x 8 lowest
frequencies of a grey 16 x 16 thumbnail. Candidates are then compared by the correlation of their thumbnails, which
brightness and contrast do not change, but another photo of the same scene does.

Source: Zauner, Implementation and Benchmarking of Perceptual Image Hash Functions, 2010 (the hash); Norouzi et al.,
Fast Exact Search in Hamming Space with Multi-Index Hashing, arXiv 1307.2982 (the search).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

GRID = 16
LOW = 8
MAX_BITS = 7
MIN_CORRELATION = 0.98
BAND_BITS = 16
CHUNK = 1 << 20

Thumbs = NDArray[np.uint8]
Hashes = NDArray[np.uint64]


def perceptual_hashes(thumbs: Thumbs) -> Hashes:
    """The hash (N,) of grey thumbnails (N, 16, 16): a bit for each low frequency, set if it is above the median."""
    places = np.pi * (np.arange(GRID) + 0.5) / GRID
    waves = np.cos(places * np.arange(LOW)[:, None]).astype(np.float32)
    hashes = [np.empty(0, np.uint64)]
    for part in _chunks(thumbs, CHUNK // 256):
        low = (waves @ part.astype(np.float32) @ waves.T).reshape(len(part), LOW * LOW)
        bits = low > np.median(low, axis=1, keepdims=True)
        hashes.append(np.packbits(bits, axis=1).view(np.uint64)[:, 0])
    return np.concatenate(hashes)


def correlations(first: Thumbs, second: Thumbs) -> NDArray[np.float32]:
    """Correlation (N,) of each two thumbnails of (N, 16, 16) and (N, 16, 16), -1 to 1; 0 if one is uniform."""
    answers = [np.empty(0, np.float32)]
    for a, b in zip(_chunks(first, CHUNK // 256), _chunks(second, CHUNK // 256), strict=True):
        answers.append((_standard(a) * _standard(b)).sum(axis=1))
    return np.concatenate(answers)


def _standard(thumbs: Thumbs) -> NDArray[np.float32]:
    rows = thumbs.reshape(len(thumbs), GRID * GRID).astype(np.float32)
    rows -= rows.mean(axis=1, keepdims=True)
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6), np.float32)


def group_alike(thumbs: Thumbs) -> list[list[int]]:
    """Group thumbnails (N, 16, 16) of the same picture: sorted lists of two or more indices.

    Uniform thumbnails are in no group. Groups are chains: the ends of one may be less alike than neighbours.
    """
    rows = np.flatnonzero(thumbs.reshape(-1, GRID * GRID).std(axis=1, dtype=np.float32) > 0)
    hashes = perceptual_hashes(thumbs[rows])
    leaders = _leaders(hashes, thumbs[rows])
    chosen = np.unique(leaders)
    links = [(int(rows[leader]), int(row)) for leader, row in zip(leaders, rows, strict=True)]
    for pairs in close_pairs(hashes[chosen]):
        first, second = rows[chosen[pairs[:, 0]]], rows[chosen[pairs[:, 1]]]
        alike = correlations(thumbs[first], thumbs[second]) >= MIN_CORRELATION
        links += zip(first[alike].tolist(), second[alike].tolist(), strict=True)
    return join(links)


def _leaders(hashes: Hashes, thumbs: Thumbs) -> NDArray[np.intp]:
    """For each thumbnail the first one of the same hash and picture: ten thousand copies are not compared in pairs."""
    leaders = np.arange(len(hashes))
    left = leaders
    while len(left):
        _, first, hash_of = np.unique(hashes[left], return_index=True, return_inverse=True)
        heads = left[first[hash_of]]
        alike = (correlations(thumbs[left], thumbs[heads]) >= MIN_CORRELATION) | (left == heads)
        leaders[left[alike]] = heads[alike]
        left = left[~alike]
    return leaders


def close_pairs(hashes: Hashes) -> Iterator[NDArray[np.intp]]:
    """Pairs (M, 2) of indices of `hashes` (N,) that differ in at most 7 of 64 bits; a pair may come several times.

    At least one of the four bands of 16 bits then differs in at most one bit. So each band is looked up in a sorted
    list, as it is and with each bit flipped, and the work grows with N and the pairs found, not with N squared.
    """
    flips = [0, *(1 << bit for bit in range(BAND_BITS))]
    for shift in range(0, 64, BAND_BITS):
        keys = (hashes >> np.uint64(shift)).astype(np.uint16)
        order = np.argsort(keys, kind="stable")
        starts = np.searchsorted(keys[order], np.arange((1 << BAND_BITS) + 1, dtype=np.uint32))
        for flip in flips:
            wanted = keys ^ np.uint16(flip)
            for pairs in _matching_pairs(order, starts[wanted], starts[wanted.astype(np.uint32) + 1]):
                near = np.bitwise_count(hashes[pairs[:, 0]] ^ hashes[pairs[:, 1]]) <= MAX_BITS
                yield pairs[near]


def _matching_pairs(
    order: NDArray[np.intp], low: NDArray[np.intp], high: NDArray[np.intp]
) -> Iterator[NDArray[np.intp]]:
    """Pairs (i, j) with i < j and j in `order[low[i]:high[i]]`, in chunks (M, 2)."""
    counts = high - low
    ends = np.cumsum(counts)
    first = 0
    while first < len(counts):
        before = ends[first] - counts[first]
        last = max(first + 1, int(np.searchsorted(ends, before + CHUNK, side="right")))
        own = np.repeat(np.arange(first, last), counts[first:last])
        offsets = np.arange(len(own)) - np.repeat(ends[first:last] - counts[first:last] - before, counts[first:last])
        other = order[low[own] + offsets]
        yield np.stack([own, other], axis=1)[own < other]
        first = last


def join(links: Iterable[tuple[int, int]]) -> list[list[int]]:
    """Groups of two or more numbers that the links connect, each sorted, in the order of their first numbers."""
    parent: dict[int, int] = {}

    def top(item: int) -> int:
        parent.setdefault(item, item)
        while parent[item] != item:
            parent[item] = item = parent[parent[item]]
        return item

    for first, second in links:
        low, high = sorted((top(first), top(second)))
        parent[high] = low
    groups: dict[int, list[int]] = defaultdict(list)
    for item in sorted(parent):
        groups[top(item)].append(item)
    return [group for group in groups.values() if len(group) > 1]


def nearest(thumbs: Thumbs, wanted: Sequence[int], among: Sequence[int]) -> list[tuple[int, float]]:
    """For each of the `wanted` thumbnails the most similar one of `among`, and their correlation, -1 to 1."""
    answers = []
    rows = _standard(thumbs[list(among)])
    for item in wanted:
        likeness = rows @ _standard(thumbs[[item]])[0]
        best = int(likeness.argmax())
        answers.append((among[best], float(likeness[best])))
    return answers


def _chunks(items: Thumbs, size: int) -> Iterator[Thumbs]:
    return (items[start : start + size] for start in range(0, len(items), size))
