"""Layouts, classes and splits of image folders."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from images import write_classes, write_folders, write_image
from otx.data.load import load_dataset, load_test_images, refuse_if_too_many_bad
from otx.data.split import share_of, split_class
from otx.data.split_file import write_split
from otx.errors import DataError
from otx.results import BadImage


def names(paths: tuple[str, ...]) -> set[str]:
    return {path.split("/")[0] for path in paths}


def test_plain_class_folders_are_split_80_20_and_validation_comes_out_of_train(tmp_path: Path) -> None:
    dataset = load_dataset(write_classes(tmp_path, {"ant": 50, "bee": 100}))
    assert dataset.classes == ("ant", "bee")
    assert [len(part) for part in (dataset.train, dataset.val, dataset.test)] == [108, 12, 30]
    assert [dataset.test.labels.count(label) for label in (0, 1)] == [10, 20]
    together = [*dataset.train.paths, *dataset.val.paths, *dataset.test.paths]
    assert len(set(together)) == len(together) == 150


@pytest.mark.parametrize("val", ["val", "valid", "validation", "Val"])
def test_three_split_folders_are_taken_as_they_are(val: str, tmp_path: Path) -> None:
    for split, count in (("train", 6), (val, 3), ("test", 4)):
        write_classes(tmp_path / split, {"ant": count, "bee": count})
    dataset = load_dataset(tmp_path)
    assert [names(part.paths) for part in (dataset.train, dataset.val, dataset.test)] == [{"train"}, {val}, {"test"}]
    assert dataset.layout == "train/val/test"


def test_without_test_folder_val_is_test_and_it_is_said(tmp_path: Path) -> None:
    for split, count in (("train", 6), ("val", 3)):
        write_classes(tmp_path / split, {"ant": count, "bee": count})
    dataset = load_dataset(tmp_path)
    assert dataset.test == dataset.val
    assert "There are no test images of their own: test is val." in dataset.notes


def test_without_val_folder_validation_comes_out_of_train_never_out_of_test(tmp_path: Path) -> None:
    for split, count in (("train", 20), ("test", 5)):
        write_classes(tmp_path / split, {"ant": count, "bee": count})
    dataset = load_dataset(tmp_path)
    assert names(dataset.val.paths) == {"train"}
    assert [len(part) for part in (dataset.train, dataset.val, dataset.test)] == [36, 4, 10]


def test_a_class_named_like_a_split_is_a_class(tmp_path: Path) -> None:
    dataset = load_dataset(write_classes(tmp_path, {"test": 10, "other": 10}))
    assert dataset.classes == ("other", "test")


def test_classes_are_in_the_order_of_torchvision(tmp_path: Path) -> None:
    from torchvision.datasets import ImageFolder

    write_classes(tmp_path, dict.fromkeys(("b", "A", "a b", "é", "10", "2", "_x"), 3))
    assert list(load_dataset(tmp_path).classes) == ImageFolder(tmp_path).classes


def test_odd_files_are_left_out_and_counted(tmp_path: Path) -> None:
    write_classes(tmp_path, {"ant": 10, "bee": 10})
    (tmp_path / "ant" / ".hidden.png").write_bytes(b"x")
    (tmp_path / "bee" / "notes.txt").write_text("x")
    (tmp_path / ".git").mkdir()
    write_image(tmp_path / "loose.png")
    notes = " ".join(load_dataset(tmp_path).notes)
    assert "2 files hidden" in notes
    assert "1 file of another kind" in notes
    assert "1 file beside the class folders" in notes


def test_nested_folders_and_names_of_any_kind_belong_to_their_class(tmp_path: Path) -> None:
    write_classes(tmp_path, {"bee": 5})
    kept = ["photo.jpg", "photo.png", "deep/er/ü \U0001f41d.JPG", "with space.jpeg", "-dash.gif", "new\nline.bmp"]
    for name in kept:
        write_image(tmp_path / "ant" / name.replace(".JPG", ".jpg")).rename(tmp_path / "ant" / name)
    dataset = load_dataset(tmp_path)
    ants = {
        path for part in (dataset.train, dataset.val, dataset.test) for path in part.paths if path.startswith("ant")
    }
    assert ants == {f"ant/{name}" for name in kept}


def test_a_link_that_leads_back_does_not_hang(tmp_path: Path) -> None:
    write_classes(tmp_path, {"ant": 4, "bee": 4})
    (tmp_path / "ant" / "again").symlink_to(tmp_path / "ant", target_is_directory=True)
    dataset = load_dataset(tmp_path)
    assert len(dataset.train) + len(dataset.val) + len(dataset.test) == 8


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        ({".": 0}, "is empty"),
        ({".": 3}, "holds 3 images but no class folders"),
        ({"ant": 3}, r"two classes at least, .* has 1 \(ant\)"),
        ({"ant": 3, "bee": 0}, "class folders with no image in .*: bee"),
        ({"train/ant": 3, "train/bee": 3, "val/ant": 3}, "classes that are in train/ but not in val/: bee"),
        (
            {"train/ant": 3, "train/bee": 3, "val/ant": 3, "test/ant": 3},
            "classes that are in train/ but not in val/ nor test/: bee",
        ),
        (
            {"train/ant": 3, "train/bee": 3, "val/ant": 3, "val/bee": 3, "val/bees": 1},
            "val/ has classes that train/ does not know: bees: did you mean 'bee'",
        ),
        ({"train/ant": 3, "train/bee": 0, "test/ant": 3, "test/bee": 3}, "class folders with no image in .*train: bee"),
        ({"train/ant": 3, "train/bee": 3, "bus": 3}, "has train/, which looks like the training images, beside bus"),
        (
            {"one/ant": 3, "one/bee": 3, "two/ant": 3, "two/bee": 3},
            r"one, two in .* all hold the same folders and no images \(ant, bee\)",
        ),
        ({"val/ant": 3, "val/bee": 3, "test/ant": 3}, "has test/, val/ but no train/"),
        ({"train/ant": 3, "train/bee": 3, "val/ant": 1, "valid/ant": 1}, "has both val/ and valid/"),
    ],
)
def test_a_folder_that_cannot_be_used_says_why(folders: dict[str, int], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message) as caught:
        load_dataset(write_folders(tmp_path, folders))
    assert caught.value.fix


def test_no_folder_and_a_file_are_errors_of_their_own(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no folder .*nowhere"):
        load_dataset(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"one.png is a file, not a folder"):
        load_dataset(write_image(tmp_path / "one.png"))


@pytest.mark.skipif(os.getuid() == 0, reason="root may read everything")
def test_a_folder_without_permission_is_an_error(tmp_path: Path) -> None:
    write_classes(tmp_path, {"ant": 2, "bee": 2})
    (tmp_path / "bee").chmod(0)
    with pytest.raises(DataError, match="bee cannot be read: Permission denied"):
        load_dataset(tmp_path)


def test_a_split_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    dataset = load_dataset(write_classes(tmp_path / "data", {"a, b": 12, 'q"': 12}), seed=3)
    write_split(dataset, tmp_path / "split.csv")
    again = load_dataset(tmp_path / "data", seed=99, split_file=tmp_path / "split.csv")
    assert (again.train, again.val, again.test, again.classes) == (
        dataset.train,
        dataset.val,
        dataset.test,
        dataset.classes,
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,class\n", "must begin with the line path,class,subset"),
        ("path,class,subset\nant/000.png,ant\n", "line 2: 3 values expected, got 2"),
        ("path,class,subset\nant/000.png,ant,tran\n", "line 2: unknown subset 'tran': did you mean 'train'"),
        ("path,class,subset\nant/xyz.png,ant,train\n", "line 2: .* has no image 'ant/xyz.png'"),
        ("path,class,subset\n../secret.png,ant,train\n", "has no image '../secret.png'"),
        ("path,class,subset\nant/000.png,ant,train\n", "must list training and validation images"),
        ("path,class,subset\nant/000.png,ant,train\nant/000.png,ant,train\n", "lists images twice: ant/000.png"),
    ],
)
def test_a_bad_split_file_names_the_line(text: str, message: str, tmp_path: Path) -> None:
    write_classes(tmp_path / "data", {"ant": 3, "bee": 3})
    (tmp_path / "split.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        load_dataset(tmp_path / "data", split_file=tmp_path / "split.csv")


def test_images_that_a_split_file_does_not_list_are_counted(tmp_path: Path) -> None:
    dataset = load_dataset(write_classes(tmp_path / "data", {"ant": 10, "bee": 10}))
    write_split(dataset, tmp_path / "split.csv")
    write_image(tmp_path / "data" / "ant" / "new.png")
    assert "1 images of" in " ".join(load_dataset(tmp_path / "data", split_file=tmp_path / "split.csv").notes)


def test_another_folder_is_tested_whole_and_by_class_name(tmp_path: Path) -> None:
    write_classes(tmp_path / "plain", {"bee": 3, "wasp": 2})
    images, what = load_test_images(tmp_path / "plain", ("ant", "bee", "wasp"))
    assert (images.labels, what) == ((1, 1, 1, 2, 2), "all images")
    with pytest.raises(DataError, match="classes that the model does not know: wasp"):
        load_test_images(tmp_path / "plain", ("ant", "bee"))


def test_only_the_test_folder_of_another_data_set_is_tested(tmp_path: Path) -> None:
    write_classes(tmp_path / "test", {"ant": 2, "bee": 2})
    images, what = load_test_images(tmp_path, ("ant", "bee"))
    assert names(images.paths) == {"test"}
    assert what == "its test/ folder"


def test_more_than_a_tenth_of_a_class_unreadable_is_refused(tmp_path: Path) -> None:
    dataset = load_dataset(write_classes(tmp_path, {"ant": 20, "bee": 40}))
    refuse_if_too_many_bad(dataset, [BadImage("ant/000.png", "x"), BadImage("ant/001.png", "x")])
    with pytest.raises(DataError, match="3 of the 20 images of class 'ant' cannot be decoded: ant/000.png"):
        refuse_if_too_many_bad(dataset, [BadImage(f"ant/00{number}.png", "x") for number in range(3)])


def test_a_class_whose_only_image_to_train_on_is_broken_is_refused(tmp_path: Path) -> None:
    write_classes(tmp_path / "train", {"ant": 1, "bee": 4})
    write_classes(tmp_path / "val", {"ant": 12, "bee": 12})
    dataset = load_dataset(tmp_path)
    refuse_if_too_many_bad(dataset, [BadImage("val/ant/000.png", "x")])
    with pytest.raises(DataError, match="no image to train on of ant can be decoded"):
        refuse_if_too_many_bad(dataset, [BadImage("train/ant/000.png", "x")])


paths = st.lists(st.text(st.characters(exclude_characters="/\x00", exclude_categories=["Cs"]), min_size=1), unique=True)


@given(paths, st.integers(0, 5), st.floats(0, 0.5), st.floats(0, 0.5))
def test_a_split_covers_every_image_once_in_the_shares_asked_for(
    files: list[str], seed: int, test_share: float, val_share: float
) -> None:
    train, val, test = split_class(files, seed=seed, test_share=test_share, val_share=val_share)
    assert sorted([*train, *val, *test]) == sorted(files)
    assert len(test) == share_of(len(files), test_share)
    assert bool(train) == bool(files)


@given(paths.filter(len), st.text("abc", min_size=1), st.integers(0, 3))
def test_another_image_moves_at_most_the_one_at_each_boundary(files: list[str], new: str, seed: int) -> None:
    before = split_class(files, seed=seed, test_share=0.2, val_share=0.1)
    after = split_class([*files, f"new {new}"], seed=seed, test_share=0.2, val_share=0.1)
    for subset in (1, 2):
        assert len(set(before[subset]) ^ (set(after[subset]) - {f"new {new}"})) <= 1


@given(paths, st.integers(0, 3))
def test_the_order_of_the_files_does_not_matter(files: list[str], seed: int) -> None:
    split = split_class(files, seed=seed, test_share=0.2, val_share=0.1)
    assert split == split_class(files[::-1], seed=seed, test_share=0.2, val_share=0.1)
