"""Calibrate a trained model: fold a temperature, fitted on the validation images, into its classifier."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import nn

from otx.data.preprocessing import Preprocessing
from otx.errors import StoppedError
from otx.model.calibration import calibrate
from otx.networks.head import scale_logits
from otx.signals import name_of, signal_of
from otx.training.kept import KeptModel

# relative to the largest logit; a GPU may round weights to 10 bits
TOLERANCE = 1e-2


def calibrate_model(kept: KeptModel) -> None:
    """Calibrate the model file of a training that has ended; its checkpoints keep the network as it was trained.

    Raises:
        StoppedError: Ctrl-C or SIGTERM came; the model file is kept as it was.
    """
    try:
        _calibrate(kept)
    except KeyboardInterrupt as stop:
        number, run = signal_of(stop), kept.job.run
        what = f"{name_of(number)} came before {run.model} was calibrated"
        raise StoppedError(number, what, fix=run.how_to_go_on) from stop


def _calibrate(kept: KeptModel) -> None:
    card, reporter = kept.card, kept.job.reporter
    if card.temperature is not None:
        return  # a resumed run that found no better model
    if kept.job.module.distillation is not None:
        reporter.note("Not calibrated: there are no validation images of the old classes.")
        return
    logits, labels = kept.answers.logits, kept.answers.labels
    if not len(labels) or not np.isfinite(logits).all():
        reporter.note("Not calibrated: the answers to the validation images are no numbers.")
        return
    found = calibrate(logits, labels)
    if found.temperature != 1:
        if not _fold(kept.network, found.temperature, card.preprocessing, kept.job.compute.place):
            reporter.note("Not calibrated: the classifier of this network is not linear.")
            return
        kept.calibrated(found.temperature)
    metrics = {"val/calibration_error_before": found.error_before, "val/calibration_error": found.error_after}
    kept.save(replace(card, temperature=found.temperature, metrics=card.metrics | metrics))
    reporter.note(
        f"Not calibrated: {found.why_not} (calibration error {found.error_before:.4f})."
        if found.why_not
        else f"Calibrated on {found.num_images} validation images: temperature {found.temperature:.3f}, calibration "
        f"error {found.error_before:.4f} before, {found.error_after:.4f} after."
    )


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
