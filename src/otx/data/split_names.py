"""Names of folders, tables and columns that mean a split: `Training`, `seg_test`, `valid_set`."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection

SPLIT_WORDS = {
    "train": "train", "training": "train",
    "val": "val", "valid": "val", "validation": "val", "validate": "val", "dev": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
# words that people add to these: seg_train, test_set, train_images
FILLERS = {"", "seg", "set", "data", "dataset", "image", "images", "img", "imgs", "photos", "split", "folder"}


def split_of(name: str) -> str | None:
    """`train`, `val` or `test` if the name of a folder means a split: `Training`, `seg_test`, `valid_set`."""
    split, rest = _split_and_rest(name)
    return None if rest else split


def _split_and_rest(name: str) -> tuple[str | None, tuple[str, ...]]:
    """The split that a name speaks of, and its words that mean something else."""
    words = [word.removesuffix("set") for word in re.split(r"[\W_\d]+", name.lower())]
    found = [SPLIT_WORDS[word] for word in words if word in SPLIT_WORDS]
    rest = tuple(word for word in words if word not in SPLIT_WORDS and word not in FILLERS)
    return found[0] if len(found) == 1 else None, rest


def splits_among(folders: Collection[str]) -> dict[str, str]:
    """The folders that mean splits, with the split of each: also names that differ in the split alone.

    `asl_alphabet_train` and `asl_alphabet_test` are such a pair; each of them alone may be anything.
    """
    plain = {folder: split for folder in sorted(folders) if (split := split_of(folder)) is not None}
    alike: dict[tuple[str, ...], dict[str, str]] = defaultdict(dict)
    for folder in sorted(folders):
        split, rest = _split_and_rest(folder)
        if split is not None:
            alike[rest][folder] = split
    pairs = [group for group in alike.values() if "train" in group.values() and len(group) > 1]
    return plain if "train" in plain.values() or not pairs else pairs[0]
