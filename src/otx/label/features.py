"""Features of photos, computed behind the page and kept by the content of each file."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from otx.data.decode import decode_image, digest_of, ordered
from otx.data.preprocessing import opencv
from otx.data.reading import AS_STORED, Reading
from otx.errors import ImageError

# small: a network takes memory for each image of a batch
BATCH, CHUNK = 4, 64
GRID, COLOURS = 16, 8
SCHEMA = (
    "PRAGMA journal_mode=WAL",
    "PRAGMA synchronous=NORMAL",
    "CREATE TABLE IF NOT EXISTS files (path TEXT PRIMARY KEY, size INT, time INT, digest BLOB)",
    "CREATE TABLE IF NOT EXISTS features (digest BLOB, source TEXT, data BLOB, PRIMARY KEY (digest, source))",
)
Pixels = NDArray[np.uint8]
Features = NDArray[np.float32]


@dataclass(frozen=True)
class Source:
    """What turns decoded photos into features (N, D).

    Args:
        name: what they are, in words, for the page.
        key: tells the features of different networks and weights apart.
        shrink: makes an image as small as `compute` needs it, so that few large ones are in memory at a time.
    """

    name: str
    key: str
    compute: Callable[[Sequence[Pixels]], Features]
    shrink: Callable[[Pixels], Pixels]
    reading: Reading = AS_STORED


def thumbnail_features(images: Sequence[Pixels]) -> Features:
    """Features (N, 448) of images (H, W, 3) without a network: a grey thumbnail and a smaller one in colour."""
    return np.stack([_thumbnail_feature(each) for each in images])


def _to_thumbnail(image: Pixels) -> Pixels:
    return np.asarray(opencv().resize(image, (GRID, GRID), interpolation=opencv().INTER_AREA), np.uint8)


def _thumbnail_feature(image: Pixels) -> Features:
    cv2, small = opencv(), _to_thumbnail(image)
    grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY).astype(np.float32).reshape(-1)
    colour = cv2.resize(small, (COLOURS, COLOURS), interpolation=cv2.INTER_AREA).astype(np.float32).reshape(-1)
    # both parts count as much as the contrast and the colours that they show
    parts = [(grey - grey.mean()) / GRID, (colour - 128) / COLOURS]
    return np.asarray(np.concatenate(parts) / 128, np.float32)


THUMBNAILS = Source("thumbnails, as there are no pretrained weights", "thumbnails", thumbnail_features, _to_thumbnail)


class FeatureCache:
    """Features by the content of files, in an SQLite file that a killed process leaves whole.

    A file whose size and time of change are known is not read again. If the file cannot be used, nothing is kept.
    """

    def __init__(self, path: Path, key: str) -> None:
        self._key = key
        try:
            self._base = _open(str(path))
        except sqlite3.Error:
            self._base = _open(":memory:")

    def find(self, root: Path, name: str) -> tuple[bytes | None, Features | None]:
        """The digest of a file, and its features if they are known; None, None if it cannot be read."""
        digest = self._digest(root / name, name)
        if digest is None:
            return None, None
        query = "SELECT data FROM features WHERE digest = ? AND source = ?"
        row = self._base.execute(query, (digest, self._key)).fetchone()
        return digest, None if row is None else np.frombuffer(row[0], np.float16).astype(np.float32)

    def keep(self, items: Sequence[tuple[bytes, Features]]) -> None:
        rows = [(digest, self._key, row.astype(np.float16).tobytes()) for digest, row in items]
        with contextlib.suppress(sqlite3.Error):  # a full disk: they are computed again next time
            self._base.execute("BEGIN")
            self._base.executemany("INSERT OR REPLACE INTO features VALUES (?, ?, ?)", rows)
            self._base.execute("COMMIT")

    def _digest(self, file: Path, name: str) -> bytes | None:
        try:
            state = file.stat()
            known = self._base.execute("SELECT size, time, digest FROM files WHERE path = ?", (_text(name),)).fetchone()
            if known is not None and known[:2] == (state.st_size, state.st_mtime_ns):
                return bytes(known[2])
            digest = digest_of(file.read_bytes())
        except OSError:
            return None
        with contextlib.suppress(sqlite3.Error):
            values = (_text(name), state.st_size, state.st_mtime_ns, digest)
            self._base.execute("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?)", values)
        return digest


def _open(path: str) -> sqlite3.Connection:
    base = sqlite3.connect(path, isolation_level=None)
    for line in SCHEMA:
        base.execute(line)
    return base


def _text(name: str) -> str:
    return name.encode("utf-8", "backslashreplace").decode()


@dataclass
class FeatureTable:
    """The features of all photos while they come in; shared between threads.

    Attributes:
        rows: (N, D) half floats; None until the first are there.
        ready: (N,) whether a photo's features are there.
        bad: why photos cannot be decoded, by number.
        source: what the features are, in words.
    """

    count: int
    rows: NDArray[np.float16] | None = None
    source: str = ""
    finished: bool = False

    def __post_init__(self) -> None:
        self.ready = np.zeros(self.count, bool)
        self.bad: dict[int, str] = {}
        self.lock = threading.Lock()

    def put(self, number: int, row: Features) -> None:
        if self.rows is None:
            self.rows = np.zeros((self.count, len(row)), np.float16)
        self.rows[number] = row
        self.ready[number] = True

    @property
    def done(self) -> int:
        return int(self.ready.sum()) + len(self.bad)

    def of(self, numbers: NDArray[np.int64]) -> Features:
        """The features (n, D) of photos whose features are there."""
        if self.rows is None:
            return np.zeros((0, 1), np.float32)
        return self.rows[numbers].astype(np.float32)


def fill(table: FeatureTable, root: Path, paths: Sequence[str], cache: FeatureCache, source: Source) -> Iterator[int]:
    """Fill a table with features from the cache, and compute those that are missing, in random order.

    Yields:
        The number of photos done, after each few.
    """
    order = np.random.default_rng(0).permutation(len(paths)).tolist()
    missing: list[tuple[int, bytes]] = []
    for place, number in enumerate(order):
        digest, row = cache.find(root, paths[number])
        if row is not None:
            table.put(number, row)
        elif digest is None:
            table.bad[number] = "cannot be read"
        else:
            missing.append((number, digest))
        if place % CHUNK == 0:
            yield table.done
        if len(missing) >= CHUNK:
            yield from _compute(table, root, paths, missing, cache, source)
            missing = []
    yield from _compute(table, root, paths, missing, cache, source)
    yield table.done


def _compute(
    table: FeatureTable,
    root: Path,
    paths: Sequence[str],
    missing: Sequence[tuple[int, bytes]],
    cache: FeatureCache,
    source: Source,
) -> Iterator[int]:
    def load(item: tuple[int, bytes]) -> tuple[int, bytes, Pixels | str]:
        number, digest = item
        try:
            return number, digest, source.shrink(decode_image(root / paths[number], source.reading))
        except ImageError as error:
            return number, digest, error.what

    loaded = ordered(load, missing)
    while batch := list(islice(loaded, BATCH)):
        good = [(number, digest, pixels) for number, digest, pixels in batch if not isinstance(pixels, str)]
        table.bad.update({number: reason for number, _, reason in batch if isinstance(reason, str)})
        if not good:
            continue
        rows = source.compute([pixels for _, _, pixels in good])
        for (number, _, _), row in zip(good, rows, strict=True):
            table.put(number, row)
        cache.keep([(digest, row) for (_, digest, _), row in zip(good, rows, strict=True)])
        yield table.done
