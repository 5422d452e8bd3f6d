"""Linear classifiers fitted to features, for the linear probe and for finding labels that may be wrong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from otx.confusion import MANY_CLASSES
from otx.limits import limit_torch

if TYPE_CHECKING:
    import torch

MAX_STEPS = 200
# how many logits are in memory when a classifier is measured: 64 MB
MAX_LOGITS = 16_000_000
# how far below all others the logit of a class without images is
UNSEEN = 10.0

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

    def probabilities(self, features: Features) -> NDArray[np.float64]:
        """Probabilities (N, C) of features (N, D)."""
        logits = self.logits(features).astype(np.float64)
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(powers / powers.sum(axis=1, keepdims=True))

    def measure(self, features: Features, labels: Labels) -> tuple[float, float]:
        """Cross-entropy in nats, and top-1 accuracy, 0 to 1."""
        rows = max(1, MAX_LOGITS // len(self.bias))
        if len(labels) <= rows:
            return self._measure(features, labels)
        starts = range(0, len(labels), rows)
        parts = [self._measure(features[start : start + rows], labels[start : start + rows]) for start in starts]
        sizes = [min(rows, len(labels) - start) for start in starts]
        loss, right = np.average(parts, axis=0, weights=sizes).tolist()
        return loss, right

    def mean_probability(self, features: Features, labels: Labels) -> float:
        """The mean probability of the true class, 0 to 1."""
        rows = max(1, MAX_LOGITS // len(self.bias))
        parts = [slice(start, start + rows) for start in range(0, len(labels), rows)]
        found = [self.probabilities(features[part])[np.arange(len(labels[part])), labels[part]] for part in parts]
        return float(np.concatenate(found).mean())

    def _measure(self, features: Features, labels: Labels) -> tuple[float, float]:
        import torch

        logits, targets = torch.from_numpy(self.logits(features)), torch.from_numpy(labels)
        right = (logits.argmax(1) == targets).float().mean()
        return float(torch.nn.functional.cross_entropy(logits, targets)), float(right)


def fit_regression(
    features: Features, labels: Labels, num_classes: int, *, penalty: float, balanced: bool = False
) -> Regression:
    """The multinomial logistic regression with the lowest loss: mean cross-entropy and an L2 penalty on the weights.

    Fitted by L-BFGS. For more than MANY_CLASSES classes it is a discriminant instead, see `_fit_discriminant`: L-BFGS
    keeps hundreds of copies of the weights, and computes all logits in each of its hundreds of steps.

    Args:
        features: (N, D).
        labels: (N,), from 0 to num_classes - 1.
        penalty: factor of half the sum of the squared weights, for features scaled to a root mean square of 1.
        balanced: give every class that has images the same weight.
    """
    import torch

    limit_torch()
    if num_classes > MANY_CLASSES:
        return _fit_discriminant(features, labels, num_classes, ridge=penalty * features.shape[1])
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


def folds_of(labels: Labels, count: int) -> Labels:
    """The fold (N,) of each image, from 0 to count - 1, in turns within its class."""
    fold = np.empty(len(labels), np.int64)
    fold[np.argsort(labels, kind="stable")] = np.arange(len(labels)) % count
    return fold


def _fit_discriminant(features: Features, labels: Labels, num_classes: int, ridge: float) -> Regression:
    """The regularised linear discriminant: Gaussian classes of one covariance, each as probable as the others.

    Time and memory do not grow with N x C. Classes without images are never the answer.

    Source: Friedman 1989, "Regularized Discriminant Analysis".

    Args:
        ridge: added to the variance of each feature, as a multiple of the mean variance.
    """
    import torch

    rows, targets = torch.from_numpy(features).double(), torch.from_numpy(labels)
    middle = rows.mean(dim=0)
    rows -= middle
    counts = torch.bincount(targets, minlength=num_classes)
    means = torch.zeros(num_classes, rows.shape[1], dtype=rows.dtype).index_add_(0, targets, rows)
    means /= counts.clamp_min(1)[:, None]
    variance = rows.square().mean().clamp_min(1e-12)
    rows -= means[targets]
    within = rows.T @ rows / max(1, len(rows) - int((counts > 0).sum()))
    weight = torch.linalg.solve(within + ridge * variance * torch.eye(len(within), dtype=rows.dtype), means.T).T
    bias = -(weight * means).sum(dim=1) / 2 - weight @ middle
    bias[counts == 0] = bias[counts > 0].min() - UNSEEN
    return Regression(weight.float().numpy(), bias.float().numpy())


def _shares(targets: torch.Tensor, num_classes: int, *, balanced: bool) -> torch.Tensor:
    """The weight of each image in the loss (N,); they sum to 1."""
    import torch

    if not balanced:
        return torch.full(targets.shape, 1 / len(targets))
    counts = torch.bincount(targets, minlength=num_classes).clamp_min(1)
    share = 1 / counts[targets]
    return share / share.sum()
