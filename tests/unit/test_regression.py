"""Of very many classes, the fitted classifier is a discriminant, which needs neither the memory nor the time."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from otx.confusion import MANY_CLASSES
from otx.model.regression import MAX_LOGITS, Regression, fit_regression

CLASSES, WIDTH = MANY_CLASSES + 200, 64


def gaussians(images: int, seed: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Features of so many images a class; the means of the classes lie 1 from the middle, the images 0.6 from those."""
    means = np.random.default_rng(0).normal(0, 1, (CLASSES, WIDTH))
    labels = np.repeat(np.arange(CLASSES), images)
    noise = np.random.default_rng(seed).normal(0, 0.6, (len(labels), WIDTH))
    return (means[labels] + noise).astype(np.float32), labels


def test_a_discriminant_of_few_images_is_as_good_as_the_nearest_mean() -> None:
    from sklearn.neighbors import NearestCentroid

    train, val = gaussians(2, 1), gaussians(1, 2)
    loss, accuracy = fit_regression(*train, CLASSES, penalty=1 / WIDTH, balanced=True).measure(*val)
    assert accuracy >= NearestCentroid().fit(*train).score(*val) - 0.01
    assert loss < 0.5 * np.log(CLASSES)


def test_an_ellipse_of_noise_is_taken_into_account() -> None:
    from sklearn.neighbors import NearestCentroid

    stretch = np.ones(WIDTH, np.float32)
    stretch[:4] = 20
    (train, labels), (val, val_labels) = gaussians(4, 1), gaussians(1, 2)
    noise = np.random.default_rng(3).normal(0, 1, (len(labels) + len(val_labels), WIDTH)) * (stretch - 1)
    train, val = (train + noise[: len(labels)]).astype(np.float32), (val + noise[len(labels) :]).astype(np.float32)
    fitted = fit_regression(train, labels, CLASSES, penalty=0.1 / WIDTH)
    assert fitted.measure(val, val_labels)[1] > NearestCentroid().fit(train, labels).score(val, val_labels) + 0.1


def test_a_class_without_images_is_never_the_answer() -> None:
    features, labels = gaussians(2, 1)
    there = labels >= 10
    fitted = fit_regression(features[there], labels[there], CLASSES, penalty=10 / WIDTH)
    assert fitted.logits(features).argmax(axis=1).min() >= 10


def test_a_classifier_is_measured_in_parts_as_in_one() -> None:
    rng = np.random.default_rng(0)
    fitted = Regression(rng.normal(0, 1, (4000, 4)).astype(np.float32), np.zeros(4000, np.float32))
    features = rng.normal(0, 1, (MAX_LOGITS // 4000 + 1000, 4)).astype(np.float32)
    labels = rng.integers(0, 4000, len(features))
    logits = torch.from_numpy(fitted.logits(features))
    loss, accuracy = fitted.measure(features, labels)
    assert abs(loss - float(torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels)))) < 1e-4
    assert abs(accuracy - float((logits.argmax(1) == torch.from_numpy(labels)).double().mean())) < 1e-6
