"""Calibrate a trained model: fold a temperature, fitted on the validation images, into its classifier."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from otx.data.preprocessing import Preprocessing
from otx.errors import StoppedError
from otx.events import Progress
from otx.model.calibration import calibrate
from otx.model.card import ModelCard
from otx.model.modelfile import load_model, save_model
from otx.networks.head import scale_logits
from otx.signals import name_of, signal_of
from otx.training.inputs import plain_batches, to_network_input
from otx.training.loop import Job

# relative to the largest logit; a GPU may round weights to 10 bits
TOLERANCE = 1e-2
# logits in memory, 32 MB; of very many classes, those of at least so many images
MAX_LOGITS = 8_000_000
FEWEST = 200

Answers = tuple[NDArray[np.float32], NDArray[np.int64]]


def calibrate_model(job: Job) -> None:
    """Calibrate the model file of a training that has ended; its checkpoints keep the network as it was trained.

    Raises:
        StoppedError: Ctrl-C or SIGTERM came; the model file is kept as it was.
    """
    try:
        _calibrate(job)
    except KeyboardInterrupt as stop:
        number, run = signal_of(stop), job.run
        what = f"{name_of(number)} came before {run.model} was calibrated"
        raise StoppedError(number, what, fix=run.how_to_go_on) from stop


def _calibrate(job: Job) -> None:
    path, module = job.run.model, job.module
    network, card = load_model(path)
    if card.temperature is not None:
        return  # a resumed run that found no better model
    if module.distillation is not None:
        job.reporter.note("Not calibrated: there are no validation images of the old classes.")
        return
    network = network.to(job.compute.place, memory_format=torch.channels_last)  # type: ignore[call-overload]
    logits, labels = _answers(job, network, card)
    if not len(labels) or not np.isfinite(logits).all():
        job.reporter.note("Not calibrated: the answers to the validation images are no numbers.")
        return
    found = calibrate(logits, labels)
    if found.temperature != 1 and not _fold(network, found.temperature, card.preprocessing, job.compute.place):
        job.reporter.note("Not calibrated: the classifier of this network is not linear.")
        return
    metrics = {"val/calibration_error_before": found.error_before, "val/calibration_error": found.error_after}
    described = replace(card, temperature=found.temperature, metrics=card.metrics | metrics)
    save_model(path, {name: value.cpu().contiguous() for name, value in network.state_dict().items()}, described)
    job.reporter.note(
        f"Not calibrated: {found.why_not} (calibration error {found.error_before:.4f})."
        if found.why_not
        else f"Calibrated on {found.num_images} validation images: temperature {found.temperature:.3f}, calibration "
        f"error {found.error_before:.4f} before, {found.error_after:.4f} after."
    )


@torch.inference_mode()
def _answers(job: Job, network: nn.Module, card: ModelCard) -> Answers:
    """Logits (N, C) and labels (N,) of the validation images that can be decoded; of very many, of random ones."""
    part, recipe, place = job.inputs.val, job.module.recipe, job.compute.place
    most = max(FEWEST, MAX_LOGITS // len(card.classes))
    numbers = sorted(np.random.default_rng(recipe.seed).permutation(len(part))[:most].tolist())
    convert = to_network_input(card.preprocessing, place)
    logits, labels = [np.empty((0, len(card.classes)), np.float32)], [np.empty(0, np.int64)]
    for batch in plain_batches(part, numbers, recipe):
        if len(batch.labels):
            logits.append(network(convert(batch.images.to(place))).float().cpu().numpy())
            labels.append(batch.labels.numpy())
            job.reporter.progress(Progress("calibrating", sum(map(len, labels)), len(numbers)))
    return np.concatenate(logits), np.concatenate(labels)


@torch.inference_mode()
def _fold(network: nn.Module, temperature: float, size: Preprocessing, place: str) -> bool:
    """Divide the logits of a network by a temperature; False, and no change, if its classifier is not linear."""
    noise = torch.randn(2, 3, size.height, size.width, generator=torch.Generator().manual_seed(0)).to(place)
    expected = network(noise) / temperature
    if not scale_logits(network, 1 / temperature):
        return False
    if torch.allclose(network(noise), expected, rtol=TOLERANCE, atol=TOLERANCE * float(expected.abs().max())):
        return True
    scale_logits(network, temperature)
    return False
