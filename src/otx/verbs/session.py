"""What every verb works with: the settings, which of them the user asked for, the model, and the reporter."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from otx.data.dataset import DataRequest
from otx.errors import OtxError, UsageError
from otx.events import Reporter, heartbeat
from otx.files import check_folder
from otx.inference.predictor import Predictor, load_predictor
from otx.model.modelfile import read_card
from otx.model.trained import TrainedModel
from otx.recipe import Recipe, from_dict
from otx.workspace import DEFAULT_WORK_DIR, find_work_dir, latest_folder, latest_run


@dataclass
class Session:
    """The settings of an `Engine` and its state.

    Args:
        asked: the settings that were asked for, by dotted key; the recipe's other settings are defaults.
        has_recipe: a recipe or model was asked for.
        checkpoint: the model that verbs use; None: that of the newest training.
        start: the model that a training starts from; unlike `checkpoint`, a finished training does not change it.
        began: when the verb was called, by `time.monotonic`.
    """

    recipe: Recipe
    asked: Mapping[str, Any]
    has_recipe: bool
    reporter: Reporter
    checkpoint: Path | None = None
    start: Path | None = None
    began: float = field(default_factory=time.monotonic)

    @property
    def work_dir(self) -> Path:
        """The folder that holds the run folders: the one asked for, else the current folder if it holds runs."""
        is_asked = "work_dir" in self.asked or self.recipe.work_dir != DEFAULT_WORK_DIR
        return find_work_dir(self.recipe.work_dir if is_asked else None)

    @property
    def device(self) -> str:
        return self.recipe.engine.device

    @property
    def batch_size(self) -> int:
        """Images in a batch, for everything but training."""
        return self.recipe.data.test_subset.batch_size

    @property
    def max_pixels(self) -> int:
        return self.recipe.data.max_image_pixels

    def data_request(self, data_root: str | Path | None = None) -> DataRequest:
        """The data set that was asked for; the model decides what was not."""
        root = data_root if data_root is not None else self.recipe.data_root
        return DataRequest(root, self.recipe.data.split_file, self.max_pixels)

    def model(self, given: Path | None, *, prefer_export: bool = False) -> TrainedModel:
        """The model to use, with its card; see `model_path`."""
        return TrainedModel.open(self.model_path(given, prefer_export=prefer_export))

    def model_path(self, given: Path | None, *, prefer_export: bool = False) -> Path:
        """The model to use: the one given, else this session's, else the newest training.

        Args:
            prefer_export: take the last export if it is not older than the newest training.

        Raises:
            UsageError: there is none.
        """
        path = given or self.checkpoint
        if path is None:
            path = self._newest(prefer_export=prefer_export)
            self.reporter.note(f"Model: {path}")
        check_exists(path)
        return path

    def check_room(self, model: TrainedModel, output: Path | None) -> None:
        """Raise UsageError or StorageError if the output of a verb could not be written, before it is computed."""
        folder = output or (model.run.path if model.run is not None else self.work_dir)
        check_folder(folder, "choose another --output" if output is not None else "choose another --work_dir")

    def predictor(self, path: Path) -> Predictor:
        """The network of a file, on this session's device."""
        with heartbeat(self.reporter, "loading the model"):
            return load_predictor(path, self.device)

    def _newest(self, *, prefer_export: bool) -> Path:
        path = latest_run(self.work_dir).model
        exported = latest_folder(self.work_dir, "export") / "exported_model.xml"
        if prefer_export and exported.is_file() and exported.stat().st_mtime >= path.stat().st_mtime:
            return exported.resolve()
        return path

    def training_recipe(self, start: Path | None, changes: Mapping[str, Any]) -> Recipe:
        """The settings of a training: this session's, or the start model's if no recipe or model was asked for."""
        if start is None or self.has_recipe:
            return self.recipe.override(changes)
        card = read_card(start)
        plain: dict[str, Any] = {**card.recipe, "work_dir": DEFAULT_WORK_DIR, "data_root": None}
        plain["data"] = {**plain["data"], "split_file": None}
        plain["model"] = {**plain["model"], "weights": None}
        size = card.preprocessing
        plain["data"]["input_size"] = [size.height, size.width]
        self.reporter.note(f"The settings are those {start} was trained with, but for what is asked for now.")
        return from_dict(plain, f"the recipe in {start}").override({**self.asked, **changes})

    def try_report(self, what_holds: str, write: Callable[[], None]) -> None:
        """Write a report; a failure is only a warning, since the work that was asked for is done.

        Args:
            what_holds: what is complete despite the failure, as a sentence without its full stop.
        """
        try:
            write()
        except OtxError as error:
            self.reporter.warn(f"report.html was not written: {error.what}. {what_holds}.")
        except Exception as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            self.reporter.warn(
                f"report.html was not written, through a mistake in otx: {type(error).__name__}: {error} "
                f"({Path(place.filename).name}, line {place.lineno}). {what_holds}."
            )


def check_exists(path: Path | None) -> None:
    """Raise UsageError if a path is given that is not an existing file."""
    if path is not None and not path.exists():
        raise UsageError(f"no such file: {path}", fix="`ls otx-workspace/.latest/train/` shows the newest run")
    if path is not None and path.is_dir():
        raise UsageError(f"{path} is a folder without model.safetensors", fix="give a model file or a run folder")
