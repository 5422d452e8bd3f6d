"""Run folders: names, links, and files that are either complete or missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from otx.errors import UsageError
from otx.files import atomic, write_csv, write_text
from otx.results import StopReason
from otx.workspace import find_work_dir, latest_run, new_folder, run_of, set_latest


def test_two_runs_of_the_same_second_get_folders_of_their_own(tmp_path: Path) -> None:
    assert len({new_folder(tmp_path / "ws") for _ in range(5)}) == 5


def test_latest_points_to_the_newest_run_and_survives_a_move(tmp_path: Path) -> None:
    for name in ("first", "second"):
        folder = tmp_path / "ws" / name
        folder.mkdir(parents=True)
        set_latest(tmp_path / "ws", "train", folder)
    moved = (tmp_path / "ws").rename(tmp_path / "moved")
    assert latest_run(moved).path.name == "second"


def test_no_run_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no trained model in") as caught:
        latest_run(tmp_path)
    assert "otx train" in caught.value.fix


def test_this_folder_is_the_work_dir_where_it_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_work_dir(None) == Path("otx-workspace")
    (tmp_path / ".latest").mkdir()
    assert find_work_dir(None) == Path()
    assert find_work_dir("elsewhere") == Path("elsewhere")


def test_a_file_that_fails_half_way_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    write_text(path, "old")
    with pytest.raises(RuntimeError, match="half way"), atomic(path) as file:
        file.write("new and incompl")
        raise RuntimeError("half way")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match="cannot write .*file/figures.csv"):
        write_csv(tmp_path / "file" / "figures.csv", ["a"], [])
    with pytest.raises(UsageError, match="cannot write to .*file/ws"):
        new_folder(tmp_path / "file" / "ws")


def test_the_run_of_a_file_is_found_from_anywhere_inside(tmp_path: Path) -> None:
    for name in ("split.csv", "configs.yaml"):
        write_text(tmp_path / "run" / name, "")
    write_text(tmp_path / "run" / "checkpoints" / "last.ckpt", "")
    found = run_of(tmp_path / "run" / "checkpoints" / "last.ckpt")
    assert found is not None
    assert found.path == tmp_path / "run"
    assert run_of(tmp_path / "elsewhere" / "model.safetensors") is None


@pytest.mark.parametrize(
    ("numbers", "interrupted", "max_epochs", "stop"),
    [
        ([-1, 0, 1], False, 2, StopReason.ALL_EPOCHS),
        ([-1, 0, 1], False, 9, StopReason.EARLY_STOPPING),
        ([-1], False, 0, StopReason.CLASSIFIER_ONLY),
        ([0, 1], True, 2, StopReason.CTRL_C),
    ],
)
def test_why_a_run_of_before_ended_follows_from_its_figures(
    numbers: list[int], interrupted: bool, max_epochs: int, stop: StopReason
) -> None:
    summary = {"interrupted": interrupted, "epochs": [{"epoch": number} for number in numbers]}
    assert StopReason.of(summary, max_epochs) is stop
    assert StopReason.of({**summary, "stop": "sigterm"}, max_epochs) is StopReason.SIGTERM
