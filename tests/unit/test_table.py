"""Tables of labels as people have them: how each is understood, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from images import write_image
from otx.data.layout import scan
from otx.data.load import load_dataset
from otx.data.split_file import write_split
from otx.errors import DataError

TWO = {"ant": ["1", "2", "3", "4"], "bee": ["5", "6", "7", "8"]}
LABELS = {number: name for name, numbers in TWO.items() for number in numbers}


def make(root: Path, table: str, *, folder: str = "images", name: str = "labels.csv") -> Path:
    """A folder of eight images, `1.png` to `8.png`, and a table."""
    for number in LABELS:
        write_image(root / folder / f"{number}.png", size=(2, 2))
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(table, encoding="utf-8")
    return root


def lines(form: str, header: str = "filename,label") -> str:
    """A table: a header, and a row for each image."""
    return "\n".join([header, *(form.format(n=number, label=label) for number, label in LABELS.items())]) + "\n"


def classes_in(root: Path) -> dict[str, list[str]]:
    """The names of the images of each class, without folders and suffixes."""
    folder = scan(root)
    return {name: [Path(path).stem for path in paths] for name, paths in folder.splits["all"].items()}


def test_a_list_with_spaces_is_a_table(tmp_path: Path) -> None:
    text = "".join(f"images/{number}.png {label}\n" for number, label in LABELS.items())
    root = make(tmp_path, text, name="labels.txt")
    (root / "readme.txt").write_text("Photos of ants and bees.\nTaken in May.\n")
    assert classes_in(root) == TWO
    assert scan(root / "labels.txt").splits == scan(root).splits


def test_a_text_beside_each_photo_is_no_table(tmp_path: Path) -> None:
    for label in ("ant", "bee"):
        for number in range(12):
            write_image(tmp_path / label / f"{number}.png", size=(2, 2))
            (tmp_path / f"{number}.txt").write_text(f"{label}/{number}.png bee\n{label}/1.png ant\n")
    assert sorted(scan(tmp_path).splits["all"]) == ["ant", "bee"]


@pytest.mark.parametrize(
    ("form", "header"),
    [
        ("{n}.png,{label}", "filename,label"),
        ("{n},{label}", "id,breed"),
        ("images/{n}.png,{label}", "path,class"),
        ("./images/{n}.png,{label}", "image_path,species"),
        ("archive\\images\\{n}.png,{label}", "file,whatever"),
        ("{label};{n}.png", "Category;Image"),
        ("0,{n}.png,{label},4", ",file_name,label,width"),
        ("{n}.png\t{label}", "file\tclass"),
        ('"{n}.png" , " {label} "', "filename,label"),
        ("{n}.jpg,{label}", "filename,label"),
    ],
)
def test_columns_are_found_by_what_is_in_them(form: str, header: str, tmp_path: Path) -> None:
    assert classes_in(make(tmp_path, lines(form, header))) == TWO


def test_a_table_without_a_header_is_read(tmp_path: Path) -> None:
    assert classes_in(make(tmp_path, lines("{n}.png,{label}").partition("\n")[2])) == TWO


def test_images_may_lie_beside_the_table(tmp_path: Path) -> None:
    dataset = load_dataset(make(tmp_path, lines("{n}.png,{label}"), folder="."))
    assert (dataset.classes, dataset.layout) == (("ant", "bee"), "table labels.csv")
    (note,) = dataset.notes
    assert note == "Classes with fewer than 5 images to train: ant (2), bee (2). More photos would help most."


def test_the_table_itself_may_be_given(tmp_path: Path) -> None:
    make(tmp_path, lines("{n}.png,{label}"))
    make(tmp_path, lines("{n}.png,{label}").replace("ant", "wasp"), name="other.csv")
    assert load_dataset(tmp_path / "other.csv").classes == ("bee", "wasp")
    with pytest.raises(DataError, match=r"several tables of labels: labels.csv, other.csv") as caught:
        scan(tmp_path)
    assert caught.value.fix == f"give one: --data_root {tmp_path / 'labels.csv'}"


@pytest.mark.parametrize("names", [("train", "valid", "test"), ("Training", "dev", "TESTING")])
def test_a_column_of_splits_is_used(names: tuple[str, str, str], tmp_path: Path) -> None:
    rows = ["file,label,split"]
    for place, (number, label) in enumerate(LABELS.items()):
        rows.append(f"{number}.png,{label},{names[0] if place % 4 < 2 else names[place % 4 - 1]}")
    dataset = load_dataset(make(tmp_path, "\n".join(rows)))
    assert [len(part) for part in (dataset.train, dataset.val, dataset.test)] == [4, 2, 2]
    assert set(dataset.val.paths) == {"images/3.png", "images/7.png"}


def test_the_split_of_a_run_is_such_a_table(tmp_path: Path) -> None:
    make(tmp_path, lines("{n}.png,{label}"))
    before = load_dataset(tmp_path)
    (tmp_path / "labels.csv").unlink()
    write_split(before, tmp_path / "split.csv")
    after = load_dataset(tmp_path)
    assert [set(part.paths) for part in after.parts.values()] == [set(part.paths) for part in before.parts.values()]


@pytest.mark.parametrize("name", ["_classes.csv", "_annotations.csv", "metadata.csv"])
def test_a_table_in_each_split_folder_is_read(name: str, tmp_path: Path) -> None:
    for split in ("train", "valid", "test"):
        make(tmp_path, lines("{n}.png,{label}", "file_name,label"), folder=split, name=f"{split}/{name}")
    dataset = load_dataset(tmp_path)
    assert [len(part) for part in (dataset.train, dataset.val, dataset.test)] == [8, 8, 8]
    assert {path.split("/")[0] for path in dataset.val.paths} == {"valid"}


def test_a_column_of_zeros_and_ones_for_each_class_is_read(tmp_path: Path) -> None:
    rows = ["filename, ant, bee", *(f"{n}.png, {int(x == 'ant')}, {int(x == 'bee')}" for n, x in LABELS.items())]
    assert classes_in(make(tmp_path, "\n".join(rows))) == TWO


def test_a_row_of_zeros_is_an_image_without_a_label(tmp_path: Path) -> None:
    rows = ["filename,ant,bee", *(f"{n}.png,{int(x == 'ant')},{int(x == 'bee')}" for n, x in LABELS.items())]
    rows = [rows[0], *(rows[1:] * 70), "9.png,0,0"]  # behind the rows that the columns are found by
    write_image(tmp_path / "images" / "9.png", size=(2, 2))
    folder = scan(make(tmp_path, "\n".join(rows)))
    assert "Left out, since labels.csv gives no label: 1 image." in folder.notes


def test_a_competition_is_understood(tmp_path: Path) -> None:
    make(tmp_path, lines("{n},{label}", "image_id,label"), folder="train_images", name="train.csv")
    for number in range(20, 25):
        write_image(tmp_path / "test_images" / f"{number}.png", size=(2, 2))
    (tmp_path / "test.csv").write_text("image_id\n" + "".join(f"{number}\n" for number in range(20, 25)))
    (tmp_path / "sample_submission.csv").write_text("image_id,label\n" + "".join(f"{n},ant\n" for n in range(20, 25)))
    dataset = load_dataset(tmp_path)
    assert (dataset.classes, dataset.layout) == (("ant", "bee"), "table train.csv")
    assert dataset.notes[0] == "Not used, since train.csv does not list them: 5 images."


def test_a_table_for_each_split_is_read(tmp_path: Path) -> None:
    rows = lines("{n}.png,{label}").splitlines()
    make(tmp_path, "\n".join(rows[:1] + rows[1:4] + rows[5:8]), name="train.csv")
    (tmp_path / "val.csv").write_text("\n".join([rows[0], rows[4], rows[8]]))
    dataset = load_dataset(tmp_path)
    assert [sorted(part.paths) for part in dataset.parts.values()][1] == ["images/4.png", "images/8.png"]
    assert len(dataset.train) == 6


def test_what_is_missing_or_unlabelled_is_named(tmp_path: Path) -> None:
    table = lines("{n}.png,{label}").replace("8.png,bee", "8.png,") + "nowhere.png,ant\nnor here.png,bee\n"
    table = table.replace("1.png,ant", "1.png,wasp")
    notes = load_dataset(make(tmp_path, table)).notes
    assert "labels.csv names 2 images that cannot be found: nowhere.png, nor here.png." in notes
    assert "Left out, since labels.csv gives no label: 1 image." in notes
    assert "Not used, since labels.csv does not list them: 1 image." in notes
    assert "Classes with one photo in labels.csv, which cannot be tested: wasp." in notes


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("1.png,bee\n", "has images with two labels or splits: images/1.png"),
        ("9.png,Ant\n", "has labels that differ only in case or spaces: 'Ant' and 'ant'"),
        ("9.png,b ee\n", "has labels that differ only in case or spaces: 'b ee' and 'bee'"),
    ],
)
def test_what_cannot_be_meant_is_refused(more: str, message: str, tmp_path: Path) -> None:
    write_image(tmp_path / "images" / "9.png", size=(2, 2))
    with pytest.raises(DataError, match=message) as caught:
        scan(make(tmp_path, lines("{n}.png,{label}") + more))
    assert caught.value.fix


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("", "has no column that names images"),
        ("a,b\n1,2\n", "has no column that names images"),
        (lines("{n}.png,{label},x", "file,colour,size"), "which column holds the classes. It has file, colour, size"),
        ("file,label\n\0", "is not text in UTF-8"),
    ],
)
def test_a_table_that_cannot_be_used_says_why(table: str, message: str, tmp_path: Path) -> None:
    make(tmp_path, table, folder="photos")
    for number in LABELS:
        (tmp_path / "photos" / f"{number}.png").rename(tmp_path / "photos" / f"{number}0.png")
    if "colour" in table:
        make(tmp_path, table)
    with pytest.raises(DataError, match=message) as caught:
        scan(tmp_path / "labels.csv")
    assert caught.value.fix


def test_class_folders_are_taken_where_a_table_says_the_same(tmp_path: Path) -> None:
    rows = ["file,label"]
    for label in ("ant", "bee"):
        for number in range(6):
            write_image(tmp_path / label / f"{number}.png", size=(2, 2))
            rows.append(f"{label}/{number}.png,{label}")
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    assert load_dataset(tmp_path).layout == "class folders"


def test_class_folders_and_a_table_of_other_classes_are_refused(tmp_path: Path) -> None:
    rows = ["file,label"]
    for label in ("ant", "bee"):
        for number in range(6):
            write_image(tmp_path / label / f"{label}{number}.png", size=(2, 2))
        rows += [f"{label}0.png,old", f"{label}1.png,new"]
    (tmp_path / "dates.csv").write_text("\n".join(rows))
    with pytest.raises(DataError, match=r"has class folders \(ant, bee\) and dates.csv, which gives 33% of") as caught:
        scan(tmp_path)
    assert f"--data_root {tmp_path / 'dates.csv'}" in caught.value.fix
    assert set(scan(tmp_path / "dates.csv").splits["all"]) == {"new", "old"}


def test_predictions_are_no_labels(tmp_path: Path) -> None:
    make(tmp_path, lines("{n}.png,{label},0.9,", "path,label,probability,error"), name="predictions.csv")
    for label in ("ant", "bee"):
        write_image(tmp_path / "images" / label / "x.png", size=(2, 2))
    assert scan(tmp_path).table == ""


def test_a_table_in_another_encoding_is_read(tmp_path: Path) -> None:
    make(tmp_path, "")
    (tmp_path / "labels.csv").write_bytes(lines("{n}.png,{label}").replace("ant", "Käfer").encode("cp1252"))
    assert "Käfer" in classes_in(tmp_path)
    (tmp_path / "labels.csv").write_bytes(lines("{n}.png,{label}").encode("utf-8-sig"))
    assert classes_in(tmp_path) == TWO
