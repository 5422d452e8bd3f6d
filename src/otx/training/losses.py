"""Losses for imbalanced classes, new ones and ones without images. N images, C classes, D features."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from otx.recipe import CLASS_BALANCED, INFLUENCE_BALANCED

EPSILON = 1e-3
TEMPERATURE = 2.0


class InfluenceBalancedLoss(nn.Module):
    """Cross-entropy, from `start_epoch` on divided by a sample's influence on the decision boundary.

    The influence of a sample is the L1 norm of (softmax - one-hot) times the L1 norm of its feature; its loss is
    weight * alpha * cross-entropy / (influence + 0.001). The weight of a class is inversely proportional to its number
    of images; the mean over the classes is 1. A class without images gets the weight of one with a single image.

    Args:
        class_counts: number of images of each class, C values.
        alpha: scale of the influence.
        start_epoch: the first balanced epoch, counted from 0.
        label_smoothing: share of the target probability that is spread over all classes, 0 to 1.

    Source: Park et al., Influence-Balanced Loss for Imbalanced Visual Classification, ICCV 2021, arXiv 2110.02444.
    """

    weights: torch.Tensor

    def __init__(
        self, class_counts: Sequence[int], alpha: float = 1000.0, start_epoch: int = 5, *, label_smoothing: float = 0.0
    ) -> None:
        super().__init__()
        self.alpha, self.start_epoch, self.label_smoothing = alpha, start_epoch, label_smoothing
        self.register_buffer("weights", _mean_one([1 / max(count, 1) for count in class_counts]), persistent=False)

    def forward(self, logits: torch.Tensor, labels: torch.Tensor, features: torch.Tensor, epoch: int) -> torch.Tensor:
        """The mean loss of logits (N, C), labels (N,) and features (N, D) in an epoch, counted from 0.

        Detach the features: the loss is divided by their norm, so training would lower it by making them larger.
        """
        if epoch < self.start_epoch:
            return functional.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
        wrong = (logits.softmax(dim=1) - functional.one_hot(labels, logits.shape[1])).abs().sum(dim=1)
        influence = wrong * features.flatten(1).abs().sum(dim=1)
        entropy = functional.cross_entropy(logits, labels, reduction="none", label_smoothing=self.label_smoothing)
        weights = self.weights.to(logits.dtype)[labels]
        return (weights * self.alpha * entropy / (influence + EPSILON)).mean()


class WeightedCrossEntropy(nn.Module):
    """Cross-entropy with a weight for each class; it takes the same arguments as `InfluenceBalancedLoss`.

    Args:
        weights: (C,), or None for equal weights.
        label_smoothing: share of the target probability that is spread over all classes, 0 to 1.
    """

    weights: torch.Tensor | None

    def __init__(self, weights: torch.Tensor | None = None, *, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.label_smoothing = label_smoothing
        self.register_buffer("weights", weights, persistent=False)

    def forward(self, logits: torch.Tensor, labels: torch.Tensor, features: torch.Tensor, epoch: int) -> torch.Tensor:
        """The mean loss of logits (N, C) and labels (N,); features and epoch are ignored."""
        entropy = functional.cross_entropy(logits, labels, reduction="none", label_smoothing=self.label_smoothing)
        return entropy.mean() if self.weights is None else (self.weights.to(logits.dtype)[labels] * entropy).mean()


def effective_number_weights(class_counts: Sequence[int], beta: float = 0.9999) -> torch.Tensor:
    """Weights (C,) with mean 1, inversely proportional to each class's effective number of images.

    The effective number of n images is (1 - beta^n) / (1 - beta): images of a class overlap, so each one adds less.

    Source: Cui et al., Class-Balanced Loss Based on Effective Number of Samples, CVPR 2019, arXiv 1901.05555.
    """
    return _mean_one([(1 - beta) / (1 - beta ** max(count, 1)) for count in class_counts])


def distillation_loss(logits: torch.Tensor, teacher: torch.Tensor, temperature: float = TEMPERATURE) -> torch.Tensor:
    """Mean Kullback-Leibler divergence between a teacher's predictions and these, from logits (N, C) at a temperature.

    It is multiplied by the squared temperature, so that the gradients keep their size.

    Source: Li and Hoiem, Learning without Forgetting, ECCV 2016, arXiv 1606.09282.
    """
    own = functional.log_softmax(logits / temperature, dim=1)
    wanted = functional.log_softmax(teacher / temperature, dim=1)
    return functional.kl_div(own, wanted, reduction="batchmean", log_target=True) * temperature**2


def make_loss(
    name: str, class_counts: Sequence[int], *, alpha: float, start_epoch: int, label_smoothing: float
) -> nn.Module:
    """The loss that a recipe names; each takes (logits, labels, features, epoch)."""
    if name == INFLUENCE_BALANCED:
        return InfluenceBalancedLoss(class_counts, alpha, start_epoch, label_smoothing=label_smoothing)
    weights = effective_number_weights(class_counts) if name == CLASS_BALANCED else None
    return WeightedCrossEntropy(weights, label_smoothing=label_smoothing)


def _mean_one(weights: Sequence[float]) -> torch.Tensor:
    values = torch.tensor(weights, dtype=torch.float64)
    return values / values.mean()
