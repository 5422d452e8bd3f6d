"""Which images a training has seen, by the content of their files: a test must not call these new."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from otx.data.dataset import Dataset, ImageSet
from otx.data.decode import DIGEST_SIZE, digest_of, ordered
from otx.data.split_file import read_split
from otx.errors import DataError
from otx.files import atomic
from otx.workspace import RunFolder

# with more images no digests are stored: 3.2 MB, and reading all files once more
MAX_STORED = 200_000
SEEN = ("train", "val")


@dataclass(frozen=True)
class Known:
    """The images, by their paths, that a training has seen; `is_complete`: all of its images were compared."""

    paths: tuple[str, ...]
    is_complete: bool


def write_known(dataset: Dataset, path: Path) -> None:
    """Write the sorted digests of the training and validation images, unless there are more than MAX_STORED."""
    parts = [dataset.parts[name] for name in SEEN]
    if sum(map(len, parts)) > MAX_STORED:
        return
    found = _digests(dataset.root / item for part in parts for item in part.paths)
    with atomic(path, "wb") as file:
        file.write(b"".join(sorted({digest for digest in found if digest is not None})))


def find_known(images: ImageSet, run: RunFolder | None, trained_on: Path, subsets: tuple[str, ...] = SEEN) -> Known:
    """The images that a run was trained or validated on: the same bytes, whatever the name.

    Without stored digests, those of the run's files are computed, as far as the files are there.

    Args:
        subsets: those of the run to compare with. The stored digests are those of SEEN.

    Raises:
        DataError: the stored digests are damaged.
    """
    if run is None:
        return Known((), False)
    if subsets == SEEN and run.known.is_file():
        seen, is_complete = _read(run.known), True
    else:
        seen, is_complete = _of_files(images, run, trained_on, subsets)
    if not seen:
        return Known((), is_complete)
    found = zip(images.subset.paths, _digests(images.files()), strict=True)
    return Known(tuple(path for path, digest in found if digest in seen), is_complete)


def _digests(files: Iterable[Path]) -> Iterator[bytes | None]:
    return ordered(_digest, files)


def _digest(file: Path) -> bytes | None:
    """The digest of a file; None if it cannot be read."""
    try:
        return digest_of(file.read_bytes())
    except OSError:
        return None


def _read(path: Path) -> frozenset[bytes]:
    data = path.read_bytes()
    if len(data) % DIGEST_SIZE:
        raise DataError(f"{path} is damaged: {len(data)} bytes are no whole digests", fix="remove it, and test again")
    return frozenset(data[place : place + DIGEST_SIZE] for place in range(0, len(data), DIGEST_SIZE))


def _of_files(
    images: ImageSet, run: RunFolder, trained_on: Path, subsets: tuple[str, ...]
) -> tuple[frozenset[bytes], bool]:
    """The digests of the run's files that are as large as one of the images; and whether all files are there."""
    sizes = {_size(file) for file in images.files()} - {None}
    files = [trained_on / path for _, path, _, subset in read_split(run.split) if subset in subsets]
    own = [_size(file) for file in files]
    alike = (file for file, size in zip(files, own, strict=True) if size in sizes)
    return frozenset(digest for digest in _digests(alike) if digest is not None), None not in own


def _size(file: Path) -> int | None:
    try:
        return file.stat().st_size
    except OSError:
        return None
