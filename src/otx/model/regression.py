"""Logistic regression on features, for the linear probe and for finding labels that may be wrong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from otx.limits import limit_torch

if TYPE_CHECKING:
    import torch

MAX_STEPS = 200

Features = NDArray[np.float32]
Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Regression:
    """Weights (C, D) and biases (C,) of a linear classifier."""

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]

    def logits(self, features: Features) -> NDArray[np.float32]:
        """Logits (N, C) of features (N, D)."""
        return features @ self.weight.T + self.bias

    def measure(self, features: Features, labels: Labels) -> tuple[float, float]:
        """Cross-entropy in nats, and top-1 accuracy, 0 to 1."""
        import torch

        logits, targets = torch.from_numpy(self.logits(features)), torch.from_numpy(labels)
        right = (logits.argmax(1) == targets).float().mean()
        return float(torch.nn.functional.cross_entropy(logits, targets)), float(right)


def fit_regression(
    features: Features, labels: Labels, num_classes: int, *, penalty: float, balanced: bool = False
) -> Regression:
    """The multinomial logistic regression with the lowest loss: mean cross-entropy and an L2 penalty on the weights.

    Fitted by L-BFGS.

    Args:
        features: (N, D).
        labels: (N,), from 0 to num_classes - 1.
        penalty: factor of half the sum of the squared weights, for features scaled to a root mean square of 1.
        balanced: give every class that has images the same weight.
    """
    import torch

    limit_torch()
    rows, targets = torch.from_numpy(features), torch.from_numpy(labels)
    scale = rows.square().mean().sqrt().clamp_min(1e-6)
    rows = rows / scale
    share = _shares(targets, num_classes, balanced=balanced)
    weight = torch.zeros(num_classes, rows.shape[1], requires_grad=True)
    bias = torch.zeros(num_classes, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=MAX_STEPS, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        entropy = torch.nn.functional.cross_entropy(rows @ weight.T + bias, targets, reduction="none")
        loss = (share * entropy).sum() + penalty * weight.square().sum() / 2
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return Regression((weight / scale).detach().numpy(), bias.detach().numpy())


def _shares(targets: torch.Tensor, num_classes: int, *, balanced: bool) -> torch.Tensor:
    """The weight of each image in the loss (N,); they sum to 1."""
    import torch

    if not balanced:
        return torch.full(targets.shape, 1 / len(targets))
    counts = torch.bincount(targets, minlength=num_classes).clamp_min(1)
    share = 1 / counts[targets]
    return share / share.sum()
