"""Whether photos look like those of a model: on pixels of handwritten digits in place of a network's features."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_digits

from otx.evaluation.shift import Photos, Reference, compare
from otx.findings import ShiftResult
from otx.model.unknown import draw_sample, summarise
from otx.plain import structured

DIGITS = tuple("0123456789")


def digits() -> tuple[np.ndarray, np.ndarray]:
    """Pixels (N, 64) and labels (N,) in a random order."""
    features, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    return features[order].astype(np.float32), labels[order]


@pytest.fixture(scope="module")
def reference() -> Reference:
    """Of a model made with the first thousand digits."""
    features, labels = digits()
    known = summarise(features[:800], labels[:800], 10)
    return Reference(known, draw_sample(known.whitened(features[800:1000]), 0).astype(np.float32), 2.0, DIGITS)


def new(features: np.ndarray) -> Photos:
    scores = np.linspace(0, 3, len(features), dtype=np.float32)
    return Photos([f"{number}.png" for number in range(len(features))], features, scores)


def test_digits_that_were_held_back_look_alike(reference: Reference) -> None:
    found = compare(reference, new(digits()[0][1000:1200]))
    assert (found.looks_alike, found.is_mixed_alike) == (True, True)
    assert (found.num_compared, found.num_reference) == (200, 200)


@pytest.mark.parametrize("count", [20, 100])
def test_digits_with_thicker_strokes_look_different(reference: Reference, count: int) -> None:
    pictures = digits()[0][1000 : 1000 + count].reshape(-1, 8, 8)
    thick = np.maximum(pictures, np.roll(pictures, 1, axis=2)).reshape(-1, 64)
    assert compare(reference, new(thick)).looks_alike is False


def test_another_mix_of_classes_is_not_another_look(reference: Reference) -> None:
    features, labels = (part[1000:] for part in digits())
    found = compare(reference, new(features[labels < 4][:150]))
    assert (found.looks_alike, found.is_mixed_alike) == (True, False)
    assert found.classes[0].share > found.classes[0].usual or found.classes[0].share == 0
    assert "Their classes are mixed differently" in " ".join(found.sentences)


def test_the_strangest_come_first(reference: Reference) -> None:
    found = compare(reference, new(digits()[0][1000:1100]))
    scores = [item.score for item in found.strangest]
    assert scores == sorted(scores, reverse=True) and len(scores) == 10
    assert (found.strangest[0].path, found.strangest[0].known) == ("99.png", False)
    assert found.num_unknown == 33


def test_of_a_few_photos_nothing_is_said(reference: Reference) -> None:
    found = compare(reference, new(digits()[0][1000:1009]))
    assert (found.p_value, found.looks_alike, found.is_mixed_alike) == (None, None, None)
    assert "too few photos to tell" in found.sentences[0]


def test_of_many_photos_some_are_compared_and_all_are_ranked(reference: Reference) -> None:
    found = compare(reference, new(digits()[0][1000:1700]))
    assert (found.num_images, found.num_compared) == (700, 500)
    assert found.strangest[0].path == "699.png"


def test_the_result_is_read_as_it_was_written(reference: Reference) -> None:
    found = compare(reference, new(digits()[0][1000:1100]))
    assert structured(ShiftResult, found.to_dict()) == found
