"""What the verbs tell whoever is watching, while they work."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Protocol

from otx.results import EpochResult

_log = logging.getLogger("otx")


@dataclass(frozen=True)
class Progress:
    """How far a piece of work is: `done` of `total`. `detail` is a figure of the moment, such as the loss."""

    what: str
    done: int
    total: int
    detail: str = ""


class Reporter(Protocol):
    """The receiver of what happens during a verb."""

    def note(self, text: str) -> None:
        """A fact worth knowing."""

    def warn(self, text: str) -> None:
        """Something that is not as the person may think."""

    def progress(self, progress: Progress) -> None:
        """A sign of life, many times a second at most a few."""

    def epoch(self, result: EpochResult, max_epochs: int) -> None:
        """An epoch of training is over."""


class LogReporter:
    """Writes to Python's logger `otx`; what `Engine` uses unless it is given another."""

    def note(self, text: str) -> None:
        _log.info(text)

    def warn(self, text: str) -> None:
        _log.warning(text)

    def progress(self, progress: Progress) -> None:
        _log.debug("%s %d/%d %s", progress.what, progress.done, progress.total, progress.detail)

    def epoch(self, result: EpochResult, max_epochs: int) -> None:
        _log.info(
            "epoch %d/%d: loss %.4f, val accuracy %.4f",
            result.epoch + 1,
            max_epochs,
            result.train_loss,
            result.val_accuracy,
        )


class SilentReporter:
    """Says nothing: for the helper processes of a training on several devices."""

    def note(self, text: str) -> None: ...

    def warn(self, text: str) -> None: ...

    def progress(self, progress: Progress) -> None: ...

    def epoch(self, result: EpochResult, max_epochs: int) -> None: ...
