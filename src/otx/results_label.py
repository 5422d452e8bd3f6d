"""What `otx label` returns."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from otx.plain import Result


@dataclass(frozen=True)
class LabelledPhoto(Result):
    """A photo by its path relative to the folder, and what a person or the folder says about it.

    Args:
        label: its class; empty if it is left out.
        split: the subset that it is to be in; empty if that is left to the training.
        left_out: why it is not to be used; empty if it is.
        confirmed: kinds of findings of `otx check` that a person called right as they are.
    """

    path: str
    label: str
    split: str
    left_out: str
    confirmed: tuple[str, ...]


@dataclass(frozen=True)
class Move(Result):
    """A file that was, or is to be, moved, copied or linked; paths relative to the folder of photos."""

    source: str
    target: str


@dataclass(frozen=True)
class LabelTable(Result):
    """The table of a folder of photos.

    Args:
        path: the journal; it need not exist yet.
        num_photos: all photos of the folder, with or without a label.
        rows: those about which something is known, by path.
        applied: what was done with the files: "move", "copy", "link", "table", "undo"; empty if nothing.
        dry_run: nothing was done yet.
        moves: the files that `applied` concerns.
        output: the folder or file that `applied` wrote, if it did.
    """

    data_root: Path
    path: Path
    num_photos: int
    rows: tuple[LabelledPhoto, ...]
    applied: str = ""
    dry_run: bool = False
    moves: tuple[Move, ...] = ()
    output: Path | None = None

    def counts(self) -> dict[str, int]:
        """The number of photos of each class, the largest first."""
        found: dict[str, int] = {}
        for row in self.rows:
            if row.label:
                found[row.label] = found.get(row.label, 0) + 1
        return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))
