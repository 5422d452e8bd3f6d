"""Count the right answers for each class, over all processes of a training."""

from __future__ import annotations

import torch
from torchmetrics import Metric


class ClassCounts(Metric):
    """Right answers and images of each of C classes.

    torchmetrics' `MulticlassStatScores` makes a confusion matrix (C, C) of every batch: 800 MB for 10,000 classes.
    """

    hits: torch.Tensor
    images: torch.Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        for name in ("hits", "images"):
            self.add_state(name, torch.zeros(num_classes, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, logits: torch.Tensor, labels: torch.Tensor) -> None:
        """Count the images of logits (N, C) and labels (N,)."""
        right = logits.argmax(dim=1) == labels
        self.hits += torch.bincount(labels[right], minlength=len(self.hits))
        self.images += torch.bincount(labels, minlength=len(self.images))

    def compute(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Right answers (C,) and images (C,), as floats."""
        return self.hits.float(), self.images.float()
