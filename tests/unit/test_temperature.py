"""The temperature is the one that calibrates, and is left at 1 where that cannot be shown."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from otx.inference.classify import softmax
from otx.model.calibration import MIN_IMAGES, PRIOR, calibrate, calibration_error, fit_temperature
from otx.networks.build import build_network
from otx.networks.head import scale_logits


def drawn(count: int, factor: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits of four classes that are `factor` times what the labels, drawn from the probabilities, deserve."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (count, 4)).astype(np.float32)
    labels = np.asarray([rng.choice(4, p=row) for row in softmax(logits)])
    return np.float32(factor) * logits, labels


@pytest.mark.parametrize("factor", [0.3, 1.0, 4.0])
def test_the_temperature_is_found_again(factor: float) -> None:
    assert fit_temperature(*drawn(4000, factor)) == pytest.approx(factor, rel=0.08)


def test_the_temperature_has_the_lowest_loss() -> None:
    logits, labels = drawn(60, 3.0)

    def loss(temperature: float) -> float:
        scaled, prior = torch.from_numpy(logits.astype(np.float64) / temperature), 1 / temperature - 1
        loss = torch.nn.functional.cross_entropy(scaled, torch.from_numpy(labels), reduction="sum")
        return float(loss) + PRIOR * (prior + np.log(temperature))

    best = fit_temperature(logits, labels)
    grid = np.geomspace(0.05, 20, 4000)
    assert best == pytest.approx(grid[np.argmin([loss(value) for value in grid])], rel=2e-3)


def test_a_network_without_mistakes_is_not_made_infinitely_sure() -> None:
    labels = np.arange(40) % 4
    logits = np.eye(4, dtype=np.float32)[labels]
    confidence = softmax(logits / np.float32(fit_temperature(logits, labels))).max(axis=1)
    assert 0.9 < confidence.mean() < 0.95


def test_the_error_before_and_after_is_that_of_images_left_out() -> None:
    logits, labels = drawn(500, 4.0)
    found = calibrate(logits, labels)
    own, right = softmax(logits).max(axis=1), logits.argmax(axis=1) == labels
    assert found.error_before == pytest.approx(calibration_error(own, right), abs=2e-3)
    fitted = calibration_error(softmax(logits / np.float32(found.temperature)).max(axis=1), right)
    assert found.error_after == pytest.approx(fitted, abs=0.02)
    assert found.error_after < found.error_before / 2
    assert found.why_not == ""


def test_with_few_images_the_temperature_stays_1() -> None:
    logits, labels = drawn(MIN_IMAGES - 1, 4.0)
    found = calibrate(logits, labels)
    assert (found.temperature, found.error_after) == (1.0, found.error_before)
    assert found.why_not == "99 validation images are too few, it takes 100"


def test_a_temperature_that_does_not_help_on_images_left_out_is_not_kept() -> None:
    kept = [calibrate(*drawn(MIN_IMAGES, 1.0, seed)).temperature for seed in range(20)]
    assert kept.count(1.0) >= 15


@pytest.mark.parametrize("network", ["resnet10t", "deit_tiny_distilled_patch16_224", "convnext_atto"])
def test_logits_are_scaled_in_the_weights_of_the_classifier(network: str) -> None:
    made = build_network(network, 3, 224, 224).eval()
    images = torch.randn(2, 3, 224, 224)
    with torch.inference_mode():
        before = made(images)
        assert scale_logits(made, 0.25)
        torch.testing.assert_close(made(images), before / 4)


def test_a_classifier_that_is_not_one_linear_layer_is_left_alone() -> None:
    made = build_network("levit_128s", 3, 224, 224).eval()
    before = {name: value.clone() for name, value in made.state_dict().items()}
    assert not scale_logits(made, 0.25)
    assert all(torch.equal(value, before[name]) for name, value in made.state_dict().items())
