"""What is computed behind the page: features, groups, suggestions, and the check of the data set."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from otx.active import UNLABELLED, next_to_label
from otx.findings import CheckResult
from otx.label.board import Board
from otx.label.features import THUMBNAILS, FeatureCache, FeatureTable, Source, fill
from otx.label.groups import CHUNK, Clusters, cluster
from otx.label.review import Card, cards_of
from otx.label.suggest import Accuracy, cross_validate, fit, suggest

FIRST_GROUPS = 48
ASKED = 48
REST_SECONDS = 0.1
_log = logging.getLogger("otx")


@dataclass(frozen=True)
class Suggestions:
    """Suggested class (N,), -1 without one, and its probability (N,), from a number of labels."""

    label: NDArray[np.int64]
    confidence: NDArray[np.float32]
    num_labels: int


@dataclass
class Progress:
    """What is being done, and how much of it; nothing if `what` is empty."""

    what: str = "starting"
    done: int = 0
    total: int = 0


@dataclass(frozen=True)
class Checked:
    """The findings, the checked folder relative to the board's (empty or ending in `/`), the subset of each photo."""

    result: CheckResult
    prefix: str
    subsets: dict[str, str]


@dataclass(frozen=True)
class Work:
    """The slow parts, which the verb brings: loading a network, and checking the data set.

    Args:
        source: makes the source of the features; it may fail.
        check: finds suspicions.
    """

    source: Callable[[], Source]
    check: Callable[[Board, FeatureTable], Checked]


@dataclass
class Background:
    """Two threads: one looks at the photos once, the other fits a classifier after every change."""

    board: Board
    place: Path
    work: Work
    progress: Progress = field(default_factory=Progress)
    clusters: Clusters | None = None
    suggestions: Suggestions | None = None
    asked: Sequence[int] = ()
    accuracy: Accuracy | None = None
    cards: list[Card] | None = None
    warning: str = ""

    def __post_init__(self) -> None:
        self.features = FeatureTable(len(self.board.photos.paths))
        self._stop, self._again = threading.Event(), threading.Event()
        self._threads = [
            threading.Thread(target=self._guarded, args=(target,), daemon=True) for target in (self._look, self._fit)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout=10)

    def look_again(self) -> None:
        """Check the data set once more, with the labels that it has now."""
        self._again.set()

    def _guarded(self, target: Callable[[], None]) -> None:
        try:
            target()
        except Exception as error:  # the page goes on without what was computed behind it
            _log.exception("labelling goes on without suggestions")
            self.warning = f"Suggestions have ended: {type(error).__name__}: {error}"
            self.progress = Progress("")

    def _look(self) -> None:
        self.progress = Progress("loading the network")
        try:
            source = self.work.source()
        except Exception as error:  # any reason: thumbnails need no network
            self.warning = f"No network can be used: {error}"
            source = THUMBNAILS
        self.features.source = source.name
        paths, root = self.board.photos.paths, self.board.photos.root
        cache = FeatureCache(self.place / "features.sqlite", source.key)
        grouped = FIRST_GROUPS
        for done in fill(self.features, root, paths, cache, source):
            self.progress = Progress("looking at photos", done, len(paths))
            if self._stop.is_set():
                return
            if done >= grouped and done < len(paths):
                self._group()
                grouped = 4 * done
        self._group()
        self.features.finished = True
        self._check()
        while not self._stop.wait(REST_SECONDS):
            if self._again.is_set():
                self._again.clear()
                self._check()

    def _group(self) -> None:
        if self.features.rows is not None:
            self.clusters = cluster(self.features.rows, self.features.ready.copy())

    def _check(self) -> None:
        self.progress = Progress("looking for copies, leaks and wrong labels")
        try:
            found = self.work.check(self.board, self.features)
            numbers = {self.board.number_of(path): subset for path, subset in found.subsets.items()}
            self.board.subsets = {number: subset for number, subset in numbers.items() if number is not None}
            self.cards = cards_of(found.result, self.board, found.prefix)
        except Exception as error:  # the check is help, not a condition
            _log.debug("the check failed", exc_info=True)
            self.warning = f"The photos could not be checked: {error}"
            self.cards = []
        self.progress = Progress("")

    def _fit(self) -> None:
        seen = (-1, -1)
        while not self._stop.wait(REST_SECONDS):
            now = (self.board.version, self._step())
            if now != seen:
                seen = now
                self._suggest()

    def _step(self) -> int:
        """Which eighth of the features are there: with each of them suggestions are made for the new photos."""
        return 8 * self.features.done // max(1, self.features.count)

    def _suggest(self) -> None:
        ready = self.features.ready.copy()
        labels = np.where(ready, self.board.labels, UNLABELLED)
        known = np.flatnonzero(labels != UNLABELLED)
        names, own = np.unique(labels[known], return_inverse=True)
        own = own.astype(np.int64)
        if len(names) < 2:
            self.suggestions, self.accuracy = None, None
            self.asked = self._next(labels, ready)
            return
        rows = self.features.of(known)
        regression = fit(rows, own, len(names))
        label, confidence = np.full(len(ready), UNLABELLED), np.zeros(len(ready), np.float32)
        places = np.flatnonzero(ready)
        for start in range(0, len(places), CHUNK):
            part = places[start : start + CHUNK]
            best, confidence[part] = suggest(regression, self.features.of(part))
            label[part] = names[best]
        self.suggestions = Suggestions(label, confidence, len(known))
        self.asked = self._next(labels, ready)
        self.accuracy = cross_validate(rows, own)

    def _next(self, labels: NDArray[np.int64], ready: NDArray[np.bool_]) -> list[int]:
        usable = np.flatnonzero(ready & ~self.board.left_out)
        if len(usable) > 2 * CHUNK:  # features of all would be in memory twice
            rng = np.random.default_rng(self.board.version)
            free = usable[labels[usable] == UNLABELLED]
            known = usable[labels[usable] != UNLABELLED]
            usable = np.concatenate([rng.permutation(known)[:CHUNK], rng.permutation(free)[:CHUNK]])
        rows = self.features.of(usable)
        return [int(usable[place]) for place in next_to_label(rows, labels[usable], ASKED)]
