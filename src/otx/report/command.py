"""The command that trains the model of a run again, to read and to copy."""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Iterable, Sequence

from otx.catalogue import to_options
from otx.recipe import from_dict
from otx.report.record import Record


def command_of(record: Record) -> str:
    """The command that trains the same model again, an option a line; empty if the run folder lacks what it needs."""
    if record.card is None or record.summary is None or "checkpoint" not in record.summary:
        return ""
    recipe = from_dict({**record.card.recipe, "work_dir": "otx-workspace"}, "the model file")
    words = ["otx", "train", *to_options(recipe)]
    if record.summary["checkpoint"] is not None:
        words += ["--checkpoint", record.summary["checkpoint"]]
    for old, new in record.summary["renames"].items():
        words += ["--rename", f"{old}={new}"]
    return " \\\n    ".join(_lines(words))


def _lines(words: Sequence[str]) -> Iterable[str]:
    """The command without its options, then each option with its value."""
    starts = [0, *(place for place, word in enumerate(words) if word.startswith("--")), len(words)]
    return (shlex.join(words[start:end]) for start, end in itertools.pairwise(starts))
