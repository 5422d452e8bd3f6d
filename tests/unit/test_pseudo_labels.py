"""Pseudo-labels: how sure a classifier must be, and which photos have no label."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from images import write_folders
from otx.data.journal import JOURNAL, Row, write_journal
from otx.data.load import load_dataset
from otx.training.pseudo_labels import choose_limit, limit_of


def test_the_limit_is_the_lowest_confidence_from_which_on_95_of_100_are_right() -> None:
    confidence = np.linspace(1, 0.5, 200)
    right = np.ones(200, bool)
    right[[40, 80, 100, 101, 102, 103, 104, 105, 106]] = False
    limit = limit_of(confidence, right)
    assert limit is not None
    assert right[confidence >= limit].mean() >= 0.95
    assert all(right[confidence >= lower].mean() < 0.95 for lower in confidence[confidence < limit])


def test_a_limit_that_rests_on_nine_answers_is_none() -> None:
    right = np.repeat([True, False], [9, 20])
    assert limit_of(np.linspace(1, 0.5, 29), right) is None
    assert limit_of(np.linspace(1, 0.5, 30), np.repeat([True, False], [10, 20])) is not None


def test_features_that_show_the_class_give_a_limit_and_others_do_not() -> None:
    rng, labels = np.random.default_rng(0), np.arange(60) % 3
    shown = (np.eye(8)[labels] * 5 + rng.normal(0, 0.3, (60, 8))).astype(np.float32)
    hidden = rng.normal(0, 1, (60, 8)).astype(np.float32)
    assert choose_limit(shown, labels, 3)[1] is not None
    assert choose_limit(hidden, labels, 3)[1] is None


def test_one_class_alone_gives_no_limit() -> None:
    assert choose_limit(np.ones((20, 4), np.float32), np.zeros(20, np.int64), 2)[1] is None


def test_photos_without_a_label_are_those_the_table_does_not_label_but_for_those_left_out(tmp_path: Path) -> None:
    write_folders(tmp_path, {"pile": 25})
    rows = {f"pile/{number}.png": Row("ab"[number % 2]) for number in range(20)}
    rows["pile/20.png"] = Row(left_out="blurred")
    rows["pile/21.png"] = Row(confirmed=("odd",))
    write_journal(tmp_path / JOURNAL, rows)
    dataset = load_dataset(tmp_path)
    assert sorted(dataset.unlabelled) == ["pile/21.png", "pile/22.png", "pile/23.png", "pile/24.png"]


def test_class_folders_have_no_photos_without_a_label(tmp_path: Path) -> None:
    assert not len(load_dataset(write_folders(tmp_path, {"a": 10, "b": 10})).unlabelled)
