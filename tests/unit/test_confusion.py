"""A confusion matrix stores counts above zero only, and gives the same figures for few and for very many classes."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from otx.confusion import MANY_CLASSES, ConfusionMatrix
from otx.errors import DataError
from otx.evaluation.evaluate import image_results, read_test, write_test
from otx.evaluation.metrics import Answers, measure
from otx.report.classes import CLASSES_LISTED, listed, matrix_classes
from otx.report.figures import confusions, num_right
from otx.results import BadImage, ImageResult, TestResult

ROWS = st.integers(1, 6).flatmap(
    lambda size: st.lists(st.lists(st.integers(0, 3), min_size=size, max_size=size), min_size=size, max_size=size)
)


def measured(num_classes: int, padding: int = 0) -> tuple[TestResult, tuple[ImageResult, ...]]:
    """A test of 400 images of `num_classes` classes, with `padding` classes more that no image and no answer has."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, num_classes, 400)
    logits = np.full((400, num_classes + padding), -100, np.float32)
    logits[:, :num_classes] = rng.normal(0, 1, (400, num_classes))
    logits[np.arange(400), labels] += 1
    answers = Answers.of(logits, labels)
    classes = tuple(map(str, range(num_classes + padding)))
    figures = vars(measure(answers, classes))
    result = TestResult(
        Path("model"), Path("photos"), "test split", 400, images_per_second=1.0, bad_images=(), **figures
    )
    return result, image_results(answers, [f"{place}.png" for place in range(400)], classes)


@given(ROWS)
def test_rows_and_sums_are_those_of_the_dense_matrix(rows: list[list[int]]) -> None:
    matrix, dense = ConfusionMatrix.from_rows(rows), np.asarray(rows)
    assert np.array_equal(np.asarray(matrix), dense)
    assert matrix.hits == tuple(dense.diagonal().tolist())
    assert (matrix.totals, matrix.taken) == (tuple(dense.sum(1).tolist()), tuple(dense.sum(0).tolist()))
    assert ConfusionMatrix.from_plain(json.loads(json.dumps(matrix.to_plain()))) == matrix


def test_rows_can_be_counted_from_the_end_and_sliced() -> None:
    matrix = ConfusionMatrix.from_rows([[1, 0], [2, 3]])
    assert (matrix[-1], matrix[:1], matrix[1][0]) == ((2, 3), ((1, 0),), 2)
    with pytest.raises(IndexError):
        matrix[2]


@pytest.mark.parametrize("num_classes", [6, MANY_CLASSES, MANY_CLASSES + 1])
def test_what_is_written_is_read_back(num_classes: int, tmp_path: Path) -> None:
    result, images = measured(num_classes)
    write_test(result, images, tmp_path)
    assert read_test(tmp_path) == (result, images)


def test_names_of_images_that_are_no_utf_8_are_read_back(tmp_path: Path) -> None:
    result, images = measured(6)
    result = dataclasses.replace(result, bad_images=(BadImage("ant/\udcff.png", "cut off"),))
    images = (dataclasses.replace(images[0], path="ant/\udcfe.png"), *images[1:])
    write_test(result, images, tmp_path)
    assert read_test(tmp_path) == (result, images)


def test_a_table_with_an_open_quotation_mark_is_said(tmp_path: Path) -> None:
    write_test(*measured(6), tmp_path)
    with (tmp_path / "predictions.csv").open("a") as file:
        file.write('"' + 200_000 * "x")
    with pytest.raises(DataError, match="is no whole test"):
        read_test(tmp_path)


def test_up_to_a_thousand_classes_the_json_has_all_rows_and_beyond_only_counts() -> None:
    few = measured(MANY_CLASSES)[0].to_dict()["confusion"]
    assert (len(few), len(few[0])) == (MANY_CLASSES, MANY_CLASSES)
    many = measured(MANY_CLASSES + 1)[0].to_dict()["confusion"]
    assert many["num_classes"] == MANY_CLASSES + 1
    assert sum(count for _, _, count in many["entries"]) == 400


def test_beyond_a_thousand_classes_the_csv_has_a_row_for_each_pair(tmp_path: Path) -> None:
    result, images = measured(MANY_CLASSES + 1)
    write_test(result, images, tmp_path)
    header, *rows = (tmp_path / "confusion_matrix.csv").read_text().splitlines()
    assert header == "true,predicted,count"
    assert len(rows) == len(result.confusion.entries)
    assert len((tmp_path / "classes.csv").read_text().splitlines()) == MANY_CLASSES + 2


def test_classes_without_images_change_no_figure() -> None:
    dense, images = measured(8)
    sparse, same_images = measured(8, padding=2 * MANY_CLASSES)
    assert [image.predicted for image in images] == [image.predicted for image in same_images]
    assert dense.confusion.entries == sparse.confusion.entries
    assert (dense.top1, dense.macro_f1, dense.top5) == (sparse.top1, sparse.macro_f1, sparse.top5)
    assert dense.classes == sparse.classes[:8]
    assert confusions(dense) == confusions(sparse)
    assert num_right(dense) == num_right(sparse)


def test_answers_are_the_same_in_one_part_and_in_several() -> None:
    rng = np.random.default_rng(1)
    logits, labels = rng.normal(0, 2, (100, 9)).astype(np.float32), rng.integers(0, 9, 100)
    parts = [Answers.of(logits[at : at + 30], labels[at : at + 30]) for at in range(0, 100, 30)]
    whole, joined = Answers.of(logits, labels), Answers.join(parts)
    for field in dataclasses.fields(Answers):
        assert np.array_equal(getattr(whole, field.name), getattr(joined, field.name))


def test_of_very_many_classes_a_page_lists_the_worst_and_draws_those_with_most_mistakes() -> None:
    result, _ = measured(8, padding=2 * MANY_CLASSES)
    assert {item.name for item in listed(result.classes)} == set(map(str, range(8)))
    assert set(range(8)) <= set(matrix_classes(result.confusion))
    many = listed(measured(MANY_CLASSES + 1)[0].classes)
    assert len(many) == CLASSES_LISTED
    assert [item.f1 for item in many] == sorted(item.f1 for item in many)
