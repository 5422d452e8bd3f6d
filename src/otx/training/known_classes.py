"""After a training: summarise the training images, so that the model can tell what it knows from what it does not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from otx.data.dataset import pick_numbers
from otx.data.folder import shorten
from otx.errors import OtxError, StoppedError, TrainingError
from otx.events import heartbeat
from otx.limits import limited_blas
from otx.model.unknown import draw_sample, limit_of, summarise
from otx.results import EpochResult
from otx.signals import name_of, signal_of
from otx.training.batch_size import in_memory
from otx.training.budget import MAX_FEATURES
from otx.training.kept import KeptModel
from otx.training.linear_probe import Features, has_linear_head

ALONE = "The model is kept; `known` of its predictions is empty"
EMPTY = "`known` of its predictions will be empty"


def learn_known(kept: KeptModel, best: EpochResult, probed: Features | None) -> None:
    """Add to the run's model file what tells known images from others, and the limit that keeps the recipe's share.

    The features are those of the kept network, of at most MAX_FEATURES training images, without augmentation. A failure
    is only a warning: the model itself is whole.

    Args:
        probed: the features of the training images for the linear probe, which are right if the probe is the best.

    Raises:
        StoppedError: a signal ended it.
    """
    try:
        in_memory(
            lambda: _learn(kept, None if best.is_trained else probed),
            lambda _: TrainingError("memory does not suffice"),
        )
    except OtxError as error:
        kept.job.reporter.warn(f"{ALONE}: {error.what}.")
    except KeyboardInterrupt as stop:
        number, run = signal_of(stop), kept.job.run
        what = f"{name_of(number)} came before the model had learnt what it knows. {ALONE}"
        raise StoppedError(number, what, fix=run.how_to_go_on) from stop


def _learn(kept: KeptModel, known: Features | None) -> None:
    if kept.card.unknown_limit is not None:
        return  # a resumed run that found no better model
    job, num_classes = kept.job, len(kept.card.classes)
    recipe, inputs = job.module.recipe, job.inputs
    if reason := _why_not(kept, num_classes):
        job.reporter.note(f"{EMPTY}: {reason}.")
        return
    answers = kept.answers
    if answers.features is None:
        raise TrainingError("none of the validation images can be decoded any more")
    numbers = pick_numbers(inputs.train.subset, MAX_FEATURES, recipe.seed)
    if known is None:
        known = kept.features(inputs.train, numbers, half=job.compute.is_half)
    if broken := {inputs.train.subset.labels[number] for number in numbers} - set(known[1].tolist()):
        names = shorten(kept.card.classes[label] for label in sorted(broken))
        job.reporter.note(f"{EMPTY}: no training image of {names} that was looked at can be decoded.")
        return
    if not (np.isfinite(answers.features).all() and np.isfinite(known[0]).all()):
        raise TrainingError("its features are no numbers")
    with heartbeat(job.reporter, "learning what is known"), limited_blas():
        summary = summarise(*known, num_classes).judged_by(answers.features, answers.logits)
        limit = limit_of(summary.score(answers.features, answers.logits), recipe.training.known_share)
        sample = draw_sample(summary.whitened(answers.features), recipe.seed)
    if not np.isfinite(limit):
        raise TrainingError("its scores are no numbers")
    kept.save(replace(kept.card, unknown_limit=limit), summary, sample)


def _why_not(kept: KeptModel, num_classes: int) -> str:
    """Why nothing can be learnt about what is known; empty if it can."""
    if not has_linear_head(kept.network):
        return "the network does not end in one linear layer"
    if not len(kept.job.inputs.val):
        return "there are no validation images to set a limit with"
    missing = num_classes - len(set(kept.job.inputs.train.subset.labels))
    return f"{missing} of its classes have no images to learn from" if missing else ""
