"""The best model of a training, and what it makes of the validation images, computed once for all that follows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from otx.data.loader import ImageSubset
from otx.errors import TrainingError
from otx.events import Progress
from otx.model.card import ModelCard
from otx.model.modelfile import load_model, save_model
from otx.model.unknown import KnownClasses
from otx.training.budget import MAX_FEATURES
from otx.training.inputs import plain_batches, to_network_input
from otx.training.linear_probe import Features, compute_features, has_linear_head
from otx.training.loop import Job

# logits in memory, 32 MB; of very many classes, those of at least so many images
MAX_LOGITS = 8_000_000
FEWEST = 200


@dataclass(frozen=True)
class Answers:
    """Logits (N, C) and labels (N,) of validation images; features (N, D) if the classifier is one linear layer."""

    features: NDArray[np.float32] | None
    logits: NDArray[np.float32]
    labels: NDArray[np.int64]


class KeptModel:
    """The model file of a training that has ended, opened when it is first asked for."""

    def __init__(self, job: Job) -> None:
        self.job = job

    @cached_property
    def network(self) -> Any:
        return self._loaded[0].to(self.job.compute.place, memory_format=torch.channels_last)

    @cached_property
    def card(self) -> ModelCard:
        return self._loaded[1]

    @cached_property
    def _loaded(self) -> tuple[Any, ModelCard]:
        return load_model(self.job.run.model)

    @cached_property
    def answers(self) -> Answers:
        """Of the validation images that can be decoded; of very many, of random ones."""
        part, recipe = self.job.inputs.val, self.job.module.recipe
        most = max(FEWEST, min(MAX_FEATURES, MAX_LOGITS // len(self.card.classes)))
        numbers = sorted(np.random.default_rng(recipe.seed).permutation(len(part))[:most].tolist())
        try:
            # in 32 bits, as the scores that a limit is compared with
            entering, labels = self.features(part, numbers, half=False)
        except TrainingError:
            return Answers(None, np.empty((0, len(self.card.classes)), np.float32), np.empty(0, np.int64))
        if has_linear_head(self.network):
            return Answers(entering, self._classify(entering), labels)
        return Answers(None, self._logits(part, numbers), labels)

    def features(self, part: ImageSubset, numbers: Sequence[int], *, half: bool) -> Features:
        """The classifier's input (N, D) and the labels (N,) of some images.

        Raises:
            TrainingError: none of them can be decoded.
        """
        found = compute_features(
            self.network,
            plain_batches(part, numbers, self.job.module.recipe),
            to_network_input(self.card.preprocessing, self.job.compute.place),
            device=self.job.compute.place,
            half=half,
            on_progress=lambda done: self.job.reporter.progress(Progress("features", done, len(numbers))),
        )
        self.network.eval()
        return found

    @torch.inference_mode()
    def _classify(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        logits = self.network.get_classifier()(torch.from_numpy(features).to(self.job.compute.place))
        return np.asarray(logits.float().cpu().numpy())

    @torch.inference_mode()
    def _logits(self, part: ImageSubset, numbers: Sequence[int]) -> NDArray[np.float32]:
        convert, place = to_network_input(self.card.preprocessing, self.job.compute.place), self.job.compute.place
        batches = plain_batches(part, numbers, self.job.module.recipe)
        return np.concatenate(
            [
                self.network(convert(batch.images.to(place))).float().cpu().numpy()
                for batch in batches
                if len(batch.labels)
            ]
        )

    def calibrated(self, temperature: float) -> None:
        """The network's classifier was divided by a temperature: divide its answers, too."""
        self.answers = replace(self.answers, logits=self.answers.logits / np.float32(temperature))

    def save(
        self, card: ModelCard, known: KnownClasses | None = None, sample: NDArray[np.float16] | None = None
    ) -> None:
        state = {name: value.cpu().contiguous() for name, value in self.network.state_dict().items()}
        save_model(self.job.run.model, state, card, known, sample)
        self.card = card
