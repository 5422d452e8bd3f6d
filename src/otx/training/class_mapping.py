"""Merge the classes of a trained model with those of new data."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from otx.data.folder import shorten
from otx.errors import UsageError, nearest


@dataclass(frozen=True)
class ClassMapping:
    """The merged classes of a model and of new data.

    `classes` has the old classes first, in their old order and under their new names, then the new ones, sorted.
    `absent` are the old classes that the data lacks.
    """

    classes: tuple[str, ...]
    num_old: int
    new: tuple[str, ...]
    absent: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def notes(self) -> list[str]:
        """Sentences on which classes are kept, new and absent."""
        absent = set(self.absent)
        kept = [name for name in self.classes[: self.num_old] if name not in absent]
        parts = (
            ("Classes the model knows and the data has", kept),
            ("New classes", self.new),
            ("Classes the model knows and the data lacks", self.absent),
        )
        return [f"{what}: {shorten(names)}." for what, names in parts if names]


def map_classes(old: Sequence[str], found: Sequence[str], renames: Mapping[str, str] | None = None) -> ClassMapping:
    """Merge the classes of a model with those found in data.

    Args:
        old: the model's classes, in the order of its logits.
        found: the class folders of the data.
        renames: old to new names of the model's classes, `{"rose": "roses"}`.

    Raises:
        UsageError: a class to rename does not exist, or its new name is taken.
    """
    named = rename_classes(old, renames or {})
    new = tuple(sorted(set(found) - set(named)))
    there = set(found)
    absent = tuple(name for name in named if name not in there)
    return ClassMapping((*named, *new), len(old), new, absent, tuple(_spelling_warnings(named, new)))


def rename_classes(old: Sequence[str], renames: Mapping[str, str]) -> list[str]:
    """The classes of a model under their new names, in the same order.

    Raises:
        UsageError: a class to rename does not exist, or its new name is taken.
    """
    for name in renames:
        if name not in old:
            raise UsageError(
                f"--rename {name}={renames[name]}: the model has no class {name!r}{nearest(name, old)}",
                fix=f"its classes are {shorten(old)}",
            )
    named = [renames.get(name, name) for name in old]
    twice = sorted(name for name, count in Counter(named).items() if count > 1)
    if twice:
        raise UsageError(f"--rename: two classes of the model would be called {shorten(twice)}")
    return named


def _spelling_warnings(old: Sequence[str], new: Sequence[str]) -> list[str]:
    known = {_plain(name): name for name in old}
    return [
        f"the new class {name!r} differs from {known[_plain(name)]!r}, which the model knows, only in case or spaces; "
        f"if they are the same: --rename '{known[_plain(name)]}={name}'"
        for name in new
        if _plain(name) in known
    ]


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", "", name).casefold()
