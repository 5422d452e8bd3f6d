"""All that a training needs to run."""

from __future__ import annotations

from dataclasses import dataclass, replace

from otx.events import Reporter
from otx.model.card import ModelCard
from otx.model.modelfile import save_model
from otx.results import EpochResult
from otx.training.acceleration.threads import ThreadWatch
from otx.training.devices import Compute
from otx.training.inputs import Inputs
from otx.training.module import Classifier
from otx.workspace import RunFolder


@dataclass(frozen=True)
class Job:
    """All that a training needs to run.

    Args:
        card: what the model file says of itself, but the figures.
        watch: chooses the threads to compute with.
        before: figures of the network as it is given, where it can do something already.
        resumes: go on from the last checkpoint of the run.
    """

    module: Classifier
    inputs: Inputs
    run: RunFolder
    card: ModelCard
    compute: Compute
    watch: ThreadWatch
    reporter: Reporter
    before: EpochResult | None
    resumes: bool

    def keep(self, result: EpochResult) -> None:
        """Write the model file: the network is the best so far."""
        metrics = {"val/accuracy": result.val_accuracy, "val/loss": result.val_loss, "epoch": float(result.epoch + 1)}
        state = {name: value.detach().cpu().contiguous() for name, value in self.module.network.state_dict().items()}
        save_model(self.run.model, state, replace(self.card, metrics=metrics))
