"""The figures of a test agree with scikit-learn and torchmetrics."""

from __future__ import annotations

import numpy as np
import pytest

from otx.errors import DataError
from otx.evaluation.metrics import Answers, Figures
from otx.evaluation.metrics import measure as measure_answers
from otx.inference.classify import softmax


def measure(logits: np.ndarray, labels: np.ndarray, classes: tuple[str, ...]) -> Figures:
    return measure_answers(Answers.of(logits, labels), classes)


def random_case(num_classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, num_classes, 200)
    logits = rng.normal(0, 2, (200, num_classes)).astype(np.float32)
    logits[np.arange(200), labels] += 2
    return logits, labels, tuple(f"class {index}" for index in range(num_classes))


@pytest.mark.parametrize("num_classes", [2, 5, 6, 30])
def test_figures_agree_with_scikit_learn(num_classes: int) -> None:
    from sklearn import metrics

    logits, labels, classes = random_case(num_classes)
    figures = measure(logits, labels, classes)
    predicted = logits.argmax(axis=1)
    assert figures.top1 == pytest.approx(metrics.accuracy_score(labels, predicted))
    assert figures.macro_f1 == pytest.approx(metrics.f1_score(labels, predicted, average="macro"))
    assert figures.loss == pytest.approx(metrics.log_loss(labels, softmax(logits), labels=range(num_classes)), rel=1e-6)
    assert np.array_equal(figures.confusion, metrics.confusion_matrix(labels, predicted, labels=range(num_classes)))
    precision, recall, _, count = metrics.precision_recall_fscore_support(labels, predicted, zero_division=0)
    assert [item.precision for item in figures.classes] == pytest.approx(precision.tolist())
    assert [item.recall for item in figures.classes] == pytest.approx(recall.tolist())
    assert [item.count for item in figures.classes] == count.tolist()


def test_calibration_error_agrees_with_torchmetrics() -> None:
    import torch
    from torchmetrics.functional.classification import multiclass_calibration_error

    logits, labels, classes = random_case(4)
    expected = multiclass_calibration_error(
        torch.from_numpy(softmax(logits)), torch.from_numpy(labels), num_classes=4, n_bins=15, norm="l1"
    )
    assert measure(logits, labels, classes).calibration_error == pytest.approx(float(expected), abs=1e-6)


def test_top5_is_given_beyond_five_classes_only() -> None:
    from sklearn.metrics import top_k_accuracy_score

    logits, labels, classes = random_case(8)
    assert measure(logits, labels, classes).top5 == pytest.approx(top_k_accuracy_score(labels, logits, k=5))
    assert measure(*random_case(5)).top5 is None


def test_a_class_without_images_or_predictions_counts_as_zero_and_not_in_macro_f1() -> None:
    logits = np.array([[5, 0, 0], [0, 5, 0], [5, 0, 0]], np.float32)
    figures = measure(logits, np.array([0, 1, 1]), ("a", "b", "unseen"))
    assert (figures.classes[2].precision, figures.classes[2].recall, figures.classes[2].count) == (0.0, 0.0, 0)
    assert figures.macro_f1 == pytest.approx(2 / 3)


def test_sure_mistakes_have_a_finite_loss() -> None:
    assert np.isfinite(measure(np.array([[1e4, 0]], np.float32), np.array([1]), ("a", "b")).loss)


def test_no_image_is_an_error() -> None:
    with pytest.raises(DataError, match="there is no image to measure"):
        measure(np.zeros((0, 2), np.float32), np.zeros(0, np.int64), ("a", "b"))


def test_counts_of_classes_agree_with_torchmetrics_and_begin_anew_after_a_reset() -> None:
    import torch
    from torchmetrics.classification import MulticlassStatScores

    from otx.training.class_counts import ClassCounts

    own, theirs = ClassCounts(7), MulticlassStatScores(7, average="none")
    for seed in range(2):
        logits, labels = map(torch.from_numpy, random_case(7, seed)[:2])
        for counts in (own, theirs):
            counts.reset()
            counts.update(logits[:150], labels[:150])
            counts.update(logits[150:], labels[150:])
        hits, images = own.compute()
        assert torch.equal(hits, theirs.compute()[:, 0].float())
        assert torch.equal(images, theirs.compute()[:, 4].float())
