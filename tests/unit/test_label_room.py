"""The parts of `otx label` without a page: names, the journal, its history, suggestions, and where files go."""

from __future__ import annotations

import csv
import errno
import os
import shutil
import webbrowser
from http.client import HTTPConnection, RemoteDisconnected
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from images import write_classes, write_folders, write_image
from otx import Engine, browser
from otx.cli import main
from otx.data.journal import COLUMNS, JOURNAL, Row, is_journal, read_journal, write_journal
from otx.data.load import load_dataset
from otx.errors import StorageError, UsageError
from otx.label import apply, place
from otx.label.board import Board
from otx.label.features import THUMBNAILS, FeatureCache, FeatureTable, fill
from otx.label.groups import alike_groups, cluster, suggested_groups
from otx.label.names import clean_name
from otx.label.photos import find_photos
from otx.label.pictures import picture
from otx.label.place import locked
from otx.label.suggest import cross_validate, labels_more
from otx.local_server import READ, Asked, PageServer, Reply, Route, take_port
from otx.verbs.label import serve
from otx.verbs.label_work import make_source
from otx.verbs.session import Session

TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="[]+"), max_size=12)
ROWS = st.builds(
    Row, TEXT.map(str.strip), st.sampled_from(["", "train", "test"]), TEXT.map(str.strip),
    st.lists(st.sampled_from(["copies", "odd", "two labels"]), unique=True).map(tuple),
)  # fmt: skip


@given(st.dictionaries(TEXT.filter(bool), ROWS, max_size=5))
def test_a_journal_is_read_as_it_was_written(tmp_path_factory: pytest.TempPathFactory, rows: dict[str, Row]) -> None:
    path = tmp_path_factory.mktemp("journal") / JOURNAL
    write_journal(path, rows)
    assert is_journal(path)
    assert read_journal(path) == rows


@pytest.mark.parametrize("label", ["rose", "rose [red]", "[x]", ""])
@pytest.mark.parametrize("reason", ["blurred", "copy of a/photo [2].png", "[2]"])
def test_a_label_with_brackets_is_kept_for_a_photo_that_is_left_out(label: str, reason: str) -> None:
    row = Row(label, left_out=reason)
    assert Row.of_cells(*row.to_cells()) == row


def test_a_training_reads_the_journal_even_beside_class_folders(tmp_path: Path) -> None:
    write_folders(tmp_path, {"a": 10, "b": 10})
    rows = {f"{name}/{number}.png": Row(name) for name in "ab" for number in range(10)}
    write_journal(tmp_path / JOURNAL, {**rows, "a/0.png": Row("b"), "a/1.png": Row("a", left_out="copy of a/2.png")})
    dataset = load_dataset(tmp_path)
    labels = {
        path: dataset.classes[label]
        for part in dataset.parts.values()
        for path, label in zip(part.paths, part.labels, strict=True)
    }
    assert (labels["a/0.png"], "a/1.png" in labels, len(labels)) == ("b", False, 19)


def test_a_photo_that_was_added_later_has_no_split_and_the_others_keep_theirs(tmp_path: Path) -> None:
    write_folders(tmp_path, {"a": 12, "b": 12})
    splits = ["train"] * 6 + ["val"] * 2 + ["test"] * 2
    rows = {f"{name}/{number}.png": Row(name, split) for name in "ab" for number, split in enumerate(splits)}
    write_journal(
        tmp_path / JOURNAL, {**rows, "a/10.png": Row("a"), "b/10.png": Row("b"), "b/11.png": Row(left_out="x")}
    )
    dataset = load_dataset(tmp_path)
    assert set(dataset.test.paths) == {f"{name}/{number}.png" for name in "ab" for number in (8, 9)}
    assert "a/10.png" in dataset.train.paths
    assert len(dataset.train) == 14


@pytest.mark.parametrize(
    ("name", "reason"),
    [("", "needs a name"), ("a/b", "cannot hold '/'"), ("..", "cannot be called"), ("x" * 81, "80 characters"),
     ("train", "cannot be called 'train'"), ("a\0", "cannot hold")],
)  # fmt: skip
def test_names_that_no_folder_can_have_are_refused(name: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        clean_name(name)


def test_a_name_that_differs_only_in_case_is_the_known_class() -> None:
    assert clean_name(" Red  Rose ", ["red rose"]) == "red rose"


def test_undo_goes_back_to_the_beginning_in_another_process_too(tmp_path: Path) -> None:
    write_folders(tmp_path, {"": 5})
    with locked(tmp_path) as place:
        board = Board(find_photos(tmp_path), place)
        for number in range(5):
            board.decide(f"step {number}", {number: Row("red"), 0: Row(f"class {number}")})
        board.undo()
    with (tmp_path / ".label" / "history.jsonl").open("a") as file:
        file.write('{"what": "cut o')
    with locked(tmp_path) as place:
        board = Board(find_photos(tmp_path), place)
        assert [board.undo()[0] for _ in range(5)] == ["step 3", "step 2", "step 1", "step 0", ""]
        assert read_journal(tmp_path / JOURNAL) == {}


def test_a_table_of_another_program_keeps_its_content_under_another_name(tmp_path: Path) -> None:
    write_folders(tmp_path, {"": 6})
    table = "file,species\n" + "".join(f"{number}.png,{'ab'[number % 2]}\n" for number in range(6))
    (tmp_path / JOURNAL).write_text(table)
    with locked(tmp_path) as place:
        board = Board(find_photos(tmp_path), place)
        assert board.row(1).label == "b"
        board.decide("c", {1: Row("c")})
    assert (tmp_path / "labels-before-1.csv").read_text() == table
    assert {path: row.label for path, row in read_journal(tmp_path / JOURNAL).items()}["1.png"] == "c"
    assert len(find_photos(tmp_path).rows) == 6


def test_folders_of_a_camera_are_no_classes(tmp_path: Path) -> None:
    write_folders(tmp_path, {"2024-05-01": 2, "2024-05-02": 2, "roses": 3})
    rows = find_photos(tmp_path).rows
    assert {row.label for row in rows.values()} == {"roses"}
    assert len(rows) == 3


def apply_to(root: Path, how: str, **options: object) -> list[tuple[str, str]]:
    table = Engine().label(data_root=root, apply=how, **options)  # type: ignore[arg-type]
    return [(move.source, move.target) for move in table.moves]


@pytest.fixture
def decided(tmp_path: Path) -> Path:
    """Two folders with photos of the same names, labelled; one of them is left out."""
    root = tmp_path / "photos"
    for folder, grey in (("2024-01-01", 10), ("2024-01-02", 200)):
        for number in range(2):
            write_image(root / folder / f"{number}.png", (grey, grey, number))
    write_journal(
        root / JOURNAL,
        {
            "2024-01-01/0.png": Row("rose"),
            "2024-01-02/0.png": Row("rose"),
            "2024-01-01/1.png": Row("tulip"),
            "2024-01-02/1.png": Row("tulip", left_out="not wanted"),
        },
    )
    return root


def contents(root: Path) -> list[bytes]:
    return sorted(file.read_bytes() for file in root.rglob("*.png"))


def test_names_that_collide_get_a_number_and_nothing_is_overwritten(decided: Path) -> None:
    before = contents(decided)
    write_image(decided / "rose" / "0.png", (1, 2, 3))
    assert apply_to(decided, "move") == [
        ("2024-01-01/0.png", "rose/0-2.png"),
        ("2024-01-01/1.png", "tulip/1.png"),
        ("2024-01-02/0.png", "rose/0-3.png"),
        ("2024-01-02/1.png", "left_out/1.png"),
    ]
    assert set(before) < set(contents(decided))
    assert {path: row.label for path, row in read_journal(decided / JOURNAL).items()}["rose/0-3.png"] == "rose"
    assert apply_to(decided, "move") == []


def test_undo_puts_every_file_back(decided: Path) -> None:
    before = {file.relative_to(decided): file.read_bytes() for file in decided.rglob("*.png")}
    rows = read_journal(decided / JOURNAL)
    apply_to(decided, "move")
    assert apply_to(decided, "undo", dry_run=True)
    apply_to(decided, "undo")
    assert {file.relative_to(decided): file.read_bytes() for file in decided.rglob("*.png")} == before
    assert read_journal(decided / JOURNAL) == rows
    assert not (decided / "rose").exists()


@pytest.mark.parametrize("how", ["copy", "link"])
def test_copies_and_links_lie_in_a_folder_that_trains(how: str, decided: Path) -> None:
    apply_to(decided, how)
    made = {file.relative_to(decided).as_posix() for file in (decided / "sorted").rglob("*.png")}
    assert made == {"sorted/rose/0.png", "sorted/rose/0-2.png", "sorted/tulip/1.png"}
    assert all((decided / name).is_symlink() == (how == "link") for name in made)
    assert len(find_photos(decided).paths) == 4, "what otx made is no photo of the pile"
    assert apply_to(decided, how)[0][1] == "sorted/rose/0-3.png"
    apply_to(decided, "undo")
    apply_to(decided, "undo")
    assert not (decided / "sorted").exists()


def test_a_table_for_other_programs_is_never_written_over(decided: Path) -> None:
    apply_to(decided, "table")
    with (decided / "sorted.csv").open() as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["path", "label"]
    assert ["2024-01-01/1.png", "tulip"] in rows
    assert len(rows) == 4
    with pytest.raises(UsageError, match=r"sorted\.csv is there already"):
        apply_to(decided, "table")


def test_a_move_that_was_killed_is_found_again(decided: Path) -> None:
    before = contents(decided)
    journal = (decided / JOURNAL).read_text()
    apply_to(decided, "move")
    # as if the process had been killed before it wrote the new paths, and before it removed an old name
    (decided / JOURNAL).write_text(journal)
    os.link(decided / "rose" / "0.png", decided / "2024-01-01" / "0.png")
    assert apply_to(decided, "move") == []
    assert contents(decided) == before
    assert set(read_journal(decided / JOURNAL)) == {"rose/0.png", "rose/0-2.png", "tulip/1.png", "left_out/1.png"}


def test_features_are_kept_by_content_and_a_renamed_photo_is_not_computed_again(tmp_path: Path) -> None:
    root = write_classes(tmp_path / "photos", {"a": 6})
    computed: list[int] = []

    def compute(images: list[np.ndarray]) -> np.ndarray:
        computed.append(len(images))
        return THUMBNAILS.compute(images)

    source = type(THUMBNAILS)("test", "test", compute, THUMBNAILS.shrink)  # type: ignore[arg-type]
    for _ in range(2):
        paths = sorted(str(file.relative_to(root)) for file in root.rglob("*.png"))
        table = FeatureTable(len(paths))
        list(fill(table, root, paths, FeatureCache(tmp_path / "features.sqlite", "test"), source))
        assert table.done == 6
        shutil.move(root / "a" / "000.png", root / "renamed.png") if (root / "a" / "000.png").exists() else None
    assert sum(computed) == 6


def test_groups_are_of_one_colour_and_suggestions_come_surest_first(tmp_path: Path) -> None:
    root = write_classes(tmp_path, {"blue": 30, "green": 30, "red": 30})
    paths = sorted(str(file.relative_to(root)) for file in root.rglob("*.png"))
    table = FeatureTable(90)
    list(fill(table, root, paths, FeatureCache(tmp_path / "f.sqlite", "t"), THUMBNAILS))
    assert table.rows is not None
    left = np.ones(90, bool)
    groups = alike_groups(cluster(table.rows, table.ready), left)
    assert all(len({paths[number].partition("/")[0] for number in group.numbers}) == 1 for group in groups)
    confidence = np.linspace(0.7, 1, 90).astype(np.float32)
    suggested = suggested_groups(np.repeat([0, 1], 45), confidence, left)
    assert [group.label for group in suggested[:2]] == [1, 1]
    assert suggested[0].numbers[0] == 89


def test_accuracy_is_cross_validated_and_says_how_many_labels_more_would_help() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), 20)
    features = (4 * np.eye(3)[labels] + rng.normal(0, 2.5, (60, 3))).astype(np.float32)
    found = cross_validate(features, labels)
    assert found is not None
    assert 0.4 < found.low < found.right / found.total < found.high <= 1
    assert cross_validate(features[:4], labels[:4]) is None
    assert labels_more(100, 40, 20) == 34
    assert labels_more(100, 20, 20) is None


def test_a_picture_is_turned_as_the_camera_was(tmp_path: Path) -> None:
    import io

    from PIL import Image

    turned = Image.Exif()
    turned[0x0112] = 6
    Image.new("RGB", (400, 100)).save(tmp_path / "photo.jpg", exif=turned)
    with Image.open(io.BytesIO(picture(tmp_path / "photo.jpg", 320, THUMBNAILS.reading))) as image:
        assert image.size == (80, 320)


def test_the_columns_are_those_of_a_table_of_labels() -> None:
    assert COLUMNS[:3] == ("path", "label", "split")


def test_a_move_keeps_a_table_of_another_program(tmp_path: Path) -> None:
    write_folders(tmp_path, {"": 4})
    table = "path,label,photographer\n" + "".join(f"{number}.png,{'ab'[number % 2]},Ann\n" for number in range(4))
    (tmp_path / JOURNAL).write_text(table)
    assert len(apply_to(tmp_path, "move")) == 4
    assert (tmp_path / "labels-before-1.csv").read_text() == table


def test_the_row_of_a_photo_that_is_gone_labels_no_other(tmp_path: Path) -> None:
    write_folders(tmp_path, {"": 2})
    write_journal(tmp_path / JOURNAL, {"0.png": Row("cat"), "cat/0.png": Row("dog"), "1.png": Row("cat")})
    assert apply_to(tmp_path, "move") == [("0.png", "cat/0-2.png"), ("1.png", "cat/1.png")]
    assert read_journal(tmp_path / JOURNAL)["cat/0-2.png"] == Row("cat")


@pytest.mark.parametrize("how", ["copy", "link"])
def test_copies_of_a_folder_behind_a_link_lie_where_they_were_asked_for(how: str, decided: Path) -> None:
    behind = decided.parent / "deep" / "er" / "photos"
    behind.parent.mkdir(parents=True)
    decided.rename(behind)
    decided.symlink_to(behind, target_is_directory=True)
    apply_to(decided, how, output=decided.parent / "out")
    made = {file.relative_to(decided.parent / "out").as_posix() for file in (decided.parent / "out").rglob("*.png")}
    assert made == {"rose/0.png", "rose/0-2.png", "tulip/1.png"}
    assert all(file.is_file() for file in (decided.parent / "out").rglob("*.png"))
    apply_to(decided, "undo")
    assert not (decided.parent / "out").exists()


def test_copies_do_not_lie_among_the_photos(decided: Path) -> None:
    for folder in (decided, decided / "2024-01-02"):
        with pytest.raises(UsageError, match=f"copies in {folder} would lie among the photos"):
            apply_to(decided, "copy", output=folder)
    assert len(find_photos(decided).paths) == 4


def test_links_lead_to_the_same_photo_after_a_move_and_after_its_undo(decided: Path, tmp_path: Path) -> None:
    root = tmp_path / "links"
    root.mkdir()
    for number in range(2):
        (root / f"{number}.png").symlink_to(f"../photos/2024-01-01/{number}.png")
    write_journal(root / JOURNAL, {"0.png": Row("rose"), "1.png": Row("tulip")})
    apply_to(root, "move")
    assert (root / "rose" / "0.png").resolve() == decided / "2024-01-01" / "0.png"
    apply_to(root, "undo")
    assert (root / "0.png").readlink() == Path("../photos/2024-01-01/0.png")


def test_an_undo_that_was_cut_off_loses_no_label_and_goes_on(decided: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, move_file = read_journal(decided / JOURNAL), apply.move_file
    apply_to(decided, "move")

    def fails(source: Path, target: Path) -> None:
        if source.name == "1.png":
            raise UsageError("the disk says no")
        move_file(source, target)

    monkeypatch.setattr(apply, "move_file", fails)
    with pytest.raises(UsageError, match="the disk says no"):
        apply_to(decided, "undo")
    assert read_journal(decided / JOURNAL)["2024-01-01/0.png"] == Row("rose")
    monkeypatch.undo()
    apply_to(decided, "undo")
    assert read_journal(decided / JOURNAL) == rows


@pytest.mark.parametrize("row", [Row("../../out"), Row("rose/red"), Row(".rose"), Row("Train"), Row("rose", "../x")])
@pytest.mark.parametrize("how", ["move", "copy"])
def test_no_photo_goes_where_a_table_must_not_send_it(row: Row, how: str, decided: Path) -> None:
    write_journal(decided / JOURNAL, {"2024-01-01/0.png": row})
    with pytest.raises(UsageError, match="no folder of photos can be called"):
        apply_to(decided, how)


def test_a_file_that_comes_meanwhile_is_not_replaced(decided: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = decided / "2024-01-01" / "0.png", decided / "2024-01-02" / "0.png"
    before = contents(decided)
    monkeypatch.setattr(os.path, "lexists", lambda _: False)
    with pytest.raises(UsageError, match="File exists"):
        apply.move_file(first, second)
    assert contents(decided) == before


def test_a_folder_for_copies_is_not_ignored_without_apply(decided: Path) -> None:
    with pytest.raises(UsageError, match="--output x is for --apply copy, link or table"):
        Engine().label(data_root=decided, output="x")


def test_what_cannot_be_taken_back_now_can_be_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folders(tmp_path, {"": 2})
    with locked(tmp_path) as place_:
        board = Board(find_photos(tmp_path), place_)
        for number in range(2):
            board.decide(f"step {number}", {number: Row("red")})

        def full(*_: object) -> None:
            raise StorageError("the disk is full")

        monkeypatch.setattr(place, "write_journal", full)
        with pytest.raises(StorageError, match="full"):
            board.undo()
        monkeypatch.undo()
        assert [board.undo()[0] for _ in range(3)] == ["step 1", "step 0", ""]


def test_a_history_on_a_full_disk_is_an_error_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folders(tmp_path, {"": 2})
    with locked(tmp_path) as place_:
        board = Board(find_photos(tmp_path), place_)
        board.decide("one", {0: Row("red")})

        def full(_: int) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(StorageError, match=r"history.jsonl: No space"):
            board.decide("two", {1: Row("blue")})
        monkeypatch.undo()
        board.decide("three", {1: Row("blue")})
        assert [change for change, _ in place.History(place_ / "history.jsonl")._changes] == ["one", "three"]


def test_features_of_photos_that_were_read_otherwise_are_not_taken(tmp_path: Path) -> None:
    settings = ({}, {"data.bands": (3, 2, 1)}, {"data.intensity": (0, 4095)})
    keys = {make_source(session_of(each), None, tmp_path).key for each in settings}
    assert len(keys) == 3


def session_of(settings: dict[str, object]) -> Session:
    return Engine(overrides={"model.pretrained": False, **settings})._session()


def test_who_stops_reading_a_page_costs_no_line_and_no_second_answer(caplog: pytest.LogCaptureFixture) -> None:
    def late(_: Asked) -> Reply:
        raise TimeoutError("timed out")

    site = SimpleNamespace(name="page", page=b"", images="", busy="", route=lambda _: Route(READ, late))
    with PageServer(site, take_port(0)) as server:
        connection = HTTPConnection(server.url.split("/")[2], timeout=5)
        connection.request("GET", "/")
        with pytest.raises(RemoteDisconnected):
            connection.getresponse()
    assert [each for each in caplog.records if each.levelname == "ERROR"] == []


@pytest.mark.parametrize(("system", "shown"), [("linux", False), ("darwin", True), ("win32", True)])
def test_a_page_is_shown_where_there_is_a_desktop(system: str, shown: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    monkeypatch.setattr(browser.sys, "platform", system)  # type: ignore[attr-defined]
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    browser.open_in_browser("http://127.0.0.1/")
    assert bool(opened) is shown


def test_the_commands_on_the_page_can_be_copied(decided: Path) -> None:
    folder = decided.rename(decided.with_name("my photos"))
    with serve(session_of({}), folder, None) as page:
        assert page.site.state()["quoted"] == f"'{folder}'"


def test_photos_that_are_gone_are_neither_counted_nor_listed(decided: Path, tmp_path: Path) -> None:
    (decided / "2024-01-01" / "1.png").unlink()
    table = Engine().label(data_root=decided, apply="table", output=tmp_path / "out.csv")
    assert (table.num_photos, table.counts()) == (3, {"rose": 2})
    assert "2024-01-01/1.png" not in (tmp_path / "out.csv").read_text()
    assert "2024-01-01/1.png" in read_journal(decided / JOURNAL)


@pytest.mark.parametrize(("how", "said"), [("move", "4 files put back."), ("copy", "3 files removed.")])
def test_what_an_undo_did_is_said(how: str, said: str, decided: Path, capsys: pytest.CaptureFixture[str]) -> None:
    apply_to(decided, how)
    assert main(["label", str(decided), "--apply", "undo"]) == 0
    assert said in capsys.readouterr().out
