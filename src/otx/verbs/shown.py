"""What an export and a quantisation have in common: the page of the run names their files."""

from __future__ import annotations

from pathlib import Path

from otx.model.trained import TrainedModel
from otx.report.page import update_exports
from otx.verbs.session import Session


def show_export(session: Session, model: TrainedModel, folder: Path) -> None:
    """Name a new export in the page of its run, if it was written into the run folder."""
    run = model.run
    if run is not None and folder.resolve() == run.path.resolve():
        session.try_report("The export is whole", lambda: update_exports(run))
