"""Every exception that otx raises on purpose.

OtxError                 the root; `exit_code` 1
|-- InputError           an input cannot be used; `exit_code` 2, the work did not start
|   |-- UsageError       a command, an option or an argument
|   |-- RecipeError      a recipe: an unknown key, a value of the wrong type or range
|   |-- DataError        the images: layout, classes, files
|   |   `-- ImageError   one image that cannot be decoded
|   `-- ModelError       a model file, a weights file, an exported file
`-- RunError             the work itself failed
    |-- TrainingError    the training cannot go on
    |   `-- StoppedError   a signal ended it before there was a model; `exit_code` 130 (Ctrl-C) or 143 (SIGTERM)
    |-- ExportError      an exported file differs from its model, and was not kept
    `-- StorageError     the disk is full, or a folder was removed while in use
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "DataError",
    "ExportError",
    "ImageError",
    "InputError",
    "ModelError",
    "OtxError",
    "RecipeError",
    "RunError",
    "StoppedError",
    "StorageError",
    "TrainingError",
    "UsageError",
    "nearest",
]


MAX_LINE = 200
MAX_ALLOWED = 100
LONGEST = 300
TROUBLESHOOTING = "docs/troubleshooting.md"


class OtxError(Exception):
    """An error that is written for the user to read.

    Args:
        what: what is wrong, and what was given.
        allowed: the valid values.
        fix: what to do about it, as a sentence or a command.
    """

    exit_code = 1
    # the heading of docs/troubleshooting.md that explains errors of this kind, as a link has it
    section = ""

    def __init__(self, what: str, *, allowed: Iterable[str] = (), fix: str = "") -> None:
        self.what, self.allowed, self.fix = what, tuple(allowed), fix
        super().__init__(what)

    def __str__(self) -> str:
        more = f" and {len(self.allowed) - MAX_ALLOWED} more" if len(self.allowed) > MAX_ALLOWED else ""
        allowed = f"\n  allowed: {', '.join(self.allowed[:MAX_ALLOWED])}{more}" if self.allowed else ""
        fix = f"\n  fix: {self.fix}" if self.fix else ""
        return f"{self.what}{allowed}{fix}"

    @property
    def page(self) -> str:
        """The page that explains errors of this kind; empty if there is none."""
        return f"{TROUBLESHOOTING}#{self.section}" if self.section else ""


class InputError(OtxError):
    """An input cannot be used; the work did not start."""

    exit_code = 2


class UsageError(InputError):
    """A command, an option or an argument is wrong."""


class RecipeError(InputError):
    """A recipe has an unknown key, or a value of the wrong type or range."""


class DataError(InputError):
    """The images cannot be used: layout, classes or files."""

    section = "photos"


class ImageError(DataError):
    """One image cannot be decoded; `what` says why, without its path."""


class ModelError(InputError):
    """A model, weights or exported file cannot be used."""

    section = "weights-and-model-files"


class RunError(OtxError):
    """The work started and failed."""


class TrainingError(RunError):
    """The training cannot go on."""

    section = "training"


class StoppedError(TrainingError):
    """Ctrl-C or SIGTERM ended the training before there was a model.

    Args:
        number: the signal's number.
    """

    section = ""

    def __init__(self, number: int, what: str, *, fix: str = "") -> None:
        super().__init__(what, fix=fix)
        self.exit_code = 128 + number


class ExportError(RunError):
    """An exported file differs from the model it was made from."""

    section = "exported-files"


class StorageError(RunError):
    """The disk is full or broken, or a folder was removed while it was in use."""

    section = "disk"


def nearest(word: str, words: Iterable[str]) -> str:
    """The end of a message, `: did you mean 'x'?`; empty if no word is close."""
    if len(word) > LONGEST:
        return ""
    close = difflib.get_close_matches(word, list(words), n=1, cutoff=0.6)
    return f": did you mean '{close[0]}'?" if close else ""


def first_line(error: BaseException) -> str:
    """The first line of a library's error; its class name if it has no text."""
    return _lines(error)[0]


def last_line(error: BaseException) -> str:
    """The last line of a library's error, after its own file names and conditions; its class name if it has no text."""
    return _lines(error)[-1]


def _lines(error: BaseException) -> list[str]:
    lines = [line.strip()[:MAX_LINE] for line in str(error).splitlines() if line.strip()]
    return lines or [type(error).__name__]
