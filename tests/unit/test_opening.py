"""What stands at the top of a report follows from the figures, and no two sentences contradict each other."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from test_sentences import epochs, measured, record

from otx.confusion import ConfusionMatrix
from otx.errors import DataError
from otx.report import plots
from otx.report.exported import exported_of
from otx.report.figures import halving_row, percent, threshold_table
from otx.report.opening import choices, leaks_of, worst_class
from otx.report.page import render_report
from otx.report.record import read_record
from otx.report.sentences import kept_in_words, summarise
from otx.results import ImageResult
from otx.workspace import RunFolder

CLASSES = ("a", "b")


@pytest.mark.parametrize(
    ("part", "total", "text"),
    [(0, 9, "0 %"), (9, 9, "100 %"), (1, 1000, "<1 %"), (999, 1000, ">99 %"), (1, 8, "13 %"), (0.5, 1, "50 %")],
)
def test_a_share_is_a_whole_percent_and_never_none_or_all_by_rounding(part: float, total: float, text: str) -> None:
    assert percent(part, total) == text


def answered(*pairs: tuple[float, bool]) -> list[ImageResult]:
    """Answers for images of class a, by confidence and whether they are right."""
    return [ImageResult(f"{n}.png", "a", "a" if right else "b", sure, 0.1, 1) for n, (sure, right) in enumerate(pairs)]


def test_the_table_of_choices_counts_answers_and_mistakes() -> None:
    table = threshold_table(answered((0.4, False), (0.65, True), (0.75, False), (0.97, True)))
    rows = [(row.threshold, row.answered, row.right, row.mistakes) for row in choices(table)]
    assert rows == [(0, "100 %", "50 %", 2), (50, "75 %", "67 %", 1), (70, "50 %", "50 %", 1), (80, "25 %", "100 %", 0)]


def test_the_row_that_halves_the_mistakes_is_the_one_that_the_sentence_names() -> None:
    images = answered(*[(0.55, False)] * 3, *[(0.62, True)] * 3, *[(0.9, True)] * 5)
    found = measured([[8, 3], [0, 0]], CLASSES)
    run = record(replace(found, images=tuple(images)))
    half = halving_row(threshold_table(images))
    (marked,) = (row for row in choices(threshold_table(images)) if row.halves)
    assert half is not None
    assert (marked.threshold, half.covered, half.right) == (56, 8, 8)
    assert "only from a confidence of 56% on; see the table below" in summarise(run).grounds


def test_the_worst_class_is_the_one_recognised_least() -> None:
    found = worst_class(measured([[9, 1, 0], [4, 6, 0], [0, 4, 6]], ("a", "b", "c")))
    assert found is not None
    assert (found.name, found.recall) == ("b", 0.6)
    assert worst_class(measured([[9, 1], [0, 0]], CLASSES)) is None


def leak(first: tuple[str, str], second: tuple[str, str]) -> dict[str, object]:
    places = [{"path": path, "label": "a", "subset": subset} for path, subset in (first, second)]
    return {"first": places[0], "second": places[1], "exact": True, "likeness": 1.0}


def test_leaks_are_measured_images_that_were_trained_on() -> None:
    leaks = [leak(("t.png", "train"), ("0.png", "test")), leak(("v.png", "val"), ("1.png", "test"))]
    run = replace(record(measured([[3, 1], [0, 4]], CLASSES)), suspicions={"leaks": leaks})
    found = leaks_of(run)
    assert found is not None
    assert (found.count, found.right, found.total, found.without) == (1, 6, 7, "86 % (6 of 7)")
    assert leaks_of(replace(run, suspicions={"leaks": leaks[1:]})) is None
    assert leaks_of(replace(run, suspicions=None)) is None


def test_a_copy_of_a_training_image_in_another_folder_is_no_leak() -> None:
    leaks = [leak(("t.png", "train"), ("0.png", "test"))]
    run = record(measured([[3, 1], [0, 4]], CLASSES, subset="images"))
    assert leaks_of(replace(run, suspicions={"leaks": leaks})) is None


@pytest.mark.parametrize(
    ("accuracies", "sentence"),
    [
        (
            (0.5, 0.75, 0.7),
            "The model is that of epoch 2 of 3, which has the highest accuracy on the validation images.",
        ),
        ((), ""),
    ],
)
def test_the_kept_epoch_is_named_without_its_accuracy(accuracies: tuple[float, ...], sentence: str) -> None:
    assert kept_in_words(record(None, epochs=epochs(*accuracies))) == sentence


def test_of_two_epochs_with_the_same_accuracy_one_is_named() -> None:
    first, second = epochs(0.75, 0.75)
    tied = (first, replace(second, val_loss=0.5, is_best=True))
    assert kept_in_words(record(None, epochs=tied)) == (
        "The model is that of epoch 2 of 2, which has the lowest loss of the 2 with the highest accuracy on the "
        "validation images."
    )
    by_loss = (replace(first, val_accuracy=0.8), replace(second, val_loss=0.5, is_best=True))
    assert "epoch 2 of 2, which has the lowest loss on" in kept_in_words(record(None, epochs=by_loss))
    by_probability = (replace(by_loss[0], val_loss=0.1), replace(second, val_probability=0.9, is_best=True))
    assert "has the highest mean probability of the true class on" in kept_in_words(record(None, epochs=by_probability))


def test_an_accuracy_reached_before_is_not_still_getting_better() -> None:
    first, second = epochs(0.5, 0.75)
    figures = measured([[9, 1], [0, 10]], CLASSES)
    rising = record(figures, {"a": 9, "b": 9}, (first, second), "all_epochs")
    tied = replace(rising, epochs=(replace(first, val_accuracy=0.75), second))
    assert "still getting better" in summarise(rising).sentences[2]
    assert "still getting better" not in summarise(tied).sentences[2]


def test_a_fitted_classifier_is_no_epoch() -> None:
    fitted = replace(epochs(0.9)[0], epoch=-1)
    assert "no epoch was trained" in kept_in_words(record(None, epochs=(fitted,)))
    worse = replace(epochs(0.5)[0], is_best=False)
    assert kept_in_words(record(None, epochs=(fitted, worse))) == (
        "The model is the classifier fitted before the first epoch: no epoch after it was better."
    )


def test_exports_have_their_size_and_the_speed_that_was_measured(tmp_path: Path) -> None:
    (tmp_path / "exported_model.xml").write_bytes(bytes(100))
    (tmp_path / "exported_model.bin").write_bytes(bytes(900))
    (tmp_path / "exported_model.xml.json").write_text(json.dumps({"latency_ms": 7.5}))
    (tmp_path / "optimized_model.xml").write_bytes(bytes(300))
    found = exported_of(RunFolder(tmp_path))
    assert [(each.name, each.precision, each.size_bytes, each.latency_ms) for each in found] == [
        ("optimized_model.xml", "INT8", 300, None),
        ("exported_model.xml", "FP32", 1000, 7.5),
    ]
    variants = [{"precision": name, "latency_ms": ms, "top1": 0.9} for name, ms in (("FP32", 8.0), ("INT8", 3.0))]
    (tmp_path / "optimized_model.json").write_text(json.dumps({"variants": variants}))
    assert [(each.latency_ms, each.top1) for each in exported_of(RunFolder(tmp_path))] == [(3.0, 0.9), (8.0, 0.9)]
    (tmp_path / "optimized_model.json").write_text("{")
    assert exported_of(RunFolder(tmp_path)) == found


def test_a_plot_has_no_character_that_ends_the_process_which_draws_it() -> None:
    drawn = plots.matrix(("a\x01", "\udcff"), ConfusionMatrix.from_rows([[3, 1], [1, 3]]), [0, 1])
    assert "a\ufffd taken for \ufffd: 1 of 4" in drawn


OLD = Path(__file__).parents[1] / "old" / "run"


def test_a_run_whose_photos_have_names_that_are_no_utf_8_is_read(tmp_path: Path) -> None:
    run = Path(shutil.copytree(OLD, tmp_path / "run"))
    (run / "split.csv").write_bytes(b"path,class,subset\ncaf\xe9/\xff.png,caf\xe9,train\n")
    (run / "bad_images.csv").write_bytes(b"path,reason\n\xff.png,broken\n")
    found = read_record(run)
    assert (dict(found.sizes), found.bad_images[0].path) == ({("caf\udce9", "train"): 1}, "\udcff.png")
    (run / "split.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match=r"split.csv is damaged: it has no columns class, subset"):
        read_record(run)


def test_a_run_from_another_system_has_a_page() -> None:
    found = read_record(OLD)
    assert found.measurement is not None
    elsewhere = replace(found.measurement.result, data_root=Path("C:\\photos"))
    record_ = replace(found, measurement=replace(found.measurement, result=elsewhere))
    assert '"root":"file:///' in render_report(record_, quick=True)


def test_a_run_without_exports_has_none(tmp_path: Path) -> None:
    assert exported_of(RunFolder(tmp_path)) == ()
