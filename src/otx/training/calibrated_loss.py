"""The loss of validation images as it would be after calibration."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional
from torchmetrics import Metric

from otx.model.regression import MAX_LOGITS

# from 1/4 to 8, in steps of 9 %
TEMPERATURES = tuple(2 ** (power / 8) for power in range(-16, 25))


class CalibratedLoss(Metric):
    """Cross-entropy (nats) with logits divided by the temperature that makes it lowest, over all processes.

    A training makes a network sure of itself sooner than it makes it wrong: the plain loss rises while more and more
    answers are right, and would choose an epoch too early. The temperature takes that out, as calibration will.
    """

    losses: torch.Tensor
    images: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("losses", torch.zeros(len(TEMPERATURES), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("images", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, logits: torch.Tensor, labels: torch.Tensor) -> None:
        """Add the images of logits (N, C) and labels (N,)."""
        sums = [functional.cross_entropy(logits / each, labels, reduction="sum") for each in TEMPERATURES]
        self.losses += torch.stack(sums)
        self.images += len(labels)

    def compute(self) -> torch.Tensor:
        return self.losses.min() / self.images


def calibrated_loss(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> float | None:
    """The calibrated loss (nats) of logits (N, C) and labels (N,); None of very many logits."""
    if logits.size > MAX_LOGITS:
        return None
    metric = CalibratedLoss()
    metric.update(torch.from_numpy(logits), torch.from_numpy(labels))
    return float(metric.compute())
