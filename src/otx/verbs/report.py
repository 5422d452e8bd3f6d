"""`otx report`: write the report of a run again, or one page that compares several runs."""

from __future__ import annotations

from pathlib import Path

from otx.errors import UsageError
from otx.events import heartbeat
from otx.files import write_text
from otx.report.compare import names_of, render_comparison
from otx.report.page import check_page, write_report
from otx.report.record import read_record
from otx.verbs.predict import Sources, as_list
from otx.verbs.session import Session
from otx.workspace import latest_run, new_folder, run_of


def run(session: Session, runs: Sources | None, *, output: Path | None) -> Path:
    """Write the page; returns its path."""
    given = as_list(runs) if runs else [latest_run(session.work_dir).path]
    folders = [_folder_of_run(Path(each)) for each in given]
    if output is not None:
        check_page(output)
    with heartbeat(session.reporter, "writing the report"):
        if len(folders) == 1:
            return write_report(folders[0], output)
        records = [read_record(folder) for folder in folders]
        page = render_comparison(dict(zip(names_of(records), records, strict=True)))
    path = output or new_folder(session.work_dir / "reports") / "report.html"
    write_text(path, page)
    return path


def _folder_of_run(path: Path) -> Path:
    """The run folder that the user named, directly or by a file in it."""
    if not path.exists():
        raise UsageError(f"there is no run {path}", fix="`ls otx-workspace` shows the runs")
    run = None if path.is_dir() else run_of(path)
    return run.path if run is not None else path
