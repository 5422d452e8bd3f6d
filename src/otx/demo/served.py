"""The exported file that a demo serves: an existing one, or a new one from a child process, which loads torch."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from otx.errors import ExportError, ModelError
from otx.events import Reporter
from otx.model.modelfile import EXPORTED, read_card
from otx.signals import drop_signal_stack
from otx.workspace import RunFolder, run_of

IR = "exported_model.xml"


@dataclass(frozen=True)
class Served:
    """An exported file. `no_maps` says why exporting it with saliency maps failed, if that was tried."""

    path: Path
    no_maps: str = ""


def find_served(path: Path, scratch: Path, reporter: Reporter) -> Served:
    """The exported file to serve for a model: the file itself, an export no older than it, or a new export.

    A new export goes into the folder `demo` of the run, where the next demo finds it, or into `scratch`.

    Raises:
        ExportError: the model cannot be exported.
    """
    if path.suffix in EXPORTED:
        return Served(path)
    folder = scratch
    run = run_of(path)
    if run is not None and path.resolve() == run.model:
        if found := _exported_after(run):
            return Served(found)
        folder = run.path / "demo" if os.access(run.path, os.W_OK) else scratch
    reporter.note(f"Exporting {path} once for the demo, to {folder} ...")
    return _export(path, folder)


def _exported_after(run: RunFolder) -> Path | None:
    """An IR of a run with saliency maps, if it is not older than the run's model."""
    for file in (run.path / IR, run.path / "demo" / IR):
        if file.is_file() and file.stat().st_mtime >= run.model.stat().st_mtime and _has_maps(file):
            return file
    return None


def _has_maps(file: Path) -> bool:
    try:
        return bool(read_card(file).explain)
    except ModelError:
        return False


def _export(path: Path, folder: Path) -> Served:
    """Export in a process of its own; without saliency maps if the network cannot have them."""
    refused = ""
    for explain in ("true", "false"):
        with tempfile.TemporaryDirectory(prefix="otx.") as elsewhere:
            options = ["--explain", explain, "--output", str(folder), "--work_dir", elsewhere]
            command = [sys.executable, "-m", "otx", "export", "--checkpoint", str(path), *options]
            drop_signal_stack()
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return Served(folder / IR, refused.partition("\n")[0])
        refused = done.stderr.strip().rpartition("error: ")[2]
    raise ExportError(f"{path} cannot be exported for the demo: {refused}")
