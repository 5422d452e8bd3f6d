"""The scan of a folder: layouts, classes and files, and what it leaves out."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from images import write_folders
from otx.data.folder import IMAGE_SUFFIXES, shorten
from otx.data.layout import scan
from otx.data.load import load_dataset, load_test_images
from otx.errors import DataError

suffixes = st.sampled_from(sorted(IMAGE_SUFFIXES)).flatmap(lambda name: st.sampled_from([name, name.upper()]))
stems = st.text(st.characters(exclude_characters="/\x00", exclude_categories=["Cs"]), min_size=1, max_size=20)


def test_paths_are_relative_to_the_root_and_sorted(tmp_path: Path) -> None:
    write_folders(tmp_path, {"bee/old": 1, "bee": 2, "ant": 1})
    assert scan(tmp_path).splits == {"all": {"ant": ["ant/0.png"], "bee": ["bee/0.png", "bee/1.png", "bee/old/0.png"]}}


def test_a_relative_root_gives_the_same_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folders(tmp_path / "photos", {"ant": 2, "bee": 2})
    monkeypatch.chdir(tmp_path)
    assert scan(Path("photos")).splits == scan(tmp_path / "photos").splits


@settings(max_examples=30)
@given(st.sets(st.tuples(stems, suffixes).map("".join).filter(lambda name: not name.startswith(".")), max_size=5))
def test_every_image_is_found_whatever_its_name(names: set[str]) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "ant"
        folder.mkdir()
        for name in names:
            (folder / name).write_bytes(b"x")
        assert scan(Path(place)).splits["all"]["ant"] == sorted(f"ant/{name}" for name in names)


@pytest.mark.parametrize("name", ["photo.svg", "photo", "jpg", "photo.jpg.part", "photo.png~", "photo.npy"])
def test_a_file_of_another_suffix_is_no_image(name: str, tmp_path: Path) -> None:
    write_folders(tmp_path, {"ant": 1})
    (tmp_path / "ant" / name).write_bytes(b"x")
    folder = scan(tmp_path)
    assert folder.splits["all"]["ant"] == ["ant/0.png"]
    suffix = Path(name).suffix or "without a suffix"
    assert folder.left_out.notes() == [f"Left out: 1 file of another kind than images (1 {suffix})."]


def test_a_hidden_folder_is_left_out_with_all_it_holds(tmp_path: Path) -> None:
    write_folders(tmp_path, {"ant": 1, "ant/.thumbnails": 3, ".cache/bee": 3})
    folder = scan(tmp_path)
    assert folder.splits == {"all": {"ant": ["ant/0.png"]}}
    assert folder.left_out.hidden == 2


def test_a_folder_with_the_name_of_an_image_is_a_folder(tmp_path: Path) -> None:
    write_folders(tmp_path, {"ant/scan.png": 2})
    assert scan(tmp_path).splits["all"]["ant"] == ["ant/scan.png/0.png", "ant/scan.png/1.png"]


def test_links_to_files_and_folders_are_followed(tmp_path: Path) -> None:
    write_folders(tmp_path / "elsewhere", {"bees": 2})
    write_folders(tmp_path / "data", {"ant": 1})
    (tmp_path / "data" / "bee").symlink_to(tmp_path / "elsewhere" / "bees", target_is_directory=True)
    (tmp_path / "data" / "ant" / "link.png").symlink_to(tmp_path / "data" / "ant" / "0.png")
    found = scan(tmp_path / "data").splits["all"]
    assert found == {"ant": ["ant/0.png", "ant/link.png"], "bee": ["bee/0.png", "bee/1.png"]}


def test_a_link_to_nothing_stays_so_that_decoding_names_it(tmp_path: Path) -> None:
    write_folders(tmp_path, {"ant": 1})
    (tmp_path / "ant" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    assert scan(tmp_path).splits["all"]["ant"] == ["ant/0.png", "ant/gone.png"]


def test_links_that_lead_to_one_another_end(tmp_path: Path) -> None:
    write_folders(tmp_path, {"ant/left": 1, "ant/right": 1, "bee": 1})
    (tmp_path / "ant" / "left" / "on").symlink_to(tmp_path / "ant" / "right", target_is_directory=True)
    (tmp_path / "ant" / "right" / "back").symlink_to(tmp_path / "ant" / "left", target_is_directory=True)
    found = scan(tmp_path).splits["all"]["ant"]
    assert {"ant/left/0.png", "ant/right/0.png"} <= set(found)
    assert len(found) <= 4


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    write_folders(tmp_path, {"ant": 1})
    os.mkfifo(tmp_path / "ant" / "pipe.png")
    assert scan(tmp_path).splits["all"]["ant"] == ["ant/0.png"]


@pytest.mark.parametrize(
    ("folders", "names"),
    [
        ({"TRAIN/a": 1, "Validation/a": 1, "Test/a": 1}, {"train": "TRAIN", "val": "Validation", "test": "Test"}),
        ({"train/a": 1, "valid/a": 1}, {"train": "train", "val": "valid"}),
        ({"train/a": 1, "test/a": 1}, {"train": "train", "test": "test"}),
        ({"train/a": 1}, {"train": "train"}),
        ({"train": 1, "bus": 1}, {}),
        ({"val": 1, "bus": 1}, {}),
        ({"training": 1, "bus": 1}, {}),
        ({"Training/a": 1, "Testing/a": 1}, {"train": "Training", "test": "Testing"}),
        ({"seg_train/a": 1, "seg_test/a": 1, "seg_pred": 2}, {"train": "seg_train", "test": "seg_test"}),
        ({"train_set/a": 1, "dev-images/a": 1}, {"train": "train_set", "val": "dev-images"}),
        ({"trains/a": 1, "tests/a": 1, "bus": 1}, {}),
        ({"seg_train/seg_train/a": 1, "test/images/a": 1}, {"train": "seg_train/seg_train", "test": "test/images"}),
    ],
)
def test_split_folders_are_recognised_and_class_folders_are_not_taken_for_them(
    folders: dict[str, int], names: dict[str, str], tmp_path: Path
) -> None:
    folder = scan(write_folders(tmp_path, folders))
    assert folder.folder_names == names
    assert set(folder.splits) == (set(names) or {"all"})


def test_of_train_alone_validation_and_test_are_split_off(tmp_path: Path) -> None:
    dataset = load_dataset(write_folders(tmp_path, {"train/ant": 20, "train/bee": 10}))
    assert dataset.layout == "train"
    assert [len(part) for part in (dataset.train, dataset.val, dataset.test)] == [21, 3, 6]


@pytest.mark.parametrize("lacking", ["val", "test"])
def test_a_class_that_one_of_three_folders_lacks_is_a_note(lacking: str, tmp_path: Path) -> None:
    folders = {f"{split}/{name}": 2 for split in ("train", "val", "test") for name in ("ant", "bee")}
    del folders[f"{lacking}/bee"]
    dataset = load_dataset(write_folders(tmp_path, folders))
    note, few = dataset.notes
    assert note == f"No {lacking} image of bee: how well that is recognised is not measured there."
    assert few == "Classes with fewer than 5 images to train: ant (2), bee (2). More photos would help most."


def test_every_class_folder_without_an_image_is_named_not_only_the_first(tmp_path: Path) -> None:
    write_folders(tmp_path, {"ant": 1, "bee": 0, "cat": 0, "dog": 0})
    (tmp_path / "dog" / "notes.txt").touch()
    with pytest.raises(DataError, match="class folders with no image in .*: bee, cat, dog\n") as caught:
        load_dataset(tmp_path)
    assert caught.value.fix == "put images into them, or remove the folders"


def test_a_long_list_names_ten_and_counts_the_rest() -> None:
    assert shorten(str(number) for number in range(10)) == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9"
    assert shorten(str(number) for number in range(13)) == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 3 more"
    assert shorten([]) == ""


@pytest.mark.parametrize(
    ("folders", "paths", "what"),
    [
        ({"train/ant": 1, "val/ant": 2, "test/ant": 1}, ("test/ant/0.png",), "its test/ folder"),
        ({"train/ant": 2, "valid/ant": 1}, ("valid/ant/0.png",), "its valid/ folder"),
        ({"val/ant": 1}, ("val/ant/0.png",), "its val/ folder"),
        ({"train/ant": 1}, ("train/ant/0.png",), "its train/ folder"),
        ({"bee": 0, "ant": 1}, ("ant/0.png",), "all images"),
    ],
)
def test_a_folder_is_tested_on_what_is_least_likely_to_be_known(
    folders: dict[str, int], paths: tuple[str, ...], what: str, tmp_path: Path
) -> None:
    images, taken = load_test_images(write_folders(tmp_path, folders), ("wasp", "ant", "bee"))
    assert (images.paths, images.labels, taken) == (paths, (1,), what)


def test_a_folder_without_any_image_cannot_be_tested(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no image in .*here"):
        load_test_images(write_folders(tmp_path / "here", {"ant": 0, "bee": 0}), ("ant", "bee"))
