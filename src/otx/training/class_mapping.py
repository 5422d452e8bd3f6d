"""Classes of a model and of new data: whose place is whose."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from otx.data.folder import shorten
from otx.errors import UsageError, nearest


@dataclass(frozen=True)
class ClassMapping:
    """The classes of a model and of new data brought together.

    `classes` are the old ones in their old places, under their new names, then the new ones, sorted.
    """

    classes: tuple[str, ...]
    num_old: int
    new: tuple[str, ...]
    absent: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def notes(self) -> list[str]:
        """What happens to the classes, a sentence each."""
        kept = [name for name in self.classes[: self.num_old] if name not in self.absent]
        parts = (
            ("Classes the model knows and the data has", kept),
            ("New classes", self.new),
            ("Classes the model knows and the data lacks", self.absent),
        )
        return [f"{what}: {shorten(names)}." for what, names in parts if names]


def map_classes(old: Sequence[str], found: Sequence[str], renames: Mapping[str, str] | None = None) -> ClassMapping:
    """Bring the classes of a model and those found in data together.

    Args:
        old: the model's classes, in the order of its logits.
        found: the class folders of the data.
        renames: new names of old classes, `{"rose": "roses"}`.

    Raises:
        UsageError: a class to rename does not exist, or would get the name of another.
    """
    named = rename_classes(old, renames or {})
    new = tuple(sorted(set(found) - set(named)))
    absent = tuple(name for name in named if name not in found)
    return ClassMapping((*named, *new), len(old), new, absent, tuple(_alike(named, new)))


def rename_classes(old: Sequence[str], renames: Mapping[str, str]) -> list[str]:
    """The classes of a model under their new names, in their places.

    Raises:
        UsageError: a class to rename does not exist, or would get the name of another.
    """
    for name in renames:
        if name not in old:
            raise UsageError(
                f"--rename {name}={renames[name]}: the model has no class {name!r}{nearest(name, old)}",
                fix=f"its classes are {shorten(old)}",
            )
    named = [renames.get(name, name) for name in old]
    twice = sorted({name for name in named if named.count(name) > 1})
    if twice:
        raise UsageError(f"--rename: two classes of the model would be called {shorten(twice)}")
    return named


def _alike(old: Sequence[str], new: Sequence[str]) -> list[str]:
    known = {_plain(name): name for name in old}
    return [
        f"the new class {name!r} differs from {known[_plain(name)]!r}, which the model knows, only in case or spaces; "
        f"if they are the same: --rename '{known[_plain(name)]}={name}'"
        for name in new
        if _plain(name) in known
    ]


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", "", name).casefold()
