"""Find what is wrong or unusual in a folder of images before training; each image is read once."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from otx.data.dataset import Dataset
from otx.data.decode import EMPTY, ImagePreview, check_image, ordered, preview_image
from otx.data.near_duplicates import GRID, MIN_CORRELATION, group_alike, join, nearest
from otx.data.preprocessing import Preprocessing, opencv
from otx.data.reading import AS_STORED, Reading
from otx.data.shapes import TINY, is_small, resize_in_words, shown_size
from otx.errors import ImageError
from otx.events import Progress, Reporter, SilentReporter, heartbeat
from otx.files import TABLES, check_output, write_csv, write_json
from otx.findings import CheckResult, ClassCount, CopyGroup, CopyPair, Finding, ImageRef
from otx.results import BadImage

HUGE = 25_000_000
MAX_ASPECT = 4.0
RARE = 0.1
ONE_COLOUR = 2.0
NO_COLOUR = 3.0
REPORT_EVERY = 64


@dataclass(frozen=True, slots=True)
class ImageSummary:
    """An image in half a kilobyte: its size in pixels, its kind, a digest of its file, a thumbnail.

    `thumb` holds 16 x 16 grey values. `kind` is "colour", "grey", "alpha channel" or that of `ImagePreview`.
    """

    width: int
    height: int
    kind: str
    one_colour: bool
    digest: bytes
    thumb: bytes

    @property
    def size(self) -> str:
        return f"{self.width}x{self.height} pixels"

    @property
    def aspect(self) -> float:
        """Longer side over shorter side."""
        return max(self.width, self.height) / min(self.width, self.height)


@dataclass(frozen=True)
class ScanResult:
    """Summaries of images by path (`looks`), and the images that cannot be decoded."""

    looks: dict[str, ImageSummary]
    bad: tuple[BadImage, ...]


def scan_images(
    root: Path,
    paths: Iterable[str],
    *,
    closely: Collection[str] | None = None,
    reading: Reading = AS_STORED,
    on_progress: Callable[[int], None] | None = None,
) -> ScanResult:
    """Decode each image once, as small as will do. The paths are relative to `root`.

    Args:
        closely: the paths to summarise; the others are only checked for whether they can be decoded. None: all.
        on_progress: gets the number of images done.
    """

    def see(path: str) -> tuple[str, ImageSummary | str | None]:
        if closely is not None and path not in closely:
            return path, check_image(root / path, reading)
        try:
            return path, summarise_image(root / path, reading)
        except ImageError as error:
            return path, error.what

    looks, bad = {}, []
    for number, (path, answer) in enumerate(ordered(see, paths), start=1):
        if isinstance(answer, ImageSummary):
            looks[path] = answer
        elif answer is not None:
            bad.append(BadImage(path, answer))
        if on_progress is not None and number % REPORT_EVERY == 0:
            on_progress(number)
    return ScanResult(looks, tuple(bad))


def summarise_image(path: Path, reading: Reading = AS_STORED) -> ImageSummary:
    """Summarise an image file.

    Raises:
        ImageError: it cannot be decoded, or has more than `reading.max_pixels` pixels.
    """
    seen = preview_image(path, reading)
    cv2 = opencv()
    small = cv2.resize(seen.pixels, (GRID, GRID), interpolation=cv2.INTER_AREA)
    flat = bool(small.reshape(-1, 3).std(axis=0).max() < ONE_COLOUR)
    grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)
    return ImageSummary(seen.width, seen.height, _kind(seen, small), flat, seen.digest, grey.tobytes())


def _kind(seen: ImagePreview, small: NDArray[np.uint8]) -> str:
    if seen.transparent:
        return "alpha channel"
    if seen.kind not in ("RGB", "L", "P", "1", "YCbCr"):
        return seen.kind
    spread = small.max(axis=2).astype(np.int16) - small.min(axis=2)
    return "grey" if spread.mean() < NO_COLOUR else "colour"


@dataclass(frozen=True)
class Copies:
    """Images, their summaries and thumbnails (N, 16, 16), and groups of the indices of the same picture."""

    places: tuple[ImageRef, ...]
    looks: tuple[ImageSummary, ...]
    thumbs: NDArray[np.uint8]
    groups: tuple[tuple[int, ...], ...]

    def closest(self, wanted: Sequence[int], among: Sequence[int]) -> list[tuple[int, int, float]]:
        """(index, index of its closest copy, likeness) for each of `wanted` that has a copy in `among`."""
        by_digest = {self.looks[item].digest: item for item in reversed(among)}
        found = []
        for item, (best, likeness) in zip(wanted, nearest(self.thumbs, wanted, among), strict=True):
            same = by_digest.get(self.looks[item].digest)
            if same is not None:
                found.append((item, same, 1.0))
            elif likeness >= MIN_CORRELATION:
                found.append((item, best, likeness))
        return found

    def pair(self, first: int, second: int, likeness: float) -> CopyPair:
        exact = self.looks[first].digest == self.looks[second].digest
        return CopyPair(self.places[first], self.places[second], exact, round(likeness, 4))


def find_copies(places: Iterable[ImageRef], looks: Mapping[str, ImageSummary]) -> Copies:
    """Find files of the same picture: the same bytes, or the same except for size, quality and brightness.

    Tiny images and those of one colour show too little to be compared: only the same bytes count.
    """
    places = tuple(place for place in places if place.path in looks)
    own = [looks[place.path] for place in places]
    thumbs = np.frombuffer(b"".join(look.thumb for look in own), np.uint8).reshape(-1, GRID, GRID)
    same: dict[bytes, int] = {}
    links = [(same.setdefault(look.digest, row), row) for row, look in enumerate(own)]
    rows = [row for row, look in enumerate(own) if not look.one_colour and min(look.width, look.height) >= TINY]
    for group in group_alike(thumbs[rows]):
        links += [(rows[group[0]], rows[item]) for item in group[1:]]
    return Copies(places, tuple(own), thumbs, tuple(map(tuple, join(links))))


def find_leaks(copies: Copies) -> tuple[CopyPair, ...]:
    """For each validation or test image that is also a training image, the pair."""
    pairs = []
    for group in copies.groups:
        train = [item for item in group if copies.places[item].subset == "train"]
        others = [item for item in group if copies.places[item].subset != "train"]
        if train and others:
            pairs += [copies.pair(best, item, likeness) for item, best, likeness in copies.closest(others, train)]
    return tuple(sorted(pairs, key=lambda pair: (pair.second.path, pair.second.subset)))


def find_conflicts(copies: Copies) -> tuple[CopyPair, ...]:
    """Pairs of copies under two labels: the first has the most common label of its group, the second does not."""
    pairs = []
    for group in copies.groups:
        labels = Counter(copies.places[item].label for item in group)
        usual = max(labels, key=lambda label: labels[label])
        most = [item for item in group if copies.places[item].label == usual]
        others = [item for item in group if copies.places[item].label != usual]
        if others:
            pairs += [copies.pair(best, item, likeness) for item, best, likeness in copies.closest(others, most)]
    return tuple(sorted(pairs, key=lambda pair: pair.second.path))


def _copy_groups(copies: Copies) -> tuple[CopyGroup, ...]:
    groups = []
    for group in copies.groups:
        digests = {copies.looks[item].digest for item in group}
        groups.append(CopyGroup(tuple(copies.places[item] for item in group), len(digests) == 1))
    return tuple(groups)


def check_dataset(
    dataset: Dataset, size: Preprocessing, reading: Reading = AS_STORED, reporter: Reporter | None = None
) -> CheckResult:
    """Look at every image of a data set once, and list what is wrong or unusual.

    Args:
        size: what the images are resized to.
    """
    told = reporter or SilentReporter()
    paths = sorted({place.path for place in image_refs(dataset)})
    seen = scan_images(
        dataset.root,
        paths,
        reading=reading,
        on_progress=lambda done: told.progress(Progress("looking at images", done, len(paths))),
    )
    with heartbeat(told, "comparing images"):
        return suspect(dataset, seen, size)


def suspect(dataset: Dataset, seen: ScanResult, size: Preprocessing) -> CheckResult:
    """List what is wrong or unusual about the scanned images of a data set."""
    bad = {image.path for image in seen.bad}
    by_path = {place.path: place for place in image_refs(dataset) if place.path in seen.looks or place.path in bad}
    looks = sorted(seen.looks.items())
    copies = find_copies(image_refs(dataset), seen.looks)
    small = [(path, look) for path, look in looks if is_small(look.width, look.height, size)]
    notes = dataset.notes
    if len(small) > RARE * len(looks):
        notes, small = (*notes, _small_in_words(small, len(looks), size)), []

    def list_of(reasons: Iterable[tuple[str, str | None]]) -> tuple[Finding, ...]:
        return tuple(Finding(**by_path[path].to_dict(), reason=reason) for path, reason in reasons if reason)

    return CheckResult(
        data_root=dataset.root.resolve(),
        layout=dataset.layout,
        notes=notes,
        num_images=len(by_path),
        classes=_counts(dataset),
        broken=list_of((image.path, image.reason) for image in seen.bad if image.reason != EMPTY),
        empty=list_of((image.path, image.reason) for image in seen.bad if image.reason == EMPTY),
        tiny=list_of((path, _tiny(look)) for path, look in looks),
        huge=list_of((path, _huge(look)) for path, look in looks),
        odd=list_of(_odd(looks, size)),
        copies=_copy_groups(copies),
        leaks=find_leaks(copies),
        conflicts=find_conflicts(copies),
        small=list_of((path, f"{look.size}, enlarged to {shown_size(size)}") for path, look in small),
    )


def image_refs(dataset: Dataset) -> Iterator[ImageRef]:
    """Every image of a data set, test first, train last."""
    for name, subset in reversed(dataset.parts.items()):
        for path, label in zip(subset.paths, subset.labels, strict=True):
            yield ImageRef(path, dataset.classes[label], name)


def _counts(dataset: Dataset) -> tuple[ClassCount, ...]:
    counts = {name: Counter(subset.labels) for name, subset in dataset.parts.items()}
    zero: Counter[int] = Counter()
    return tuple(
        ClassCount(name, counts["train"][label], counts["val"][label], counts.get("test", zero)[label])
        for label, name in enumerate(dataset.classes)
    )


def _tiny(look: ImageSummary) -> str | None:
    if min(look.width, look.height) >= TINY:
        return None
    return f"{look.size}, a side under {TINY}"


def _huge(look: ImageSummary) -> str | None:
    if look.width * look.height <= HUGE:
        return None
    return f"{look.size}, over {HUGE // 1_000_000} million"


def _small_in_words(small: Sequence[tuple[str, ImageSummary]], count: int, size: Preprocessing) -> str:
    """A sentence about a data set of which many images are smaller than the network's input."""
    path, least = min(small, key=lambda item: item[1].width * item[1].height)
    return (
        f"{len(small)} of {count} images are smaller than the network's input of {shown_size(size)} and are enlarged; "
        f"the smallest, {path}, has {least.size}. A smaller --data.input_size trains faster."
    )


def _odd(looks: Sequence[tuple[str, ImageSummary]], size: Preprocessing) -> Iterable[tuple[str, str]]:
    """What is unusual about each image, by itself or among the others."""
    kinds: dict[str, int] = defaultdict(int)
    for _, look in looks:
        kinds[look.kind] += 1
    for path, look in looks:
        reasons = []
        if look.aspect > MAX_ASPECT:
            reasons.append(f"{look.size}, {look.aspect:.1f} to 1, {resize_in_words(look.aspect, size)}")
        if look.one_colour:
            reasons.append("all of one colour")
        elif kinds[look.kind] < RARE * len(looks):
            reasons.append(f"{look.kind}, as {kinds[look.kind]} of {len(looks)} images")
        if reasons:
            yield path, "; ".join(reasons)


def write_check(suspicions: CheckResult, path: Path) -> None:
    """Write what was found as `.json` (all of it) or `.csv` (finding, path, label, subset, why).

    Raises:
        UsageError: another suffix.
    """
    check_output(path, "findings", TABLES, "findings.csv")
    if path.suffix.lower() == ".json":
        write_json(path, suspicions.to_dict())
        return
    rows = (
        (kind, place.path, place.label, place.subset, why)
        for kind, found in (suspicions.by_kind() | {"strangest": suspicions.strangest()}).items()
        for place, why in found
    )
    write_csv(path, ("finding", "path", "label", "subset", "why"), rows)
