"""Many paths in little memory."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from typing import overload

import numpy as np

END = "\0"
AT_ONCE = 1024


class Paths(Sequence[str]):
    """Paths packed into a block of UTF-8: about forty bytes each, where a list of strings takes over a hundred.

    It equals any sequence of the same paths. Each ends with a zero character, which no path can contain.
    """

    def __init__(self, paths: Sequence[str] = ()) -> None:
        self._text, self._ends = bytearray(), array("q")
        self.extend(paths)

    def extend(self, paths: Sequence[str]) -> None:
        """Add paths at the end."""
        if not paths:
            return
        # file names that are not valid UTF-8 come with surrogates
        text = (END.join(paths) + END).encode("utf-8", "surrogateescape")
        ends = np.flatnonzero(np.frombuffer(text, np.uint8) == 0) + len(self._text)
        self._ends.frombytes(ends.astype(np.int64).tobytes())
        self._text += text

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[str, ...]: ...
    def __getitem__(self, index: int | slice) -> str | tuple[str, ...]:
        if isinstance(index, slice):
            return tuple(self[place] for place in range(*index.indices(len(self))))
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        return self._decode(index, index + 1)

    def __iter__(self) -> Iterator[str]:
        for first in range(0, len(self), AT_ONCE):
            yield from self._decode(first, min(first + AT_ONCE, len(self))).split(END)

    def _decode(self, first: int, last: int) -> str:
        start = self._ends[first - 1] + 1 if first else 0
        return self._text[start : self._ends[last - 1]].decode("utf-8", "surrogateescape")

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Paths):
            return self._text == other._text
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(str.__eq__, self, other))

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __repr__(self) -> str:
        return f"Paths({list(self)!r})"
