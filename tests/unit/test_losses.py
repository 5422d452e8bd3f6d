"""The losses match their papers: checked against values computed by hand, and differentiable."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from otx.training.losses import (
    InfluenceBalancedLoss,
    WeightedCrossEntropy,
    distillation_loss,
    effective_number_weights,
    make_loss,
)


def softmax(logits: list[float]) -> list[float]:
    powers = [math.exp(value) for value in logits]
    return [power / sum(powers) for power in powers]


def by_hand(
    logits: list[list[float]], labels: list[int], features: list[list[float]], counts: list[int], alpha: float
) -> float:
    """The formula of the paper, one sample at a time."""
    inverse = [1 / count for count in counts]
    weights = [value * len(counts) / sum(inverse) for value in inverse]
    total = 0.0
    for row, label, feature in zip(logits, labels, features, strict=True):
        probabilities = softmax(row)
        wrong = sum(abs(value - (place == label)) for place, value in enumerate(probabilities))
        influence = wrong * sum(abs(value) for value in feature)
        total += weights[label] * alpha * -math.log(probabilities[label]) / (influence + 1e-3)
    return total / len(labels)


CASES = [
    ([[2.0, -1.0, 0.5]], [0], [[1.0, -2.0, 0.5, 0.0]], [10, 10, 10], 1000.0),
    ([[2.0, -1.0, 0.5], [0.1, 0.2, 0.3]], [2, 1], [[1.0, -2.0], [0.5, 0.25]], [100, 10, 1], 1000.0),
    ([[0.0, 0.0], [5.0, -5.0], [-3.0, 3.0]], [0, 1, 1], [[3.0], [0.1], [7.0]], [7, 3], 10.0),
]


@pytest.mark.parametrize(("logits", "labels", "features", "counts", "alpha"), CASES)
def test_influence_balanced_loss_is_the_papers_formula(
    logits: list[list[float]], labels: list[int], features: list[list[float]], counts: list[int], alpha: float
) -> None:
    loss = InfluenceBalancedLoss(counts, alpha, start_epoch=2)
    given = (
        torch.tensor(logits, dtype=torch.float64),
        torch.tensor(labels),
        torch.tensor(features, dtype=torch.float64),
    )
    assert float(loss(*given, 2)) == pytest.approx(by_hand(logits, labels, features, counts, alpha), rel=1e-12)
    plain = sum(-math.log(softmax(row)[label]) for row, label in zip(logits, labels, strict=True)) / len(labels)
    assert float(loss(*given, 1)) == pytest.approx(plain, rel=1e-12)


def test_influence_balanced_loss_has_the_right_gradient() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 3, dtype=torch.float64, generator=generator, requires_grad=True)
    features = torch.randn(4, 5, dtype=torch.float64, generator=generator, requires_grad=True)
    labels = torch.tensor([0, 2, 1, 0])
    loss = InfluenceBalancedLoss([5, 3, 2], alpha=10.0, start_epoch=0)
    assert torch.autograd.gradcheck(lambda own, feature: loss(own, labels, feature, 0), (logits, features))


def test_exact_zeros_stay_finite() -> None:
    loss = InfluenceBalancedLoss([5, 5], start_epoch=0)
    certain = torch.tensor([[1000.0, -1000.0]], requires_grad=True)
    value = loss(certain, torch.tensor([0]), torch.ones(1, 4), 0)
    value.backward()
    assert value.item() == 0.0
    assert torch.equal(certain.grad, torch.zeros(1, 2))
    features = torch.zeros(1, 4, requires_grad=True)
    value = loss(torch.zeros(1, 2), torch.tensor([0]), features, 0)
    value.backward()
    assert value.item() == pytest.approx(1000.0 * math.log(2) / 1e-3)
    assert torch.equal(features.grad, torch.zeros(1, 4))


def test_a_class_without_images_weighs_like_one_with_one() -> None:
    assert torch.equal(InfluenceBalancedLoss([4, 0]).weights, InfluenceBalancedLoss([4, 1]).weights)
    assert float(InfluenceBalancedLoss([7, 2, 91]).weights.mean()) == pytest.approx(1.0)


def test_effective_numbers_are_those_of_the_paper() -> None:
    weights = effective_number_weights([1000, 10], beta=0.999)
    raw = [(1 - 0.999) / (1 - 0.999**count) for count in (1000, 10)]
    assert weights.tolist() == pytest.approx([value * 2 / sum(raw) for value in raw], rel=1e-12)
    assert effective_number_weights([5, 5, 5]).tolist() == pytest.approx([1, 1, 1])


def test_label_smoothing_and_weights_are_torchs() -> None:
    logits, labels = torch.randn(6, 3, generator=torch.Generator().manual_seed(1)), torch.tensor([0, 1, 2, 0, 1, 2])
    features = torch.ones(6, 2)
    expected = functional.cross_entropy(logits, labels, label_smoothing=0.1)
    torch.testing.assert_close(WeightedCrossEntropy(label_smoothing=0.1)(logits, labels, features, 0), expected)
    weights = torch.tensor([0.5, 1.0, 1.5])
    rows = functional.cross_entropy(logits, labels, reduction="none")
    expected = (weights[labels] * rows).mean()
    torch.testing.assert_close(WeightedCrossEntropy(weights)(logits, labels, features, 0), expected)


def test_distillation_is_zero_for_the_teachers_own_answers_and_grows_beside_them() -> None:
    teacher = torch.tensor([[3.0, 1.0, -2.0], [0.0, 0.5, 1.0]])
    assert float(distillation_loss(teacher + 5.0, teacher)) == pytest.approx(0.0, abs=1e-6)
    wanted, own = softmax([1.5, 0.5, -1.0]), softmax([0.5, 1.5, -1.0])
    expected = 4 * sum(p * math.log(p / q) for p, q in zip(wanted, own, strict=True))
    assert float(distillation_loss(torch.tensor([[1.0, 3.0, -2.0]]), teacher[:1])) == pytest.approx(expected, rel=1e-5)


def test_a_recipes_name_makes_its_loss() -> None:
    options = {"alpha": 5.0, "start_epoch": 3, "label_smoothing": 0.1}
    loss = make_loss("influence_balanced", [1, 2], **options)
    assert isinstance(loss, InfluenceBalancedLoss)
    assert (loss.alpha, loss.start_epoch, loss.label_smoothing) == (5.0, 3, 0.1)
    assert make_loss("cross_entropy", [1, 2], **options).weights is None
    assert make_loss("class_balanced", [1, 2], **options).weights[0] > 1
