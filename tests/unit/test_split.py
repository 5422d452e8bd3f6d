"""Which image is in which subset: shares, stability, and the file that records it."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from images import write_classes, write_image
from otx.data.dataset import Dataset, Subset
from otx.data.load import load_dataset
from otx.data.split import share_of, split_class
from otx.data.split_file import check_split_file, read_split, write_split
from otx.errors import DataError

shares = st.floats(0.01, 0.5)
names = st.text(st.characters(exclude_characters="/\x00\r", exclude_categories=["Cs"]), min_size=1, max_size=12)
files = st.sets(names, max_size=60)


def sides(paths: list[str], *, seed: int = 0, test: float = 0.2, val: float = 0.1) -> dict[str, str]:
    split = split_class(paths, seed=seed, test_share=test, val_share=val)
    return {path: name for name, part in zip(("train", "val", "test"), split, strict=True) for path in part}


def members(dataset: Dataset) -> dict[str, set[str]]:
    return {name: set(getattr(dataset, name).paths) for name in ("train", "val", "test")}


@pytest.mark.parametrize(
    ("count", "share", "expected"),
    [(100, 0.2, 20), (13, 0.2, 3), (12, 0.2, 2), (4, 0.1, 1), (2, 0.2, 1), (1, 0.2, 0), (0, 0.2, 0), (2, 0.9, 1)],
)
def test_a_share_is_rounded_and_leaves_something_on_both_sides(count: int, share: float, expected: int) -> None:
    assert share_of(count, share) == expected
    assert share_of(count, 0.0) == 0


@pytest.mark.parametrize(("count", "sizes"), [(1, (1, 0, 0)), (2, (1, 0, 1)), (3, (1, 1, 1)), (10, (7, 1, 2))])
def test_small_classes_keep_training_images_first_then_test_then_validation(
    count: int, sizes: tuple[int, int, int]
) -> None:
    split = split_class([f"{number}.png" for number in range(count)], seed=0, test_share=0.2, val_share=0.1)
    assert tuple(len(part) for part in split) == sizes


@given(files, names, st.integers(0, 9), shares, shares)
def test_one_more_image_moves_at_most_one_other_over_each_boundary(
    paths: set[str], new: str, seed: int, test: float, val: float
) -> None:
    before = sides(sorted(paths - {new}), seed=seed, test=test, val=val)
    after = sides(sorted(paths | {new}), seed=seed, test=test, val=val)
    moved = [(before[path], after[path]) for path in before if before[path] != after[path]]
    assert {frozenset(move) for move in moved} <= {frozenset(("train", "test")), frozenset(("train", "val"))}
    assert len({frozenset(move) for move in moved}) == len(moved)


@given(files.filter(lambda paths: len(paths) > 20), st.integers(0, 9))
def test_validation_never_takes_an_image_from_test(paths: set[str], seed: int) -> None:
    with_val, without_val = (sides(sorted(paths), seed=seed, val=val) for val in (0.1, 0.0))
    assert [path for path in paths if with_val[path] == "test"] == [
        path for path in paths if without_val[path] == "test"
    ]


def test_the_side_follows_from_the_seed_and_the_path() -> None:
    paths = [f"ant/{number:03}.png" for number in range(200)]
    assert sides(paths, seed=1) == sides(paths, seed=1)
    assert sides(paths, seed=1) != sides(paths, seed=2)
    renamed = sides([path.replace("ant", "bee") for path in paths], seed=1)
    assert {path.replace("bee", "ant"): side for path, side in renamed.items()} != sides(paths, seed=1)


def test_the_split_of_today_is_the_split_of_every_version() -> None:
    paths = [f"ant/{number}.png" for number in range(10)]
    side = sides(paths, seed=0)
    assert [path for path in paths if side[path] == "test"] == ["ant/1.png", "ant/9.png"]
    assert [path for path in paths if side[path] == "val"] == ["ant/4.png"]


def test_a_name_that_is_no_utf8_has_a_side() -> None:
    assert set(sides(["ant/\udcff.png", "ant/a.png", "ant/b.png"]).values()) == {"train", "val", "test"}


def test_another_class_changes_nothing_in_the_others(tmp_path: Path) -> None:
    before = members(load_dataset(write_classes(tmp_path, {"ant": 20, "cat": 15}, size=(2, 2))))
    write_classes(tmp_path, {"bee": 30}, size=(2, 2))
    after = members(load_dataset(tmp_path))
    for name, paths in before.items():
        assert {path for path in after[name] if not path.startswith("bee/")} == paths


def test_the_place_of_the_data_changes_nothing(tmp_path: Path) -> None:
    one, other = (write_classes(tmp_path / name, {"ant": 20, "bee": 20}, size=(2, 2)) for name in ("one", "other"))
    assert members(load_dataset(one)) == members(load_dataset(other))


def test_the_shares_asked_for_are_taken_class_by_class(tmp_path: Path) -> None:
    write_classes(tmp_path, {"ant": 40, "bee": 24}, size=(2, 2))
    dataset = load_dataset(tmp_path, test_share=0.5, val_share=0.25)
    counts = [[part.labels.count(label) for label in (0, 1)] for part in (dataset.train, dataset.val, dataset.test)]
    assert counts == [[15, 9], [5, 3], [20, 12]]


def test_classes_too_small_to_validate_on_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no image of .* is left to validate on"):
        load_dataset(write_classes(tmp_path, {"ant": 2, "bee": 1}, size=(2, 2)))


def test_images_are_taken_out_of_every_subset(tmp_path: Path) -> None:
    for split in ("train", "val"):
        write_classes(tmp_path / split, {"ant": 3, "bee": 3}, size=(2, 2))
    dataset = load_dataset(tmp_path).without({"train/ant/000.png", "val/bee/002.png"})
    assert dataset.train.paths[:3] == ("train/ant/001.png", "train/ant/002.png", "train/bee/000.png")
    assert dataset.train.labels == (0, 0, 1, 1, 1)
    assert dataset.test == dataset.val
    assert dataset.val.paths[3:] == ("val/bee/000.png", "val/bee/001.png")


def test_the_file_has_a_row_an_image_and_the_class_by_name(tmp_path: Path) -> None:
    parts = [Subset(("x.png",), (1,)), Subset(("y.png",), (0,)), Subset((), ())]
    dataset = Dataset(tmp_path, ("ant", "a, b"), "train", *parts)
    write_split(dataset, tmp_path / "split.csv")
    expected = 'path,class,subset\nx.png,"a, b",train\ny.png,ant,val\n'
    assert (tmp_path / "split.csv").read_bytes().decode() == expected


def test_test_that_is_val_is_written_once_and_read_back_as_both(tmp_path: Path) -> None:
    for split in ("train", "valid"):
        write_classes(tmp_path / "data" / split, {"ant": 3, "bee": 3}, size=(2, 2))
    dataset = load_dataset(tmp_path / "data")
    write_split(dataset, tmp_path / "split.csv")
    assert len(read_split(tmp_path / "split.csv")) == 12
    again = load_dataset(tmp_path / "data", split_file=tmp_path / "split.csv")
    assert again.test == again.val == dataset.val
    assert "There are no test images of their own: test is val." in again.notes


@settings(max_examples=50)
@given(st.lists(st.tuples(names, names, st.sampled_from(["train", "val", "test"])), unique_by=lambda row: row[0]))
def test_rows_are_read_as_they_were_written(rows: list[tuple[str, str, str]]) -> None:
    classes = tuple(sorted({name for _, name, _ in rows}))
    train, val, test = (
        [(path, classes.index(name)) for path, name, subset in rows if subset == own]
        for own in ("train", "val", "test")
    )
    parts = [Subset(tuple(path for path, _ in part), tuple(label for _, label in part)) for part in (train, val, test)]
    with tempfile.TemporaryDirectory() as place:
        write_split(Dataset(Path(place), classes, "train", *parts), Path(place) / "split.csv")
        read = [row[1:] for row in read_split(Path(place) / "split.csv")]
    assert sorted(read) == sorted(rows)


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_a_file_that_a_spreadsheet_saved_is_read(newline: str, tmp_path: Path) -> None:
    write_classes(tmp_path / "data", {"ant": 2, "bee": 2}, size=(2, 2))
    rows = ["ant/000.png,ant,train", "ant/001.png,ant,val", "bee/000.png,bee,train", "bee/001.png,bee,val"]
    (tmp_path / "split.csv").write_bytes((newline.join(["path,class,subset", *rows]) + newline).encode())
    dataset = load_dataset(tmp_path / "data", split_file=tmp_path / "split.csv")
    assert (dataset.train.paths, dataset.val.labels) == (("ant/000.png", "bee/000.png"), (0, 1))


def test_the_class_is_what_the_file_says_not_the_folder(tmp_path: Path) -> None:
    write_image(tmp_path / "data" / "batch1" / "a.png")
    for name in ("b", "c", "d"):
        write_image(tmp_path / "data" / "batch2" / f"{name}.png")
    rows = "batch1/a.png,ant,train\nbatch2/b.png,bee,train\nbatch2/c.png,ant,val\nbatch2/d.png,bee,val\n"
    (tmp_path / "split.csv").write_text(f"path,class,subset\n{rows}")
    dataset = load_dataset(tmp_path / "data", split_file=tmp_path / "split.csv")
    assert (dataset.classes, dataset.layout) == (("ant", "bee"), "split file")
    assert dict(zip(dataset.train.paths, dataset.train.labels, strict=True)) == {"batch1/a.png": 0, "batch2/b.png": 1}


def test_a_class_without_a_training_image_is_refused_by_name_unless_a_model_knows_it(tmp_path: Path) -> None:
    write_classes(tmp_path / "data", {"ant": 3, "bee": 3}, size=(2, 2))
    rows = ["ant/000.png,ant,train", "ant/001.png,ant,val", "bee/000.png,bee,train", "bee/001.png,beee,val"]
    (tmp_path / "split.csv").write_text("\n".join(["path,class,subset", *rows, "bee/002.png,cow,test", ""]))
    message = "split.csv lists classes without a training image: beee: did you mean 'bee'\\?, cow\n  fix: correct"
    with pytest.raises(DataError, match=message):
        check_split_file(tmp_path / "split.csv")
    with pytest.raises(DataError, match="without a training image: beee: did you mean 'bee'\\?\n"):
        check_split_file(tmp_path / "split.csv", ("cow", "dog"))
    check_split_file(tmp_path / "split.csv", ("beee", "cow"))
    # a run that was begun before this was refused can still be resumed and tested
    dataset = load_dataset(tmp_path / "data", split_file=tmp_path / "split.csv")
    assert "No train image of beee, cow: a training on these images does not learn that." in dataset.notes


def test_a_split_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the split file .*gone.csv cannot be read: .*No such file"):
        read_split(tmp_path / "gone.csv")


@pytest.mark.parametrize(
    ("content", "why"), [(b"a\n\x00", "line contains NUL|must begin with"), (b'"x', "unexpected end of data")]
)
def test_a_split_file_that_is_no_csv_says_why(content: bytes, why: str, tmp_path: Path) -> None:
    (tmp_path / "split.csv").write_bytes(content)
    with pytest.raises(DataError, match=f"split.csv.*({why})"):
        read_split(tmp_path / "split.csv")
