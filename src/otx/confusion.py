"""How often a class was predicted as another, for any number of classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, overload

MANY_CLASSES = 1000


@dataclass(frozen=True)
class ConfusionMatrix(Sequence[tuple[int, ...]]):
    """A confusion matrix; `matrix[i][j]` counts the images of class i that were predicted as class j.

    Only counts above zero are stored, so that it grows with the images and not with the square of the classes.

    Args:
        entries: (i, j, count), sorted, each count above zero.
    """

    num_classes: int
    entries: tuple[tuple[int, int, int], ...]

    @classmethod
    def of(cls, labels: Iterable[int], predicted: Iterable[int], num_classes: int) -> ConfusionMatrix:
        """The matrix of the true and the predicted classes of images."""
        counts = Counter(zip(labels, predicted, strict=True))
        return cls(num_classes, tuple((i, j, count) for (i, j), count in sorted(counts.items())))

    @classmethod
    def from_rows(cls, rows: Sequence[Sequence[int]]) -> ConfusionMatrix:
        """The matrix with these rows, one for each true class."""
        entries = ((i, j, count) for i, row in enumerate(rows) for j, count in enumerate(row) if count)
        return cls(len(rows), tuple(entries))

    @classmethod
    def from_plain(cls, plain: Sequence[Sequence[int]] | Mapping[str, Any]) -> ConfusionMatrix:
        """The matrix that `to_plain` wrote.

        Raises:
            KeyError, TypeError, ValueError: the data does not fit.
        """
        if not isinstance(plain, Mapping):
            return cls.from_rows(plain)
        return cls(int(plain["num_classes"]), tuple((int(i), int(j), int(count)) for i, j, count in plain["entries"]))

    def to_plain(self) -> list[list[int]] | dict[str, Any]:
        """All rows; for more than MANY_CLASSES classes the entries alone."""
        if self.has_many_classes:
            return {"num_classes": self.num_classes, "entries": [list(entry) for entry in self.entries]}
        return [list(row) for row in self]

    @property
    def has_many_classes(self) -> bool:
        return self.num_classes > MANY_CLASSES

    @cached_property
    def hits(self) -> tuple[int, ...]:
        """Images of each class that were predicted as such."""
        return self._sums((i, count) for i, j, count in self.entries if i == j)

    @cached_property
    def totals(self) -> tuple[int, ...]:
        """Images of each class: the sums of the rows."""
        return self._sums((i, count) for i, _, count in self.entries)

    @cached_property
    def taken(self) -> tuple[int, ...]:
        """Predictions of each class: the sums of the columns."""
        return self._sums((j, count) for _, j, count in self.entries)

    def _sums(self, counts: Iterable[tuple[int, int]]) -> tuple[int, ...]:
        sums = [0] * self.num_classes
        for index, count in counts:
            sums[index] += count
        return tuple(sums)

    @cached_property
    def _rows(self) -> dict[int, dict[int, int]]:
        rows: dict[int, dict[int, int]] = {}
        for i, j, count in self.entries:
            rows.setdefault(i, {})[j] = count
        return rows

    def among(self, classes: Sequence[int]) -> list[tuple[int, int, int]]:
        """The entries of both a true and a predicted class in `classes`, by the order of `classes`."""
        own = {index: self._rows.get(index, {}) for index in classes}
        return [(i, j, own[i][j]) for i in classes for j in classes if j in own[i]]

    def __len__(self) -> int:
        return self.num_classes

    @overload
    def __getitem__(self, index: int) -> tuple[int, ...]: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[tuple[int, ...], ...]: ...
    def __getitem__(self, index: int | slice) -> tuple[int, ...] | tuple[tuple[int, ...], ...]:
        """A row, or several, with their zeros."""
        numbers = range(self.num_classes)[index]
        return self._row(numbers) if isinstance(numbers, int) else tuple(map(self._row, numbers))

    def _row(self, index: int) -> tuple[int, ...]:
        row = [0] * self.num_classes
        for column, count in self._rows.get(index, {}).items():
            row[column] = count
        return tuple(row)
