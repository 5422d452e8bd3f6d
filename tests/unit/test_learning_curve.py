"""What twice as many training images would add: the curve, the power law, and where there is none."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_digits

from otx.findings import LearningCurve
from otx.plain import structured
from otx.training.learning_curve import in_words, learning_curve
from otx.training.power_law import forecast

DIGITS = tuple("0123456789")


def digits(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (N, 64) and labels (N,) of some digits; with more, these are among them."""
    features, labels = load_digits(return_X_y=True)
    drawn = np.random.default_rng(0).permutation(len(labels))[:count]
    return features[drawn].astype(np.float32), labels[drawn]


@pytest.fixture(scope="module")
def half() -> LearningCurve:
    return learning_curve(*digits(600), DIGITS, 600, seed=0)


def test_a_power_law_is_continued_as_it_began() -> None:
    sizes = np.array([100.0, 200.0, 400.0, 800.0])
    (found,) = forecast(sizes, (0.05 + 2 * sizes**-0.5)[None], np.array([1600.0, 6400.0]))
    assert found == pytest.approx([0.1, 0.075], abs=1e-6)


def test_what_twice_as_many_digits_add_lies_in_the_interval(half: LearningCurve) -> None:
    twice = learning_curve(*digits(1200), DIGITS, 1200, seed=0)
    gain = twice.points[-1].accuracy - half.points[-1].accuracy
    assert half.gain_low is not None and half.gain_high is not None
    assert half.gain_low <= gain <= half.gain_high


def test_more_digits_are_read_better(half: LearningCurve) -> None:
    accuracies = [point.accuracy for point in half.points]
    assert accuracies == sorted(accuracies)
    assert [point.num_images for point in half.line][-1] == 1200


def test_the_gains_of_the_classes_are_sorted(half: LearningCurve) -> None:
    gains = [row.gain for row in half.classes]
    assert gains == sorted(gains, reverse=True)
    assert sum(row.num_images for row in half.classes) == 600


def test_the_same_seed_draws_the_same_curve(half: LearningCurve) -> None:
    assert learning_curve(*digits(600), DIGITS, 600, seed=0) == half


def test_a_curve_is_read_as_it_was_written(half: LearningCurve) -> None:
    assert structured(LearningCurve, half.to_dict()) == half


def test_classes_that_are_told_apart_already_gain_nothing() -> None:
    labels = np.arange(100) % 2
    features = np.eye(2, 8, dtype=np.float32)[labels] + np.random.default_rng(0).normal(0, 0.01, (100, 8))
    found = learning_curve(features.astype(np.float32), labels, ("a", "b"), 100, seed=0)
    assert found.gain == found.gain_high == 0
    assert "next to nothing" in found.sentence


@pytest.mark.parametrize(
    ("count", "classes", "num_images", "reason"),
    [
        (30, DIGITS, 30, "30 training images are too few to tell; it takes 40"),
        (45, DIGITS, 45, "it takes 5 of each class"),
        (600, DIGITS, 700, "features were computed of 600 of the 700 training images alone"),
        (600, tuple(map(str, range(300))), 600, "300 classes; it is done for up to 200"),
    ],
)
def test_without_a_curve_it_says_why(count: int, classes: tuple[str, ...], num_images: int, reason: str) -> None:
    found = learning_curve(*digits(count), classes, num_images, seed=0)
    assert (found.gain, found.points) == (None, ())
    assert reason in found.sentence


def test_an_interval_that_says_nothing_is_called_that() -> None:
    assert in_words(50, 0.04, 0.0, 0.12, None).startswith("There are too few photos to tell")
    assert "or none (0.0 to 3.0)" in in_words(50, 0.01, 0.0, 0.03, None)
    assert in_words(50, 0.02, 0.01, 0.03, "tulips").endswith("2.0 points of accuracy (1.0 to 3.0), most for “tulips”.")
