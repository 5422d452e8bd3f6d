"""The unknown score: small cases computed by hand, and what holds for every size."""

from __future__ import annotations

import json

import numpy as np
import pytest

from otx.data.preprocessing import Preprocessing
from otx.evaluation.unknown import auroc
from otx.export import optimize
from otx.model.card import ModelCard
from otx.model.unknown import ENERGY_WEIGHT, MAX_NUMBERS, KnownClasses, energy, limit_of, summarise


def two_classes(width: int = 6, count: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """Features (2 * count, width) of two classes, each around a direction of its own."""
    rows = np.random.default_rng(0).normal(0, 0.05, (2 * count, width)).astype(np.float32)
    labels = np.repeat([0, 1], count)
    rows[np.arange(2 * count), labels] += 1
    return rows, labels


def by_hand() -> KnownClasses:
    """Classes at (1, 0, 0) and (-1, 0, 0) along the first two directions; the third lies outside."""
    directions = np.eye(3, 2, dtype=np.float32)
    scales, means = np.array([1, 2], np.float32), np.array([[1, 0], [-1, 0]], np.float32)
    outside, usual = np.array([0.5], np.float32), np.array([[1, 2], [0, 4]], np.float32)
    return KnownClasses(np.zeros(3, np.float32), directions, scales, means, outside, usual)


def test_the_distance_is_that_to_the_nearest_mean_in_standard_deviations() -> None:
    rows = np.array([[3, 0, 0], [-5, 0, 0], [0, 7, 0], [0, 0, 2]], np.float32)
    # at length 1: on a mean; on the other; 1 along the first and 1/2 along the second; 1 along the first and 1 / 0.5
    assert by_hand().distance(rows) == pytest.approx([0, 0, 1.25, 3])


def test_the_energy_is_minus_the_logarithm_of_the_sum_of_exponents() -> None:
    logits = np.log(np.array([[1, 3], [2, 6]], np.float32))
    assert energy(logits) == pytest.approx([-np.log(4), -np.log(8)])
    assert energy(np.array([[1000, 1000]], np.float32)) == pytest.approx([-1000 - np.log(2)])


def test_the_score_adds_both_in_their_standard_deviations() -> None:
    score = by_hand().score(np.array([[0, 0, 2]], np.float32), np.log(np.array([[1, 3]], np.float32)))
    assert score == pytest.approx([(3 - 1) / 2 - ENERGY_WEIGHT * np.log(4) / 4])


def test_with_all_directions_it_is_the_mahalanobis_distance() -> None:
    rows, labels = two_classes()
    known = summarise(rows, labels, 2)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    means = np.stack([unit[labels == label].mean(0) for label in (0, 1)])
    covariance = np.cov((unit - means[labels]).T, bias=True)
    shrunk = 0.9 * covariance + 0.1 * np.trace(covariance) / 6 * np.eye(6)
    differences = unit[:, None] - means
    expected = np.einsum("ncd,de,nce->nc", differences, np.linalg.inv(shrunk), differences).min(1) / 6
    assert known.distance(rows) == pytest.approx(expected, rel=1e-3)


def test_an_image_of_a_third_kind_is_more_foreign_than_known_ones() -> None:
    rows, labels = two_classes()
    logits = 10 * rows[:, :2]
    known = summarise(rows[::2], labels[::2], 2).judged_by(rows[1::2], logits[1::2])
    limit = limit_of(known.score(rows[1::2], logits[1::2]), 0.95)
    third = np.eye(6, dtype=np.float32)[2:3]
    assert known.score(third, 10 * third[:, :2]) > limit
    assert (known.score(rows, logits) <= limit).mean() > 0.9


@pytest.mark.parametrize(("width", "num_classes", "kept"), [(8, 3, 8), (8, 50_000, 8), (600, 3000, 138)])
def test_the_summary_is_bounded(width: int, num_classes: int, kept: int) -> None:
    rows = np.random.default_rng(0).normal(size=(2 * num_classes, width)).astype(np.float32)
    known = summarise(rows, np.arange(2 * num_classes) % num_classes, num_classes)
    assert (known.directions.shape, known.means.shape) == ((width, kept), (num_classes, kept))
    assert sum(value.size for value in known.tensors().values()) <= MAX_NUMBERS


def test_few_images_leave_finite_scores() -> None:
    rows = np.random.default_rng(0).normal(size=(4, 30)).astype(np.float32)
    known = summarise(rows, np.array([0, 0, 1, 1]), 2).judged_by(rows[:1], np.zeros((1, 2), np.float32))
    assert np.isfinite(known.score(-rows, np.ones((4, 2), np.float32))).all()


def test_classes_of_one_image_count_as_one() -> None:
    rows = np.random.default_rng(0).normal(size=(50, 10)).astype(np.float32)
    assert summarise(rows, np.arange(50), 50).distance(rows).mean() == pytest.approx(1, abs=0.1)


def test_a_summary_is_what_its_tensors_say() -> None:
    known = by_hand()
    assert KnownClasses.of(known.tensors()).tensors() == known.tensors()
    with pytest.raises(ValueError, match=r"\(2, 2\)"):
        KnownClasses.of(known.tensors() | {"scales": np.ones(3, np.float32)})


@pytest.mark.parametrize(("share", "limit"), [(0.5, 10.0), (0.9, 18.0), (0.95, 19.0)])
def test_the_limit_keeps_the_share_of_images_not_yet_seen(share: float, limit: float) -> None:
    scores = np.arange(1.0, 20.0)
    assert limit_of(scores, share) == pytest.approx(limit + 0.01 * scores.std())


def test_of_few_images_the_limit_is_that_of_a_normal_distribution() -> None:
    scores = np.random.default_rng(0).normal(size=(2000, 7))
    kept = [
        limit_of(row, 0.95) >= new for row, new in zip(scores, np.random.default_rng(1).normal(size=2000), strict=True)
    ]
    assert 0.93 < np.mean(kept) < 0.98
    assert limit_of(np.array([3.0]), 0.95) == 3
    assert limit_of(np.array([1.0, 3.0]), 1.0) == pytest.approx(3.01)


def test_auroc_counts_pairs_and_ties_by_half() -> None:
    assert auroc([1, 2], [2, 3]) == pytest.approx((1 + 0.5 + 1 + 1) / 4)
    assert auroc([1, 2], [0]) == 0


def card(limit: float) -> ModelCard:
    size = Preprocessing(8, 8, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    recipe = {"training": {"known_share": 0.95}}
    return ModelCard("resnet18", ("ant", "bee"), size, "random weights", recipe=recipe, unknown_limit=limit)


@pytest.mark.parametrize("limit", [float("nan"), float("inf")])
def test_a_limit_that_is_no_number_is_read_as_none(limit: float) -> None:
    """Older versions kept it, and then no image was of a known class."""
    read = ModelCard.from_json(card(limit).to_json(), "model.safetensors")
    assert read.unknown_limit is None
    assert read.is_known(1.0) is None
    assert ModelCard.from_json(card(2.0).to_json(), "x").is_known(1.0) is True
    assert json.loads(read.to_json())["unknown_limit"] is None


@pytest.mark.parametrize(("scores", "is_kept"), [([1.0, 2.0], True), ([1.0, float("nan")], False)])
def test_an_int8_file_keeps_only_a_limit_that_is_a_number(
    scores: list[float], is_kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter(scores)
    monkeypatch.setattr(
        optimize, "compile_exactly", lambda *_, **__: lambda _: {"unknown_score": np.array([next(answers)])}
    )
    images = [(np.zeros((1, 3, 8, 8), np.float32), 0) for _ in scores]
    assert (optimize.with_own_limit(card(3.0), None, images).unknown_limit is not None) == is_kept
