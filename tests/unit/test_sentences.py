"""The three sentences of a report are true and grammatical, whatever the figures."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binomtest

from otx.evaluation.evaluate import image_results
from otx.evaluation.intervals import images_needed, mcnemar, wilson
from otx.evaluation.metrics import Answers, measure
from otx.findings import CurvePoint, LearningCurve
from otx.report.compare import _difference, names_of
from otx.report.figures import confident_mistakes, hesitant_hits, reliability, threshold_table
from otx.report.record import Measurement, Record
from otx.report.sentences import accuracy_in_words, summarise
from otx.results import EpochResult, TestResult
from otx.workspace import RunFolder


def measured(
    matrix: list[list[int]], classes: tuple[str, ...], subset: str = "test split", sure: float = 3.0
) -> Measurement:
    """A measurement with a given confusion matrix."""
    pairs = [(row, column) for row, counts in enumerate(matrix) for column, n in enumerate(counts) for _ in range(n)]
    labels = np.asarray([row for row, _ in pairs])
    logits = np.zeros((len(pairs), len(classes)), np.float32)
    logits[np.arange(len(pairs)), [column for _, column in pairs]] = sure
    answers = Answers.of(logits, labels)
    figures = measure(answers, classes)
    result = TestResult(
        checkpoint=Path("model.safetensors"),
        data_root=Path("photos"),
        subset=subset,
        num_images=len(labels),
        images_per_second=1.0,
        bad_images=(),
        **vars(figures),
    )
    names = [f"{number}.png" for number in range(len(labels))]
    return Measurement(Path("run/test/1"), result, image_results(answers, names, classes))


def record(
    measurement: Measurement | None,
    sizes: dict[str, int] | None = None,
    epochs: tuple[EpochResult, ...] = (),
    stop: str = "",
) -> Record:
    counts = Counter({(name, "train"): count for name, count in (sizes or {}).items()})
    counts += Counter({(name, "test"): 1 for name in sizes or {}})
    summary = {"stop": stop} if stop else None
    return Record(RunFolder(Path("run")), None, summary, epochs, counts, (), measurement, None)


def epochs(*accuracies: float) -> tuple[EpochResult, ...]:
    best = [value > max(accuracies[:place], default=-1) for place, value in enumerate(accuracies)]
    return tuple(EpochResult(n, 1.0, 1.0, value, 0.1, 10.0, 1.0, best[n]) for n, value in enumerate(accuracies))


@pytest.mark.parametrize(
    ("right", "total", "sentence"),
    [
        (941, 1000, "It is right on 94 of 100 new photos."),
        (999, 1000, "It is right on 999 of 1,000 new photos."),
        (1, 1000, "It is right on 1 of 1,000 new photos."),
        (1000, 1000, "It is right on all 1,000 new photos."),
        (17, 18, "It is right on 17 of 18 new photos."),
        (2, 2, "It is right on both new photos."),
        (0, 18, "It is wrong on all 18 new photos."),
        (0, 2, "It is wrong on both new photos."),
        (1, 1, "It is right on the only new photo there is."),
        (0, 1, "It is wrong on the only new photo there is."),
    ],
)
def test_accuracy_in_words(right: int, total: int, sentence: str) -> None:
    assert accuracy_in_words(right, total, "new photo") == sentence


@pytest.mark.parametrize(
    ("matrix", "sentence"),
    [
        ([[5, 0], [0, 5]], "It takes no class for another."),
        ([[5, 1], [0, 5]], "Its only mistake: it takes a photo of “a” for “b”."),
        ([[5, 1], [1, 5]], "Its 2 mistakes are of 2 kinds: no two of them confuse the same classes."),
        ([[5, 3], [1, 5]], "It most often takes “a” for “b”: 3 of 8 photos."),
        ([[5, 3], [3, 5]], "It most often takes “a” for “b” and “b” for “a”: 3 photos each."),
        ([[5, 2, 2], [0, 5, 2], [0, 0, 5]], "It most often takes “b” for “c”: 2 photos, and 2 other pairs as often."),
    ],
)
def test_the_most_frequent_confusion(matrix: list[list[int]], sentence: str) -> None:
    classes = ("a", "b", "c")[: len(matrix)]
    assert summarise(record(measured(matrix, classes))).sentences[1] == sentence


def test_a_class_with_few_photos_that_is_recognised_less_would_gain_most() -> None:
    run = record(
        measured([[50, 0, 0], [0, 50, 0], [5, 5, 40]], ("rose", "tulip", "daisy")),
        {"rose": 90, "tulip": 101, "daisy": 58},
    )
    said = summarise(run)
    assert said.sentences[2] == "The photos of “daisy” are few: 37 more would help most."
    assert "“daisy” has 58 training photos, the middle one of the other classes 95;" in said.grounds
    assert "recognised on 40 of 50, all classes together on 93 of 100" in said.grounds


@pytest.mark.parametrize(("class_", "says"), [("daisy", "more would help most"), ("rose", "it has photos enough")])
def test_no_class_is_said_to_gain_most_where_the_learning_curve_names_another(class_: str, says: str) -> None:
    points = (CurvePoint(100, 0.8), CurvePoint(200, 0.9))
    curve = LearningCurve(249, points, points, 0.01, 0.0, 0.02, (), class_, "Twice as many would bring 1 point.")
    figures = measured([[50, 0, 0], [0, 50, 0], [5, 5, 40]], ("rose", "tulip", "daisy"))
    run = replace(record(figures, {"rose": 90, "tulip": 101, "daisy": 58}), learning_curve=curve)
    assert says in summarise(run).sentences[2]


def test_a_weak_class_that_is_not_small_is_to_be_looked_at() -> None:
    run = record(measured([[50, 0], [20, 30]], ("a", "b")), {"a": 80, "b": 90})
    assert summarise(run).sentences[2] == (
        "“b” costs most, with 30 of 50 photos recognised; it has photos enough, so look at its mistakes first."
    )


def test_a_training_that_was_still_rising_says_so() -> None:
    run = record(measured([[9, 1], [0, 10]], ("a", "b")), {"a": 9, "b": 9}, epochs(0.5, 0.7), "all_epochs")
    said = summarise(run)
    assert said.sentences[2] == "It was still getting better when the training ended: more epochs would help most."
    assert "--max_epochs 4" in said.grounds


def test_a_test_without_mistakes_says_how_little_that_may_mean() -> None:
    said = summarise(record(measured([[9, 0], [0, 9]], ("a", "b"))))
    assert said.sentences[0].endswith("all 18 new photos; on very many it would be right on 82 to 100 of 100.")
    assert said.sentences[2] == "This was seen on 18 photos: four times as many would make the range half as wide."
    said = summarise(record(measured([[1, 0], [0, 0]], ("a", "b"))))
    assert said.sentences[0].endswith("there is; on very many it would be right on 20 to 100 of 100.")


def test_a_run_without_a_test_is_told_from_its_epochs() -> None:
    said = summarise(record(None, {"a": 7, "b": 1}, epochs(0.5, 0.75, 0.7), "stopped by Ctrl-C"))
    assert said.sentences == (
        "In the training it was right on 75 of 100 held-back photos.",
        "Which classes it confuses is measured by `otx test`.",
        "It learns from 8 photos; the fewest, 1, are of “b”.",
    )
    assert "no epoch of the training is over" in summarise(record(None)).sentences[0]


def test_validation_images_are_not_called_new() -> None:
    said = summarise(record(measured([[9, 1], [0, 9]], ("a", "b"), "validation split"), {"a": 9, "b": 9}))
    assert said.sentences[0].startswith("It is right on 18 of 19 held-back photos;")


def test_a_threshold_counts_the_images_with_at_least_that_confidence() -> None:
    images = measured([[3, 1], [0, 4]], ("a", "b"), sure=float(np.log(3))).images  # every confidence is 0.75
    table = threshold_table(images)
    assert [(row.covered, row.right) for row in (table[0], table[75], table[76], table[100])] == [
        (8, 7),
        (8, 7),
        (0, 0),
        (0, 0),
    ]
    assert len(table) == 101


def test_the_gallery_holds_the_surest_mistakes_and_the_least_sure_hits() -> None:
    images = (
        *measured([[1, 1], [0, 0]], ("a", "b"), sure=1).images,
        *measured([[1, 1], [0, 0]], ("a", "b"), sure=2).images,
    )
    assert [image.probability for image in confident_mistakes(images, 9)] == sorted(
        (i.probability for i in images if not i.is_right), reverse=True
    )
    assert hesitant_hits(images, 1)[0].probability == min(i.probability for i in images if i.is_right)


def test_reliability_bins_hold_every_image_once() -> None:
    images = (
        *measured([[3, 1], [0, 4]], ("a", "b"), sure=1).images,
        *measured([[3, 1], [0, 4]], ("a", "b"), sure=9).images,
    )
    bins = reliability(images)
    assert [item.count for item in bins] == [8, 8]
    assert all(item.low <= item.confidence <= item.high and item.accuracy == 7 / 8 for item in bins)


def test_intervals_and_the_sign_test_agree_with_scipy() -> None:
    for right, total in ((0, 5), (3, 7), (94, 100), (18, 18)):
        interval = binomtest(right, total).proportion_ci(0.95, method="wilson")
        assert wilson(right, total) == pytest.approx((interval.low, interval.high))
        assert mcnemar(right, total - right) == pytest.approx(binomtest(right, total).pvalue)


def test_a_difference_that_may_be_chance_is_said_to_be() -> None:
    first = measured([[9, 1], [0, 10]], ("a", "b"))
    second = replace(first, images=tuple(replace(image, predicted="a") for image in first.images))
    third = replace(
        first, images=tuple(replace(i, predicted="b" if i.path == "0.png" else i.predicted) for i in first.images)
    )
    assert _difference("x", first, "y", second) == (
        "“x” is right on 10 photos where “y” is wrong, and wrong on 1 where that is right: "
        f"chance alone would rarely do that (p = {binomtest(1, 11).pvalue:.2g})."
    )
    assert _difference("x", first, "z", third).endswith(
        "wrong on 0 where that is right: the difference may be chance (p = 1)."
    )


def test_wilsons_interval_of_a_worked_example() -> None:
    # 81 of 263: Newcombe 1998, "Two-sided confidence intervals for the single proportion", table I, method 3
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    # and 0 of 20
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)


@pytest.mark.parametrize("target", [0.0, 0.5, 0.8, 0.9, 0.95, 0.99])
def test_the_images_needed_are_the_fewest_that_show_a_target(target: float) -> None:
    needed = images_needed(target)
    assert needed is not None
    assert wilson(needed, needed)[0] >= target
    assert needed == 1 or wilson(needed - 1, needed - 1)[0] < target


def test_a_class_has_the_interval_of_its_recall() -> None:
    result = measured([[9, 1], [0, 0]], ("a", "b")).result
    assert (result.top1_low, result.top1_high) == wilson(9, 10)
    assert (result.classes[0].recall_low, result.classes[0].recall_high) == wilson(9, 10)
    assert result.classes[1].recall_low is None


def test_a_run_beside_itself_is_named_by_its_folder() -> None:
    assert names_of([record(None)] * 2) == [f"{number}. {Path('run').resolve()}" for number in (1, 2)]
