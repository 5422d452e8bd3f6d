"""What a class may be called: its name becomes the name of a folder."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

from otx.errors import UsageError

MOST_CHARACTERS = 80
FORBIDDEN = re.compile(r'[/\\:*?"<>|\x00-\x1f\x7f\ud800-\udfff]')
RESERVED = {"train", "val", "test", "left_out", "sorted"}


def clean_name(name: str, known: Iterable[str] = ()) -> str:
    """The name of a class: without spaces around it, in the spelling of a known class if it differs only in case.

    Raises:
        ValueError: no folder of every system can be called so; the text says why.
    """
    name = " ".join(name.split())
    if not name:
        raise ValueError("a class needs a name")
    if len(name) > MOST_CHARACTERS:
        raise ValueError(f"the name of a class has {MOST_CHARACTERS} characters at most")
    if found := FORBIDDEN.search(name):
        raise ValueError(f"the name of a class becomes the name of a folder, which cannot hold {found[0]!r}")
    if name[0] == "." or name[-1] == "." or name.lower() in RESERVED:
        raise ValueError(f"a folder of photos cannot be called {name!r}")
    alike = {"".join(each.lower().split()): each for each in known}
    return alike.get("".join(name.lower().split()), name)


def check_folders(split: str, label: str) -> None:
    """Raise UsageError if the photos of a class would land elsewhere, in a hidden folder, or where they mean another.

    Args:
        split, label: as a table has them, which anybody may have written.
    """
    wrong = [name for name in (split, label) if name.startswith(".") or {"/", os.sep} & set(name)]
    wrong += [label] if label.lower() in RESERVED else []
    if wrong:
        fix = "give it another name in the table, or --apply table"
        raise UsageError(f"no folder of photos can be called {wrong[0]!r}", fix=fix)
