"""Write saliency maps: for each image and class an overlay to look at, and the raw map for programs."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from otx.data.decode import decode_image, ordered
from otx.errors import ImageError, UsageError, nearest
from otx.files import write_csv
from otx.inference.classify import softmax
from otx.inference.overlay import draw_overlay, write_png
from otx.inference.predictor import Maps, Pixels, Predictor
from otx.results import Explanation

TARGETS = ("predicted", "true", "all")
BATCH = 8
COLUMNS = ("path", "class", "probability", "predicted", "overlay", "saliency_map", "error")


@dataclass(frozen=True)
class Subject:
    """An image to explain: its path, the name of its files (relative, without `..`), its true class if known."""

    path: Path
    name: str
    label: int | None = None


def check_targets(targets: str, classes: Sequence[str], *, labelled: bool) -> None:
    """Raise UsageError if the requested maps cannot be made."""
    if targets not in TARGETS and targets not in classes:
        raise UsageError(
            f"--explain_config.targets {targets}: no such class{nearest(targets, [*TARGETS, *classes])}",
            allowed=[*TARGETS, *classes],
        )
    if targets == "true" and not labelled:
        raise UsageError(
            "--explain_config.targets true needs images whose class is known",
            fix="leave the images out to explain the test split, or ask for predicted",
        )


def explain(
    predictor: Predictor, subjects: Iterable[Subject], folder: Path, *, targets: str, algorithm: str, max_pixels: int
) -> Iterator[Explanation]:
    """Explain images one after another, in order; one that cannot be decoded gives an explanation with an error."""

    preprocessing = predictor.card.preprocessing
    reading = preprocessing.reading(max_pixels)

    def load(subject: Subject) -> tuple[Subject, Pixels | None, str | None]:
        try:
            return subject, decode_image(subject.path, reading), None
        except ImageError as error:
            return subject, None, error.what

    names = file_names(predictor.card.classes)
    rows = ordered(load, subjects)
    while batch := list(islice(rows, BATCH)):
        good = [(subject, pixels) for subject, pixels, _ in batch if pixels is not None]
        answers: Iterator[tuple[NDArray[np.float64], Maps]] = iter(())
        if good:
            logits, maps = predictor.explain([pixels for _, pixels in good], algorithm)
            answers = zip(softmax(logits), maps, strict=True)
        for subject, pixels, error in batch:
            if pixels is None:
                yield Explanation(str(subject.path), None, None, None, None, None, error)
            else:
                probabilities, own = next(answers)
                classes = predictor.card.classes
                wanted = _wanted(targets, classes, int(probabilities.argmax()), subject.label)
                maps_of_image = preprocessing.on_image(own[list(wanted)], *pixels.shape[:2])
                shown = dict(zip(wanted, maps_of_image, strict=True))
                stems = {index: folder / f"{_shorten(subject.name, 120)}.{names[index]}" for index in wanted}
                yield from _write(classes, str(subject.path), pixels, probabilities, shown, stems)


def _write(
    classes: tuple[str, ...],
    path: str,
    pixels: Pixels,
    probabilities: NDArray[np.float64],
    maps: Mapping[int, NDArray[np.float32]],
    stems: Mapping[int, Path],
) -> Iterator[Explanation]:
    best = int(probabilities.argmax())
    for index, own in maps.items():
        overlay, raw = Path(f"{stems[index]}.overlay.png"), Path(f"{stems[index]}.map.png")
        caption = [f"{classes[index]}: {probabilities[index]:.1%}"]
        if index != best:
            caption.append(f"taken for {classes[best]}: {probabilities[best]:.1%}")
        write_png(overlay, draw_overlay(pixels, own, caption))
        write_png(raw, np.round(own * 65535).astype(np.uint16))
        yield Explanation(path, classes[index], float(probabilities[index]), classes[best], overlay, raw)


def file_names(classes: Sequence[str]) -> list[str]:
    """What stands for each class in the names of files; no two are the same: `C#` and `C+` would both be `C_`."""
    plain = [re.sub(r"[^\w.-]", "_", name) for name in classes]
    same = {text.casefold() for text, count in Counter(text.casefold() for text in plain).items() if count > 1}
    return [
        _shorten(text if text.casefold() not in same else f"{text}.{_digest(os.fsencode(name))}", 60)
        for name, text in zip(classes, plain, strict=True)
    ]


def _digest(coded: bytes) -> str:
    return hashlib.blake2b(coded, digest_size=4).hexdigest()


def _wanted(targets: str, classes: tuple[str, ...], best: int, label: int | None) -> Sequence[int]:
    if targets in classes:
        return [classes.index(targets)]
    if targets == "all":
        return range(len(classes))
    return [best if targets == "predicted" or label is None else label]


def _shorten(name: str, limit: int) -> str:
    """Shorten the last part of a name to at most `limit` bytes, with a hash at the end if it is cut."""
    start, slash, last = name.rpartition("/")
    coded = os.fsencode(last)
    if len(coded) > limit:
        last = coded[: limit - 9].decode("utf-8", "ignore") + "." + _digest(coded)
    return f"{start}{slash}{last}"


def subjects_of(paths: Iterable[str]) -> Iterator[Subject]:
    """The images that the user named, each with its own name for its files."""
    taken: dict[str, int] = {}
    for path in paths:
        parts = [part for part in Path(path).parts if part not in ("..", ".", Path(path).anchor)]
        name = "/".join(parts[-2:])
        taken[name] = taken.get(name, 0) + 1
        yield Subject(Path(path), name if taken[name] == 1 else f"{name}.{taken[name]}")


def write_explanations(explanations: Iterable[Explanation], folder: Path) -> None:
    """Write `explanations.csv`: a row for each map; its files relative to the folder."""

    def relative(path: Path | None) -> str:
        return "" if path is None else str(path.relative_to(folder))

    rows = (
        (
            e.path,
            e.label or "",
            "" if e.probability is None else f"{e.probability:.6f}",
            e.predicted or "",
            relative(e.overlay),
            relative(e.saliency_map),
            e.error or "",
        )
        for e in explanations
    )
    write_csv(folder / "explanations.csv", COLUMNS, rows)
