"""Give the files the places that their labels say: only when asked, never over another file, and undone when asked."""

from __future__ import annotations

import contextlib
import csv
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath

from otx.data.journal import Row
from otx.errors import UsageError
from otx.files import atomic, cannot_write, write_csv
from otx.label.names import check_folders
from otx.label.photos import FolderLabels, Photos
from otx.label.place import save_rows
from otx.results_label import Move
from otx.workspace import mark_own

LEFT_OUT = "left_out"
SORTED = "sorted"
TABLE = "sorted.csv"
MOVES = "moves"
UNDOING, UNDONE = ".undoing", ".undone"


def plan_moves(photos: Photos, rows: Mapping[str, Row]) -> list[Move]:
    """Where each photo belongs: `CLASS/name`, `SPLIT/CLASS/name` if it has a split, `left_out/name` if it is not used.

    Photos that are in the folder of their class already stay. A name that is taken gets a number, also if its photo is
    gone, as its row is still in the journal.

    Raises:
        UsageError: a class cannot be the name of a folder.
    """
    moves, taken, known = [], {path.lower() for path in (*photos.paths, *rows)}, set(photos.paths)
    for path, row in sorted(rows.items()):
        folder = _folder_of(photos.folders, row)
        if not folder or path not in known or _is_there(photos.folders.rows.get(path), row):
            continue
        if path.startswith(f"{folder}/"):
            continue
        if not row.left_out:
            check_folders(row.split, row.label)
        target = _free(folder, PurePosixPath(path).name, lambda name: _is_taken(photos.root, name, taken))
        taken.add(target.lower())
        moves.append(Move(path, target))
    return moves


def _is_there(filed: Row | None, row: Row) -> bool:
    return filed is not None and not row.left_out and (filed.label, filed.split) == (row.label, row.split)


def _folder_of(folders: FolderLabels, row: Row) -> str:
    """The folder of a photo, as the data set's folders are called; empty if it has no label."""
    if row.left_out or not row.label:
        return LEFT_OUT if row.left_out else ""
    split = folders.split_folders.get(row.split, row.split)
    return folders.prefix + "/".join(part for part in (split, row.label) if part)


def plan_copies(photos: Photos, rows: Mapping[str, Row], output: Path) -> list[Move]:
    """The same for copies and links in another folder; photos that are left out stay out.

    Raises:
        UsageError: a class cannot be the name of a folder.
    """
    moves, taken = [], set[str]()
    # the system goes up from where a link to the folder leads
    prefix = os.path.relpath(output.resolve(), photos.root.resolve()).replace(os.sep, "/")
    known = set(photos.paths)
    for path, row in sorted(rows.items()):
        if not row.label or row.left_out or path not in known:
            continue
        check_folders(row.split, row.label)
        folder = "/".join(part for part in (prefix, row.split, row.label) if part)
        target = _free(folder, PurePosixPath(path).name, lambda name: _is_taken(photos.root, name, taken))
        taken.add(target.lower())
        moves.append(Move(path, target))
    return moves


def _free(folder: str, name: str, is_taken: Callable[[str], bool]) -> str:
    stem, suffix = os.path.splitext(name)  # noqa: PTH122 - a name such as `.jpg` has no suffix
    target, number = f"{folder}/{name}", 1
    while is_taken(target):
        number += 1
        target = f"{folder}/{stem}-{number}{suffix}"
    return target


def _is_taken(root: Path, name: str, taken: set[str]) -> bool:
    # some systems do not tell capitals apart
    return name.lower() in taken or os.path.lexists(root / name)


def move_photos(photos: Photos, rows: Mapping[str, Row], moves: Iterable[Move], place: Path) -> Path | None:
    """Move photos, and give their rows the new paths; returns the undo file.

    The plan is written first. A process that is killed leaves every photo at its old or its new path, and `mended`
    finds it there.

    Raises:
        UsageError, StorageError: a file cannot be moved; those that were are in the undo file.
    """
    moves = list(moves)
    if not moves:
        return None
    undo = _write_plan(place, moves)
    if any(each.target.startswith(f"{LEFT_OUT}/") for each in moves):
        (photos.root / LEFT_OUT).mkdir(exist_ok=True)
        mark_own(photos.root / LEFT_OUT)
    _move_all(photos, rows, moves, place)
    return undo


def _move_all(photos: Photos, rows: Mapping[str, Row], moves: Iterable[Move], place: Path) -> None:
    """Move photos, and give the rows of those that were moved their new paths; the plan is written already."""
    try:
        for each in moves:
            move_file(photos.root / each.source, photos.root / each.target)
    finally:
        save_rows(photos.root, mended(photos.root, rows, place))
        _forget_history(place)


def move_file(source: Path, target: Path) -> None:
    """Move a file within a file system; never over another file.

    Raises:
        UsageError, StorageError: it cannot be moved; it is where it was.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if os.path.lexists(target):
            raise UsageError(f"{target} is there already", fix="run the command again: it takes another name")
        try:
            # unlike a rename, a link never replaces a file that has come meanwhile
            _link(source, target)
        except FileExistsError:
            raise
        except OSError:
            source.rename(target)  # a file system without hard links
            return
        try:
            source.unlink()
        except OSError:
            target.unlink()
            raise
    except OSError as error:
        raise cannot_write(target, error) from error


def _link(source: Path, target: Path) -> None:
    """Give a file a second name; one that is a link itself leads to the same file from there."""
    if source.is_symlink() and not source.readlink().is_absolute():
        target.symlink_to(os.path.relpath(source.parent.resolve() / source.readlink(), target.parent.resolve()))
    else:
        os.link(source, target, follow_symlinks=False)


def copy_photos(root: Path, moves: Iterable[Move], place: Path, *, link: bool) -> Path | None:
    """Copy photos, or link to them; returns the undo file.

    Raises:
        UsageError, StorageError: a file cannot be written; those that were are in the undo file.
    """
    moves = list(moves)
    if not moves:
        return None
    undo = _write_plan(place, moves, copies=True)
    for each in moves:
        source, target = root / each.source, root / each.target
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            if link:
                target.symlink_to(os.path.relpath(source.parent.resolve() / source.name, target.parent.resolve()))
            else:
                with source.open("rb") as original, target.open("xb") as copy:
                    shutil.copyfileobj(original, copy)
                shutil.copystat(source, target)
        except OSError as error:
            raise cannot_write(target, error) from error
    return undo


def write_table(rows: Mapping[str, Row], path: Path) -> None:
    """Write path, label and split of the photos that have a label; never over another file.

    Raises:
        UsageError, StorageError: it cannot be written, or is there already.
    """
    if path.exists():
        raise UsageError(f"{path} is there already", fix="choose another --output")
    labelled = [(name, row) for name, row in sorted(rows.items()) if row.label and not row.left_out]
    with_split = any(row.split for _, row in labelled)
    header = ("path", "label", "split") if with_split else ("path", "label")
    write_csv(path, header, ((name, row.label, row.split)[: len(header)] for name, row in labelled))


def plan_undo(root: Path, place: Path) -> tuple[list[Move], Path | None, bool]:
    """What takes the last `--apply` back, its undo file, and whether it made copies; nothing if there is none.

    Copies and links that were changed since stay.
    """
    plans = sorted(each for each in (place / MOVES).glob("*.csv") if not each.with_suffix(UNDONE).exists())
    if not plans:
        return [], None, False
    copies = plans[-1].stem.endswith("-copies")
    moves = list(_read_plan(plans[-1]))
    back = [Move(each.target, "" if copies else each.source) for each in moves if os.path.lexists(root / each.target)]
    if copies:
        sources = {each.target: each.source for each in moves}
        back = [each for each in back if _is_unchanged(root / each.source, root / sources[each.source])]
        return back, plans[-1], True
    return [Move(each.source, _free_again(root, each)) for each in back], plans[-1], False


def undo_moves(photos: Photos, rows: Mapping[str, Row], moves: Iterable[Move], plan: Path, place: Path) -> None:
    """Move photos back where they were, and remove the folders that are then empty.

    Raises:
        UsageError, StorageError: a file cannot be moved; the next undo goes on with it.
    """
    moves, undoing = list(moves), plan.with_suffix(UNDOING)
    _write_moves(undoing, moves)
    _move_all(photos, rows, moves, place)
    _finish_undo(photos.root, moves, plan)
    undoing.unlink()


def undo_copies(root: Path, moves: Iterable[Move], plan: Path) -> None:
    moves = list(moves)
    for each in moves:
        (root / each.source).unlink()
    _finish_undo(root, moves, plan)


def mended(root: Path, rows: Mapping[str, Row], place: Path) -> dict[str, Row]:
    """The rows with the paths that photos have now, if a process was killed while it moved them."""
    names = {each.source: each.target for each in _planned(place)}
    moved = {
        path: target
        for path in rows
        if (target := names.get(path)) and not os.path.lexists(root / path) and os.path.lexists(root / target)
    }
    stayed = {path: row for path, row in rows.items() if path not in moved}
    return stayed | {target: rows[path] for path, target in moved.items()}


def finish_moves(root: Path, place: Path) -> None:
    """Remove the old names of photos whose move was cut off between the new name and the removal of the old one."""
    for each in _planned(place):
        source, target = root / each.source, root / each.target
        with contextlib.suppress(OSError):
            if source.lstat().st_nlink > 1 and os.path.samestat(source.lstat(), target.lstat()):
                source.unlink()


def _planned(place: Path) -> Iterator[Move]:
    """The moves that were begun, oldest first, and those of an undo that was not finished."""
    for suffix in ("*.csv", f"*{UNDOING}"):
        for plan in sorted((place / MOVES).glob(suffix)):
            if not plan.stem.endswith("-copies"):
                yield from _read_plan(plan)


def _free_again(root: Path, move: Move) -> str:
    folder, _, name = move.target.rpartition("/")
    if not os.path.lexists(root / move.target):
        return move.target
    target = _free(folder or ".", name, lambda each: os.path.lexists(root / each))
    return target.removeprefix("./")


def _is_unchanged(copy: Path, source: Path) -> bool:
    if copy.is_symlink():
        return True
    with contextlib.suppress(OSError):
        one, other = copy.stat(), source.stat()
        return one.st_size == other.st_size and abs(one.st_mtime - other.st_mtime) < 2  # FAT counts two seconds
    return False


def _finish_undo(root: Path, moves: Iterable[Move], plan: Path) -> None:
    plan.with_suffix(UNDONE).touch()
    for folder in {(root / each.source).parent for each in moves}:
        while folder != root and folder.is_dir():
            if set(os.listdir(folder)) - {".otx"}:  # noqa: PTH208 - names alone
                break
            (folder / ".otx").unlink(missing_ok=True)
            folder.rmdir()
            folder = folder.parent


def _write_plan(place: Path, moves: Iterable[Move], *, copies: bool = False) -> Path:
    folder = place / MOVES
    folder.mkdir(exist_ok=True)
    stamp = time.strftime("%Y%m%d_%H%M%S")
    number = sum(1 for _ in folder.glob("*.csv"))
    path = folder / f"{number:04}_{stamp}{'-copies' if copies else ''}.csv"
    _write_moves(path, moves)
    return path


def _write_moves(path: Path, moves: Iterable[Move]) -> None:
    with atomic(path) as file:
        csv.writer(file, lineterminator="\n").writerows((each.source, each.target) for each in moves)


def _read_plan(path: Path) -> Iterator[Move]:
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        for row in csv.reader(file):
            if len(row) == 2:
                yield Move(row[0], row[1])


def _forget_history(place: Path) -> None:
    """The page's undo ends here: its changes name the old paths. The file is kept under another name."""
    history = place / "history.jsonl"
    if history.exists():
        history.replace(place / f"history-{time.time_ns()}.jsonl")
