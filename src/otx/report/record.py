"""Read a run folder: everything that a report needs."""

from __future__ import annotations

import csv
import itertools
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from otx.catalogue import load_recipe
from otx.data.dataset import Split
from otx.data.reading import AS_STORED, MAX_PIXELS, Reading
from otx.errors import DataError, ModelError, UsageError
from otx.evaluation.evaluate import PREDICTIONS, RESULTS, read_test
from otx.findings import LearningCurve
from otx.model.card import ModelCard
from otx.model.modelfile import read_card
from otx.plain import structured
from otx.results import BadImage, EpochResult, ImageResult, StopReason, TestResult
from otx.workspace import VALIDATION, RunFolder

TESTS = "test"


@dataclass(frozen=True)
class Measurement:
    """One measurement: its figures, and the answers for single images that they are computed from."""

    folder: Path
    result: TestResult
    images: tuple[ImageResult, ...]

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(item.name for item in self.result.classes)

    @property
    def is_own(self) -> bool:
        """Whether the images are a split of the data set that the model was trained on."""
        return self.result.subset in tuple(Split)

    @property
    def model_file(self) -> Path | None:
        """The file that was measured. The run folder may have moved, so a file of that name in it comes first."""
        run = self.folder.parent if self.folder.name == VALIDATION else self.folder.parents[1]
        names = (run / self.result.checkpoint.name, self.result.checkpoint)
        return next((path for path in names if path.is_file()), None)


@dataclass(frozen=True)
class Record:
    """The content of a run folder. What the run has not produced yet, or what was deleted, is None or empty.

    Args:
        summary: `run.json`.
        sizes: number of images by (class, subset).
        suspicions: `suspicions.json`.
    """

    folder: RunFolder
    card: ModelCard | None
    summary: dict[str, Any] | None
    epochs: tuple[EpochResult, ...]
    sizes: Counter[tuple[str, str]]
    bad_images: tuple[BadImage, ...]
    measurement: Measurement | None
    suspicions: dict[str, Any] | None
    learning_curve: LearningCurve | None = None

    @property
    def name(self) -> str:
        return self.folder.path.resolve().name

    @property
    def stop(self) -> StopReason | None:
        """Why the training ended, if it has."""
        if self.summary is None:
            return None
        # only old runs need this; the recipe may have been deleted
        known = load_recipe(self.folder.config).max_epochs if self.folder.config.is_file() else len(self.epochs)
        return StopReason.of(self.summary, known)

    @property
    def best(self) -> EpochResult | None:
        """The epoch whose weights are in the model file."""
        return next((epoch for epoch in reversed(self.epochs) if epoch.is_best), None)

    @property
    def held_back(self) -> bool:
        """Whether the model was measured on the validation images, which chose its best epoch (test may be val)."""
        if self.measurement is None:
            return False
        own_test = any(subset == "test" for _, subset in self.sizes)
        subset = self.measurement.result.subset
        return subset == Split.VAL or (subset == Split.TEST and bool(self.sizes) and not own_test)

    @property
    def is_new(self) -> bool:
        """Whether the model has certainly not seen the images that it was measured on."""
        if self.measurement is None or self.held_back:
            return False
        return self.measurement.is_own or self.measurement.result.is_compared

    @property
    def reading(self) -> Reading:
        """How the images were read."""
        return AS_STORED if self.card is None else self.card.preprocessing.reading(MAX_PIXELS)

    @property
    def classes(self) -> tuple[str, ...]:
        if self.measurement is not None:
            return self.measurement.classes
        return self.card.classes if self.card is not None else tuple(sorted({name for name, _ in self.sizes}))


def read_record(folder: Path) -> Record:
    """Read a run folder, or the folder of one of its tests, which is then the measurement.

    Raises:
        UsageError: the folder is missing, or not a run folder.
        DataError: a file in it is damaged.
    """
    is_test = folder.resolve().parent.name == TESTS and (folder / RESULTS).is_file()
    run = RunFolder(folder.resolve().parents[1] if is_test else folder)
    if not folder.is_dir():
        raise UsageError(f"there is no run folder {folder}", fix="`ls otx-workspace` shows the runs")
    measurement = Measurement(folder.resolve(), *read_test(folder)) if is_test else _measurement(run)
    if measurement is None and not run.config.is_file():
        raise UsageError(
            f"{folder} is no run folder: it has neither configs.yaml nor a test",
            fix="give a folder that `otx train` made: otx report otx-workspace/.latest/train",
        )
    return Record(
        folder=run,
        card=_card(run, measurement),
        summary=_json(run.summary),
        epochs=_epochs(run.metrics),
        sizes=Counter(_rows(run.split, "class", "subset")),
        bad_images=tuple(BadImage(path, reason) for path, reason in _rows(run.bad_images, "path", "reason")),
        measurement=measurement,
        suspicions=_json(run.suspicions),
        learning_curve=_learning_curve(run.learning_curve),
    )


def _measurement(run: RunFolder) -> Measurement | None:
    """The newest test of the run's own images; if none is newer than the training, that on the validation images."""
    tests = sorted(path.parent for path in run.path.glob(f"test/*/{PREDICTIONS}"))
    ended = (_json(run.summary) or {}).get("ended", "")
    fresh = [folder for folder in tests if folder.name >= ended]
    validation = run.path / VALIDATION
    for folder in reversed(fresh):
        measured = Measurement(folder, *read_test(folder))
        if measured.is_own:
            return measured
    return Measurement(validation, *read_test(validation)) if (validation / PREDICTIONS).is_file() else None


def _card(run: RunFolder, measurement: Measurement | None) -> ModelCard | None:
    paths = [run.model, *([measurement.model_file] if measurement and measurement.model_file else [])]
    for path in paths:
        if path.is_file():
            try:
                return read_card(path)
            except ModelError:
                continue
    return None


def _json(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        plain = json.loads(path.read_text(encoding="utf-8", errors="surrogateescape"))
    except ValueError as error:
        raise DataError(f"{path} is damaged: {error}") from error
    if not isinstance(plain, dict):
        raise DataError(f"{path} must hold an object, got {type(plain).__name__}")
    return plain


def _learning_curve(path: Path) -> LearningCurve | None:
    plain = _json(path)
    try:
        return None if plain is None else structured(LearningCurve, plain)
    except (KeyError, ValueError, TypeError) as error:
        raise DataError(f"{path} is damaged: {error}") from error


def _table(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    # names of files and folders need not be UTF-8
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        return list(csv.DictReader(file))


def _rows(path: Path, first: str, second: str) -> list[tuple[str, str]]:
    """Two columns of a table; none if it is not there."""
    try:
        return [(row[first], row[second]) for row in _table(path)]
    except (KeyError, csv.Error) as error:
        raise DataError(f"{path} is damaged: it has no columns {first}, {second}") from error


def _epochs(path: Path) -> tuple[EpochResult, ...]:
    try:
        return tuple(structured(EpochResult, row) for row in _table(path))
    except (KeyError, ValueError, TypeError) as error:
        raise DataError(f"{path} is damaged: {error}") from error


def lr_drops(epochs: tuple[EpochResult, ...]) -> tuple[EpochResult, ...]:
    """The epochs with a lower learning rate than the one before."""
    return tuple(after for before, after in itertools.pairwise(epochs) if 0 < after.lr < before.lr)
