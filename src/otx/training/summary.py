"""What `run.json` says of a training: what it began from, on which machine, how long it took."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from otx.errors import StoppedError
from otx.files import write_json
from otx.model.card import ModelCard
from otx.recipe import Recipe
from otx.signals import name_of, signal_of
from otx.training.defaults import filled_in
from otx.training.devices import Compute
from otx.training.pseudo_labels import count_pseudo_labels
from otx.training.starting_point import TrainingRequest
from otx.workspace import RunFolder, stamp


@dataclass(frozen=True)
class Clock:
    """The start time of a training."""

    began: float = field(default_factory=time.time)
    started: float = field(default_factory=time.perf_counter)

    def read(self) -> dict[str, Any]:
        return {
            "started": stamp(self.began),
            "ended": stamp(time.time()),
            "seconds": time.perf_counter() - self.started,
        }


def provenance_of(request: TrainingRequest, run: RunFolder) -> dict[str, Any]:
    """The arguments that are not recipe settings. A resumed run keeps its original ones."""
    # older runs have them in their summary alone, which a resumed training removes
    for path in (run.begun_from, run.summary) if request.run is not None else ():
        if path.is_file():
            before = json.loads(path.read_text(encoding="utf-8"))
            return {name: before[name] for name in ("checkpoint", "renames") if name in before}
    checkpoint = None if request.checkpoint is None else str(request.checkpoint.resolve())
    return {"checkpoint": checkpoint, "renames": dict(request.renames)}


def facts_of(run: RunFolder, recipe: Recipe, card: ModelCard, compute: Compute) -> dict[str, Any]:
    return {
        "filled_in": filled_in(recipe),
        "pseudo_labels": count_pseudo_labels(run),
        "max_epochs": recipe.max_epochs,
        "patience": recipe.training.early_stopping.patience,
        "versions": card.versions,
        "hardware": _hardware(compute),
    }


def _hardware(compute: Compute) -> dict[str, Any]:
    gpu = {"gpu": torch.cuda.get_device_name()} if compute.is_gpu else {}
    return {
        "device": compute.device,
        **gpu,
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def write_summary(run: RunFolder, summary: Mapping[str, Any]) -> None:
    try:
        write_json(run.summary, summary)
    except KeyboardInterrupt as stop:
        number = signal_of(stop)
        what = f"{name_of(number)} came before it was written down how the training ended"
        raise StoppedError(number, what, fix=run.how_to_go_on) from stop
