"""`otx label`: a page on which a person labels a pile of photos and mends a data set, and what it says is applied."""

from __future__ import annotations

import contextlib
import secrets
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from otx.browser import open_in_browser
from otx.data.journal import JOURNAL, Row
from otx.data.preprocessing import Preprocessing
from otx.errors import UsageError
from otx.label import apply as files
from otx.label.background import Background, Work
from otx.label.board import Board
from otx.label.photos import Photos, check_is_folder, find_photos
from otx.label.pictures import Pictures
from otx.label.place import locked, save_rows
from otx.label.site import LabelSite
from otx.local_server import PageServer, take_port
from otx.results_label import LabelledPhoto, LabelTable, Move
from otx.verbs.label_work import check_photos, make_source
from otx.verbs.session import Session, check_exists
from otx.workspace import is_own, mark_own

UNDO, TABLE, MOVE, COPY, LINK = "undo", "table", "move", "copy", "link"
REVIEW_FROM = 0.9


def run(
    session: Session,
    *,
    data_root: Path | None,
    checkpoint: Path | None,
    apply: str | None,
    dry_run: bool,
    output: Path | None,
    port: int,
    open: bool,
) -> LabelTable:
    """Serve the page until its Done button or Ctrl-C, or apply what was decided to the files."""
    root = data_root or (Path(session.recipe.data_root) if session.recipe.data_root is not None else None)
    if root is None:
        raise UsageError("which photos?", fix="otx label FOLDER")
    if dry_run and apply is None:
        raise UsageError("--dry_run shows what --apply would do", fix="otx label FOLDER --apply move --dry_run")
    if output is not None and apply is None:
        raise UsageError(f"--output {output} is for --apply copy, link or table", fix="leave --output out")
    checkpoint = checkpoint or session.checkpoint
    check_exists(checkpoint)
    if apply is not None:
        return apply_labels(root, apply, output, dry_run=dry_run)
    with serve(session, root, checkpoint, port) as page:
        session.reporter.note(f"The page is at {page.url} - Ctrl-C ends it. Photos stay where they are.")
        if open:
            open_in_browser(page.url)
        with contextlib.suppress(KeyboardInterrupt):
            page.site.done.wait()
        return page.table()


class LabelPage:
    """A page that is being served. Its `url` holds the secret that lets a browser in."""

    def __init__(self, board: Board, site: LabelSite, url: str) -> None:
        self.board, self.site, self.url = board, site, url

    def table(self) -> LabelTable:
        """What was decided so far."""
        return _table(self.board.photos, self.board.rows)


@contextlib.contextmanager
def serve(session: Session, root: Path, checkpoint: Path | None, port: int = 0) -> Iterator[LabelPage]:
    """Serve the page within the block.

    Raises:
        DataError: there are no photos.
        UsageError: another page has the folder, the port is taken, or nothing can be written there.
    """
    with contextlib.ExitStack() as stack:
        taken = stack.enter_context(take_port(port))
        photos = find_photos(root)
        place = stack.enter_context(locked(root))
        board = Board(_mended(photos, place), place)
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="otx.")))
        work = Work(
            lambda: make_source(session, checkpoint, scratch),
            lambda board, features: check_photos(session, board, features),
        )
        background = Background(board, place, work)
        token = secrets.token_urlsafe(16)
        reading = Preprocessing.of(session.recipe.data, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)).reading(session.max_pixels)
        site = LabelSite(background, Pictures(root, photos.paths, reading), token, _start(board, checkpoint))
        server = stack.enter_context(PageServer(site, taken))
        background.start()
        stack.callback(background.stop)
        yield LabelPage(board, site, f"{server.url}{token}/")


def _start(board: Board, checkpoint: Path | None) -> str:
    """The view to begin with: a finished data set is gone through, a pile is named."""
    is_finished = (board.labels >= 0).mean() >= REVIEW_FROM
    return "review" if checkpoint is not None or is_finished else "groups"


def _mended(photos: Photos, place: Path) -> Photos:
    """The photos, after a process was killed while it moved them."""
    rows = files.mended(photos.root, photos.rows, place)
    if rows != photos.rows:
        save_rows(photos.root, rows)
    return replace(photos, rows=rows)


def apply_labels(root: Path, how: str, output: Path | None, *, dry_run: bool) -> LabelTable:
    """Move, copy or link the photos of a folder, write a table, or take the last such command back."""
    if output is not None and how in (MOVE, UNDO):
        raise UsageError(f"--apply {how} takes no --output", fix="leave --output out, or --apply copy")
    check_is_folder(root)
    with locked(root) as place:
        files.finish_moves(root, place)
        photos = _mended(find_photos(root), place)
        table = replace(_table(photos, photos.rows), applied=how, dry_run=dry_run)
        if how == UNDO:
            return _undo(photos, place, table)
        if how == TABLE:
            return _write_table(photos, output or root / files.TABLE, table)
        if how == MOVE:
            moves = files.plan_moves(photos, photos.rows)
            if not dry_run:
                files.move_photos(photos, photos.rows, moves, place)
                table = replace(_again(root), applied=how)
            return replace(table, moves=tuple(moves), output=root)
        target = output or root / files.SORTED
        _check_target(root, target)
        moves = files.plan_copies(photos, photos.rows, target)
        if not dry_run and moves:
            target.mkdir(parents=True, exist_ok=True)
            if root.resolve() in target.resolve().parents:
                mark_own(target)
            files.copy_photos(root, moves, place, link=how == LINK)
        return replace(table, moves=tuple(moves), output=target)


def _check_target(root: Path, target: Path) -> None:
    """Raise UsageError if copies would lie among the photos that they are made of."""
    folder, inside = root.resolve(), target.resolve()
    among = folder in inside.parents and target.is_dir() and any(target.iterdir()) and not is_own(target)
    if folder == inside or among:
        raise UsageError(f"copies in {target} would lie among the photos of {root}", fix="--output NEW_FOLDER")


def _again(root: Path) -> LabelTable:
    photos = find_photos(root)
    return _table(photos, photos.rows)


def _write_table(photos: Photos, path: Path, table: LabelTable) -> LabelTable:
    if not table.dry_run:
        files.write_table(_present(photos, photos.rows), path)
    return replace(table, output=path)


def _undo(photos: Photos, place: Path, table: LabelTable) -> LabelTable:
    moves, plan, copies = files.plan_undo(photos.root, place)
    if plan is None:
        raise UsageError(f"nothing was applied to {photos.root} that could be taken back")
    if table.dry_run:
        return replace(table, moves=tuple(moves))
    if copies:
        files.undo_copies(photos.root, moves, plan)
    else:
        files.undo_moves(photos, photos.rows, moves, plan, place)
    return replace(_again(photos.root), applied=UNDO, moves=tuple(Move(each.source, each.target) for each in moves))


def _table(photos: Photos, rows: dict[str, Row]) -> LabelTable:
    found = (
        LabelledPhoto(path, "" if row.left_out else row.label, row.split, row.left_out, row.confirmed)
        for path, row in sorted(_present(photos, rows).items())
    )
    return LabelTable(photos.root.resolve(), photos.root.resolve() / JOURNAL, len(photos.paths), tuple(found))


def _present(photos: Photos, rows: dict[str, Row]) -> dict[str, Row]:
    """The rows of the photos that are there; the journal keeps those of others."""
    known = set(photos.paths)
    return {path: row for path, row in rows.items() if path in known}
