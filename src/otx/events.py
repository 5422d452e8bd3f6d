"""What verbs report while they work."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from otx.results import EpochResult

_log = logging.getLogger("otx")


@dataclass(frozen=True)
class Progress:
    """How far a piece of work is: `done` of `total`. `detail` is a current figure, such as the loss.

    A `total` of 0 means unknown: a library is at work and does not say how far it is.
    """

    what: str
    done: int
    total: int
    detail: str = ""
    seconds_left: float | None = None


class Reporter(Protocol):
    """Receives what happens during a verb."""

    def note(self, text: str) -> None:
        """A fact worth knowing."""

    def warn(self, text: str) -> None:
        """Something the user may not expect."""

    def progress(self, progress: Progress) -> None:
        """A sign of life, at most a few times a second; it may come from another thread."""

    def epoch(self, result: EpochResult, max_epochs: int) -> None:
        """An epoch of training is over."""


class LogReporter:
    """Writes to Python's logger `otx`; the default of `Engine`."""

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


@contextlib.contextmanager
def heartbeat(reporter: Reporter, what: str, *, every: float = 1.0) -> Iterator[None]:
    """Report from a thread, every so many seconds, that the block is running: for work that reports nothing itself.

    The thread ends with the block. It holds no locks that a process forked meanwhile would need, and leaves signals to
    the main thread.
    """
    over, began = threading.Event(), time.monotonic()

    def beat() -> None:
        while not over.wait(every):
            reporter.progress(Progress(what, 0, 0, f"{time.monotonic() - began:.0f} s"))

    thread = threading.Thread(target=beat, name="otx-heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
