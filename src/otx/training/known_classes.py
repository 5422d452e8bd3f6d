"""After a training: summarise the training images, so that the model can tell what it knows from what it does not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from otx.data.dataset import pick_numbers
from otx.data.loader import ImageSubset
from otx.errors import OtxError, StoppedError, TrainingError
from otx.events import Progress, heartbeat
from otx.limits import limited_blas
from otx.model.modelfile import load_model, save_model
from otx.model.regression import MAX_LOGITS
from otx.model.unknown import draw_sample, limit_of, summarise
from otx.results import EpochResult
from otx.signals import name_of, signal_of
from otx.training.batch_size import in_memory
from otx.training.inputs import plain_batches, to_network_input
from otx.training.linear_probe import MAX_IMAGES, Features, compute_features, has_linear_head
from otx.training.loop import Job

ALONE = "The model is kept; `known` of its predictions is empty"


def learn_known(job: Job, best: EpochResult, probed: Features | None) -> None:
    """Add to the run's model file what tells known images from others, and the limit that keeps the recipe's share.

    The features are those of the kept network, of at most MAX_IMAGES training images, without augmentation. A failure
    is only a warning: the model itself is whole.

    Args:
        probed: the features of the training images for the linear probe, which are right if the probe is the best.

    Raises:
        StoppedError: a signal ended it.
    """
    try:
        in_memory(
            lambda: _learn(job, None if best.is_trained else probed), lambda _: TrainingError("memory does not suffice")
        )
    except OtxError as error:
        job.reporter.warn(f"{ALONE}: {error.what}.")
    except KeyboardInterrupt as stop:
        number = signal_of(stop)
        what = f"{name_of(number)} came before the model had learnt what it knows. {ALONE}"
        raise StoppedError(number, what, fix=job.run.how_to_go_on) from stop


def _learn(job: Job, known: Features | None) -> None:
    network, card = load_model(job.run.model)
    if card.unknown_limit is not None:
        return  # a resumed run that found no better model
    recipe, inputs, num_classes = job.module.recipe, job.inputs, len(card.classes)
    if reason := _why_not(job, network, num_classes):
        job.reporter.note(f"`known` of its predictions will be empty: {reason}.")
        return
    state = {name: value.clone() for name, value in network.state_dict().items()}
    network.to(job.compute.place, memory_format=torch.channels_last)  # type: ignore[call-overload]
    train = pick_numbers(inputs.train.subset, MAX_IMAGES, recipe.seed)
    val = pick_numbers(inputs.val.subset, min(MAX_IMAGES, MAX_LOGITS // num_classes), recipe.seed)
    total = len(val) + (0 if known is not None else len(train))

    def features(part: ImageSubset, numbers: Sequence[int], done: int, *, half: bool) -> Features:
        return compute_features(
            network,
            plain_batches(part, numbers, recipe),
            to_network_input(card.preprocessing, job.compute.place),
            device=job.compute.place,
            half=half,
            on_progress=lambda n: job.reporter.progress(Progress("features", done + n, total)),
        )

    # the limit is compared with scores that are computed in 32 bits
    kept = features(inputs.val, val, 0, half=False)[0]
    known = known or features(inputs.train, train, len(val), half=job.compute.is_half)
    if not (np.isfinite(kept).all() and np.isfinite(known[0]).all()):
        raise TrainingError("its features are no numbers")
    with heartbeat(job.reporter, "learning what is known"), limited_blas():
        logits = _logits(network, kept)
        summary = summarise(*known, num_classes).judged_by(kept, logits)
        limit = limit_of(summary.score(kept, logits), recipe.training.known_share)
        sample = draw_sample(summary.whitened(kept), recipe.seed)
    save_model(job.run.model, state, replace(card, unknown_limit=limit), summary, sample)


def _logits(network: Any, features: NDArray[np.float32]) -> NDArray[np.float32]:
    head = network.get_classifier().cpu()
    with torch.no_grad():
        return np.asarray(head(torch.from_numpy(features)).numpy())


def _why_not(job: Job, network: object, num_classes: int) -> str:
    """Why nothing can be learnt about what is known; empty if it can."""
    if not has_linear_head(network):
        return "the network does not end in one linear layer"
    if not len(job.inputs.val):
        return "there are no validation images to set a limit with"
    missing = num_classes - len(set(job.inputs.train.subset.labels))
    return f"{missing} of its classes have no images to learn from" if missing else ""
