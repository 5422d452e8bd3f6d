"""Labels from a table: a CSV file with a column of image files, one of classes, and perhaps one of splits."""

from __future__ import annotations

import csv
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from otx.data.dataset import SUBSETS
from otx.data.folder import LeftOut, all_images, entries, images_in_words, is_image, shorten
from otx.data.journal import JOURNAL, is_journal, left_out_in
from otx.data.paths import Paths
from otx.data.split_names import split_of
from otx.errors import DataError

LIST = ".txt"
SUFFIXES = (".csv", ".tsv", LIST)
DELIMITERS = ",;\t|"
# a folder with more lists than this has one beside each photo
MOST_LISTS = 10
ENCODINGS = ("utf-8-sig", "cp1252")
# names of a column of classes, the most likely first
LABEL_NAMES = (
    "label", "labels", "class", "class_name", "classname", "category", "category_name", "species", "breed", "target",
    "diagnosis", "disease", "tag", "y",
)  # fmt: skip
# a table with such a column holds predictions, such as those of `otx predict`, not labels
ANSWERS = ("probability", "confidence", "score")
SPLIT_NAMES = ("split", "subset", "set", "partition", "dataset", "data set")
# a competition's sample submission, in which the labels are made up
NO_TABLES = "submission"
ROWS_LOOKED_AT = 500
MIN_FOUND = 0.5

Row = list[str]


@dataclass(frozen=True)
class Table:
    """A table of labels: the images of each class in `train`, `val`, `test`, or in `all` without a split column.

    Attributes:
        notes: sentences that the user should know about it.
        is_journal: `otx label` wrote it, so it is meant even beside class folders.
        share: share of the images in its folder that it lists, 0 to 1.
        unlabelled: the images in its folder to which it gives no label, but for those that were left out.
    """

    path: Path
    splits: dict[str, dict[str, Paths]]
    notes: tuple[str, ...]
    share: float = 1.0
    is_journal: bool = False
    unlabelled: Sequence[str] = ()

    def below(self, folder: str) -> Table:
        """The same table with paths relative to the parent folder; `folder` is the name of the table's own folder."""
        splits = {
            split: {name: Paths([f"{folder}/{path}" for path in paths]) for name, paths in classes.items()}
            for split, classes in self.splits.items()
        }
        return replace(self, splits=splits, unlabelled=())

    def agrees_with_folders(self) -> bool:
        """Whether every label is the name of the folder that its image lies in."""
        pairs = ((name, path) for classes in self.splits.values() for name, paths in classes.items() for path in paths)
        return all(PurePosixPath(path).parent.name == name for name, path in pairs)


@dataclass(frozen=True)
class Columns:
    """The indices of the columns. `labels` has several if each class has its own column of zeros and ones."""

    names: Row
    image: int
    labels: tuple[int, ...]
    split: int | None
    has_header: bool

    def label(self, row: Row) -> str:
        if len(self.labels) == 1:
            return row[self.labels[0]].strip()
        return next((self.names[place].strip() for place in self.labels if row[place].strip() == "1"), "")


class Images:
    """The images of a folder, looked up by what a table holds: a path, its end, a file name, or one without suffix."""

    def __init__(self, root: Path) -> None:
        self.paths = [path.removeprefix("/") for path in all_images(str(root), "", LeftOut())]
        self._known = set(self.paths)
        self._by_name: dict[str, list[str]] = defaultdict(list)
        for path in self.paths:
            name = PurePosixPath(path)
            for key in {name.name, name.stem}:
                self._by_name[key].append(path)

    def find(self, text: str) -> str | None:
        """The path of an image, or None if there is none or more than one."""
        wanted = text.strip().replace("\\", "/").removeprefix("./")
        if wanted in self._known:
            return wanted
        name = PurePosixPath(wanted)
        named = self._by_name.get(name.name, [])
        if not named and is_image(name.name):  # the files were converted since the table was written
            named = self._by_name.get(name.stem, [])
        if len(named) > 1:
            named = [path for path in named if f"/{path}".rpartition(".")[0].endswith(f"/{wanted.rpartition('.')[0]}")]
        return named[0] if len(named) == 1 else None


def tables_in(folder: Path) -> list[Path]:
    """The tables of a folder that may hold labels."""
    files = (Path(entry.path) for entry in entries(folder) if entry.name[0] != "." and entry.is_file())
    found = [path for path in files if path.suffix.lower() in SUFFIXES and NO_TABLES not in path.name.lower()]
    lists = [path for path in found if path.suffix.lower() == LIST]
    return sorted(set(found) - set(lists)) if len(lists) > MOST_LISTS else sorted(found)


def find_table(root: Path) -> Table | None:
    """The table of labels in a folder; several with the names of splits (`train.csv`, `val.csv`) are joined.

    Raises:
        DataError: there are several others, one cannot be read, or its labels are ambiguous.
    """
    candidates = tables_in(root)
    if not candidates:
        return None
    images = Images(root)
    if not images.paths:
        return None
    if any(is_journal(path) for path in candidates):
        candidates = [root / JOURNAL]
    found = [table for path in candidates if (table := try_table(path, images)) is not None]
    if len(found) <= 1:
        return found[0] if found else None
    named = {split_of(table.path.stem): table for table in found if set(table.splits) == {"all"}}
    if None not in named and "train" in named and len(named) == len(found):
        return join_tables(root, {str(split): table for split, table in named.items()})
    raise DataError(
        f"{root} has several tables of labels: {shorten(table.path.name for table in found)}",
        fix=f"give one: --data_root {found[0].path}",
    )


def join_tables(root: Path, tables: Mapping[str, Table]) -> Table:
    """Join the tables of a folder's splits, given by split, into one."""
    splits = {split: tables[split].splits["all"] for split in SUBSETS if split in tables}
    notes = dict.fromkeys(note for table in tables.values() for note in table.notes)
    return Table(root / tables["train"].path.name, splits, tuple(notes), min(table.share for table in tables.values()))


def try_table(path: Path, images: Images) -> Table | None:
    """Read a table of labels; None if it is none: no column names images or classes, or it holds predictions.

    Raises:
        DataError: it cannot be read, or its labels are ambiguous.
    """
    try:
        rows = read_rows(path)
    except DataError:
        if path.suffix.lower() == LIST:  # any text
            return None
        raise
    columns = find_columns(rows, images)
    return None if columns is None or not columns.labels else _table(path, rows, columns, images)


def is_table(path: Path) -> bool:
    """Whether a file that the user named is meant as a table of labels: by its suffix, a text by what is in it."""
    suffix = path.suffix.lower()
    return suffix in SUFFIXES and (suffix != LIST or try_table(path, Images(path.parent)) is not None)


def read_table(path: Path) -> Table:
    """Read a table that the user named.

    Raises:
        DataError: it cannot be read, is not a table of labels, or its labels are ambiguous.
    """
    images = Images(path.parent)
    rows = read_rows(path)
    columns = find_columns(rows, images)
    if columns is None:
        raise DataError(
            f"{path} has no column that names images in {path.parent}",
            fix="the table needs the file names or paths of the images in one column, and their classes in another",
        )
    if not columns.labels:
        raise DataError(
            f"{path}: which column holds the classes? It has {shorten(columns.names)}", fix="call the column `label`"
        )
    return _table(path, rows, columns, images)


def read_rows(path: Path) -> list[Row]:
    """The rows of a table; the delimiter is guessed, and rows of another length than the first are left out.

    In a `.txt` file it may be a space: `images/1.jpg daisy`.

    Raises:
        DataError: it cannot be read.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    if b"\0" in data:
        raise DataError(f"{path} is not text in UTF-8", fix="save it as CSV in UTF-8")
    lines = _decode(data).splitlines()
    try:
        delimiters = f"{DELIMITERS} " if path.suffix.lower() == LIST else DELIMITERS
        delimiter = max(delimiters, key=lambda mark: _width(lines[:20], mark))
        rows = [
            row
            for row in csv.reader(lines, delimiter=delimiter, skipinitialspace=True)
            if any(cell.strip() for cell in row)
        ]
    except csv.Error as error:
        raise DataError(f"{path} cannot be read as a table: {error}") from error
    return [row for row in rows if len(row) == len(rows[0])] if rows else []


def _decode(data: bytes) -> str:
    for encoding in ENCODINGS:
        try:
            return data.decode(encoding)
        except UnicodeDecodeError:
            continue
    return data.decode("latin-1")


def _width(lines: Sequence[str], delimiter: str) -> int:
    """How many columns a delimiter splits each line into; 0 if the lines differ."""
    widths = {len(row) for row in csv.reader(lines, delimiter=delimiter, skipinitialspace=True) if row}
    return widths.pop() if len(widths) == 1 else 0


def find_columns(rows: Sequence[Row], images: Images) -> Columns | None:
    """Find the columns by name and content; None if none names images, or the table holds predictions.

    `labels` is empty if it is unclear which columns hold the classes.
    """
    some = rows[1 : ROWS_LOOKED_AT + 1]
    if not some or len(rows[0]) < 2:
        return None
    places = range(len(rows[0]))
    shares = [sum(images.find(row[place]) is not None for row in some) / len(some) for place in places]
    image = max(places, key=lambda place: shares[place])
    if shares[image] < MIN_FOUND:
        return None
    has_header = images.find(rows[0][image]) is None
    if has_header and any(name.strip().lower() in ANSWERS for name in rows[0]):
        return None
    names = rows[0] if has_header else [f"column {place + 1}" for place in places]
    split = next((place for place in places if _is_split(names[place], {row[place].strip() for row in rows[1:]})), None)
    rest = [place for place in places if place not in (image, split)]
    return Columns(names, image, _label_columns(names, rest, some), split, has_header)


def _is_split(name: str, values: set[str]) -> bool:
    is_named = name.strip().lower() in SPLIT_NAMES
    # in a column of that name, an empty value is a photo that was added later
    given = values - {""} if is_named else values
    return (is_named or name.startswith("column ")) and bool(given) and None not in map(split_of, given)


def _label_columns(names: Row, rest: Sequence[int], some: Sequence[Row]) -> tuple[int, ...]:
    by_name = {names[place].strip().lower(): place for place in reversed(rest)}
    known = [by_name[name] for name in LABEL_NAMES if name in by_name]
    if known or len(rest) == 1:
        return (known[0] if known else rest[0],)
    marks = [[row[place].strip() for place in rest] for row in some]
    one_hot = all(set(row) <= {"0", "1"} and row.count("1") == 1 for row in marks)
    return tuple(rest) if one_hot and rest else ()


def _table(path: Path, rows: Sequence[Row], columns: Columns, images: Images) -> Table:
    labelled: dict[str, tuple[str, str]] = {}
    missing, without, twice = [], 0, []
    for row in rows[columns.has_header :]:
        label, image = columns.label(row), images.find(row[columns.image])
        split = "all" if columns.split is None else split_of(row[columns.split].strip()) or "train"
        if image is None:
            missing.append(row[columns.image].strip())
        elif not label:
            without += 1
        elif labelled.setdefault(image, (label, split)) != (label, split):
            twice.append(image)
    if twice:
        raise DataError(
            f"{path} has images with two labels or splits: {shorten(dict.fromkeys(twice))}", fix="leave one row of each"
        )
    _refuse_alike(path, counts := Counter(label for label, _ in labelled.values()))
    notes = list(_notes(path, counts, missing, without, len(images.paths) - len(labelled)))
    unlabelled = Paths(sorted(set(images.paths) - set(labelled) - left_out_in(path)))
    share = len(labelled) / len(images.paths)
    return Table(path, _by_split(labelled), tuple(notes), share, is_journal(path), unlabelled)


def _by_split(labelled: Mapping[str, tuple[str, str]]) -> dict[str, dict[str, Paths]]:
    found: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for image, (label, split) in sorted(labelled.items()):
        found[split][label].append(image)
    return {split: {name: Paths(classes[name]) for name in sorted(classes)} for split, classes in found.items()}


def _refuse_alike(path: Path, labels: Mapping[str, int]) -> None:
    """Raise DataError if two labels differ only in case or spaces: one of them is probably mistyped."""
    alike: dict[str, list[str]] = defaultdict(list)
    for label in labels:
        alike["".join(label.lower().split())].append(label)
    pairs = [" and ".join(map(repr, sorted(names))) for names in alike.values() if len(names) > 1]
    if pairs:
        raise DataError(f"{path} has labels that differ only in case or spaces: {shorten(pairs)}", fix="make them one")


def _notes(path: Path, counts: Mapping[str, int], missing: Sequence[str], without: int, unlisted: int) -> Iterator[str]:
    name = path.name
    if missing:
        yield f"{name} names {images_in_words(len(missing))} that cannot be found: {shorten(missing)}."
    if without:
        yield f"Left out, since {name} gives no label: {images_in_words(without)}."
    if unlisted > 0:
        yield f"Not used, since {name} does not list them: {images_in_words(unlisted)}."
    alone = [label for label, count in counts.items() if count == 1]
    if alone:
        yield f"Classes with one photo in {name}, which cannot be tested: {shorten(sorted(alone))}."
