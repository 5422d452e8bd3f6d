"""Folders as people have them: how each is understood, and what is said about it."""

from __future__ import annotations

from pathlib import Path

import pytest

from images import write_folders
from otx.data.layout import scan
from otx.data.load import load_dataset, load_test_images
from otx.errors import DataError
from otx.workspace import RunFolder, is_own, mark_if_new, mark_own, new_folder, set_latest

ANTS_AND_BEES = {"ant": 10, "bee": 10}


def inside(folder: str) -> dict[str, int]:
    return {f"{folder}/{name}": count for name, count in ANTS_AND_BEES.items()}


def test_folders_around_the_class_folders_are_gone_through_and_it_is_said(tmp_path: Path) -> None:
    dataset = load_dataset(write_folders(tmp_path, inside("photos/dataset/images")))
    assert (dataset.classes, dataset.root) == (("ant", "bee"), tmp_path / "photos/dataset/images")
    note = f"{tmp_path} holds one folder and nothing beside it: its images are in {tmp_path / 'photos/dataset/images'}."
    assert note in dataset.notes
    assert {path.split("/")[0] for path in dataset.train.paths} == {"ant", "bee"}


def test_folders_around_split_folders_are_gone_through(tmp_path: Path) -> None:
    dataset = load_dataset(write_folders(tmp_path, {**inside("data/train"), **inside("data/val")}))
    assert (dataset.root, dataset.layout, len(dataset.train)) == (tmp_path / "data", "train/val", 20)


def test_images_beside_a_folder_end_the_way_down(tmp_path: Path) -> None:
    write_folders(tmp_path, {".": 1, **inside("dataset")})
    folder = scan(tmp_path)
    assert (folder.root, list(folder.splits["all"])) == (tmp_path, ["dataset"])


@pytest.mark.parametrize("test", ["test", "test/test", "Testing/images", "test/unknown"])
def test_a_test_folder_without_labels_is_left_out_and_predict_is_named(test: str, tmp_path: Path) -> None:
    dataset = load_dataset(write_folders(tmp_path / "a b", {**inside("train"), test: 5}))
    assert [len(part) for part in (dataset.train, dataset.val, dataset.test)] == [14, 2, 4]
    (note,) = dataset.notes
    assert "holds 5 images and no class folders: left out, since there are no labels." in note
    folder = tmp_path / "a b" / (test.removesuffix("/unknown"))
    assert note.endswith(f"`otx predict '{folder}'` classifies them.")


def test_an_empty_class_folder_in_val_or_test_is_a_note(tmp_path: Path) -> None:
    write_folders(tmp_path, {**inside("train"), **inside("val"), "test/ant": 3, "test/bee": 0})
    dataset = load_dataset(tmp_path)
    assert dataset.notes == ("No test image of bee: how well that is recognised is not measured there.",)


def test_what_the_system_keeps_beside_photos_is_left_out_and_counted(tmp_path: Path) -> None:
    junk = ("__MACOSX/ant", "@eaDir", "$RECYCLE.BIN", "lost+found", ".ipynb_checkpoints", "ant/@eaDir", "ant/__MACOSX")
    write_folders(tmp_path, {**ANTS_AND_BEES, **dict.fromkeys(junk, 2)})
    (tmp_path / "bee" / "Thumbs.db").write_bytes(b"x")
    (tmp_path / "desktop.ini").write_bytes(b"x")
    dataset = load_dataset(tmp_path)
    assert dataset.classes == ("ant", "bee")
    assert len(dataset.train) + len(dataset.val) + len(dataset.test) == 20
    assert dataset.notes == (
        "Left out: 1 file hidden.",
        "Left out: 8 files of the system, such as __MACOSX or Thumbs.db.",
    )


def test_other_files_are_counted_by_kind(tmp_path: Path) -> None:
    write_folders(tmp_path, ANTS_AND_BEES)
    for number in range(3):
        (tmp_path / "ant" / f"{number}.XML").touch()
    (tmp_path / "bee" / "notes.txt").touch()
    assert load_dataset(tmp_path).notes == ("Left out: 4 files of another kind than images (3 .xml, 1 .txt).",)


def test_folders_beside_splits_are_named(tmp_path: Path) -> None:
    write_folders(tmp_path, {**inside("train"), **inside("test"), "raw": 4})
    assert "Left out, since it is beside the split folders: raw/." in load_dataset(tmp_path).notes


def test_classes_that_hold_the_same_single_folder_are_classes(tmp_path: Path) -> None:
    dataset = load_dataset(write_folders(tmp_path, {"ant/images": 10, "bee/images": 10}))
    assert dataset.classes == ("ant", "bee")


@pytest.mark.parametrize("work", ["otx-workspace", "ant/otx-workspace", "."])
def test_what_otx_wrote_into_the_folder_is_no_photo(work: str, tmp_path: Path) -> None:
    write_folders(tmp_path, ANTS_AND_BEES)
    run = new_folder(tmp_path / work)
    set_latest(tmp_path / work, "train", run)
    write_folders(run, {"explain/1": 3})
    dataset = load_dataset(tmp_path)
    assert dataset.classes == ("ant", "bee")
    assert len(dataset.train) + len(dataset.val) + len(dataset.test) == 20
    assert any(note.startswith("Left out, since otx wrote it: ") for note in dataset.notes)


def test_a_work_folder_of_before_is_recognised(tmp_path: Path) -> None:
    write_folders(tmp_path, {**ANTS_AND_BEES, "work/1/explain": 2, "work/reports/1": 2})
    run = RunFolder(tmp_path / "work" / "1")
    for path in (run.config, run.split):
        path.touch()
    (tmp_path / "work" / ".latest").mkdir()
    assert load_dataset(tmp_path).classes == ("ant", "bee")


def test_a_folder_of_photos_that_runs_are_kept_in_is_not_taken_for_a_work_folder(tmp_path: Path) -> None:
    write_folders(tmp_path / "photos", ANTS_AND_BEES)
    set_latest(tmp_path / "photos", "train", new_folder(tmp_path / "photos"))
    write_folders(tmp_path, {"more": 5})
    assert list(scan(tmp_path).splits["all"]) == ["more", "photos"]


def test_a_marked_folder_is_still_a_data_root(tmp_path: Path) -> None:
    mark_own(write_folders(tmp_path, ANTS_AND_BEES))
    assert load_dataset(tmp_path).classes == ("ant", "bee")


@pytest.mark.parametrize("name", ["Testing", "seg_test"])
def test_a_test_folder_alone_is_tested_by_any_name(name: str, tmp_path: Path) -> None:
    images, what = load_test_images(write_folders(tmp_path, inside(name)), ("ant", "bee"))
    assert (len(images), what) == (20, f"its {name}/ folder")


def test_a_folder_that_a_person_named_is_marked_only_when_it_is_new(tmp_path: Path) -> None:
    assert is_own(mark_if_new(tmp_path / "new"))
    (tmp_path / "empty").mkdir()
    assert is_own(mark_if_new(tmp_path / "empty"))
    assert not is_own(mark_if_new(write_folders(tmp_path, {"photos": 1}) / "photos"))


def test_names_that_differ_in_the_split_alone_are_splits(tmp_path: Path) -> None:
    train, test = "asl_alphabet_train", "asl_alphabet_test"
    dataset = load_dataset(write_folders(tmp_path, {**inside(f"{train}/{train}"), f"{test}/{test}": 4}))
    assert (dataset.classes, dataset.layout) == (("ant", "bee"), "train")
    assert f"{test}/{test}/ holds 4 images and no class folders" in dataset.notes[0]


@pytest.mark.parametrize(
    ("folders", "message", "fix"),
    [
        (
            {"train": 8, "test1": 3},
            "train, test1 in .* hold no class folders|test1, train in .* hold no class",
            "sort the",
        ),
        (
            {**inside("augmented/train"), **inside("augmented/valid"), "test/test": 3},
            "holds split folders",
            "--data_root",
        ),
        ({**inside("one"), **inside("two")}, "they look like splits, not like classes", "call them"),
    ],
)
def test_folders_that_are_no_classes_are_refused(
    folders: dict[str, int], message: str, fix: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=message) as caught:
        load_dataset(write_folders(tmp_path, folders))
    assert caught.value.fix.startswith(fix)
