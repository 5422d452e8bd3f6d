"""What an export and a quantisation have in common: the page of the run names their files."""

from __future__ import annotations

from pathlib import Path

from otx.files import write_json
from otx.model.trained import TrainedModel
from otx.report.exported import figures_of
from otx.report.page import update_exports
from otx.results import ExportResult, OptimizeResult
from otx.verbs.session import Session


def show_export(session: Session, model: TrainedModel, folder: Path, result: ExportResult | OptimizeResult) -> None:
    """Name a new file in the page of its run, if it was written into the run folder."""
    run = model.run
    if run is None or folder.resolve() != run.path.resolve():
        return
    if isinstance(result, ExportResult):
        write_json(figures_of(result.path), result.to_dict())
    session.try_report("The export is whole", lambda: update_exports(run))
