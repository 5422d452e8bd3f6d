"""`otx label`: photos are labelled and mended on a page, decisions survive anything, and files move only when asked."""

from __future__ import annotations

import http.client
import json
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from browser import (
    AXE,
    CHROMEDRIVER,
    CHROMIUM,
    NO_AXE,
    NO_BROWSER,
    SCHEMES,
    chromium,
    console_errors,
    grave_faults,
    show_as,
)
from conftest import SMALL
from images import write_classes, write_image
from label_page import (
    THUMBNAILS,
    ask,
    label_some,
    labelled,
    open_page,
    page_of,
    press,
    process_of,
    state_of,
    until,
    wait,
)
from otx import Engine
from otx.cli import main
from otx.data.journal import JOURNAL, Row, read_journal, write_journal
from otx.errors import UsageError
from otx.local_server import HEADERS
from otx.verbs.label import LabelPage

COLOURS = ("blue", "green", "red")
needs_chromium = pytest.mark.skipif(not (CHROMIUM and CHROMEDRIVER), reason=NO_BROWSER)


@pytest.fixture
def pile(tmp_path: Path) -> Path:
    """Ninety photos of three colours in one folder, in no order; the name of each says its colour at its end."""
    source = write_classes(tmp_path / "source", dict.fromkeys(COLOURS, 30))
    files = sorted(source.glob("*/*"))
    random.Random(0).shuffle(files)
    pile = tmp_path / "pile"
    pile.mkdir()
    for number, file in enumerate(files):
        shutil.copy(file, pile / f"IMG_{number:03}_{file.parent.name}.png")
    return pile


@needs_chromium
def test_sixty_photos_by_keyboard_with_undo_a_reload_and_a_kill(pile: Path) -> None:
    with chromium() as browser:
        with process_of(pile) as (process, url):
            open_page(browser, url)
            press(browser, "o")
            label_some(browser, 30)
            wait(browser, lambda _: labelled(browser) == 30)
            for _ in range(5):
                press(browser, Keys.BACKSPACE)
            wait(browser, lambda _: labelled(browser) == 25)
            open_page(browser, url)
            assert labelled(browser) == 25
            press(browser, Keys.BACKSPACE)
            wait(browser, lambda _: labelled(browser) == 24)
            assert console_errors(browser) == []
            process.send_signal(signal.SIGKILL)
            process.wait()
        with process_of(pile) as (_, url):
            open_page(browser, url)
            console_errors(browser)  # of the page whose server was killed
            assert labelled(browser) == 24
            press(browser, "o")
            label_some(browser, 36)
            wait(browser, lambda _: labelled(browser) == 60)
            assert console_errors(browser) == []
    rows = read_journal(pile / JOURNAL)
    assert len(rows) == 60
    assert all(path.removesuffix(".png").endswith(row.label) for path, row in rows.items())
    assert len(list(pile.glob("*.png"))) == 90, "no photo was moved"


@needs_chromium
def test_groups_are_named_and_what_does_not_belong_is_taken_out(pile: Path) -> None:
    with page_of(pile) as page, chromium() as browser:
        until(page, lambda state: not state["progress"]["what"])
        open_page(browser, page.url)
        wait(browser, lambda _: browser.find_elements(By.CSS_SELECTOR, ".tile.in"))
        tiles = browser.find_elements(By.CSS_SELECTOR, ".tile.in")
        press(browser, Keys.ESCAPE, Keys.ARROW_RIGHT, " ")
        assert len(browser.find_elements(By.CSS_SELECTOR, ".tile.out")) == 1
        press(browser, "n", "something", Keys.ENTER)
        wait(browser, lambda _: labelled(browser) == len(tiles) - 1)
        press(browser, Keys.BACKSPACE)
        wait(browser, lambda _: labelled(browser) == 0)
        assert console_errors(browser) == []


def test_after_a_few_labels_the_rest_is_suggested_and_their_accuracy_is_known(pile: Path) -> None:
    with page_of(pile) as page:
        until(page, lambda state: not state["progress"]["what"])
        for number, path in enumerate(page.board.photos.paths[:30]):
            colour = path.removesuffix(".png").rpartition("_")[2]
            assert ask(page, "POST", "/decide", {"action": "label", "ids": [number], "label": colour})[0] == 200
        state = until(page, lambda state: state["accuracy"] and state["accuracy"]["total"] == 30)
        group = json.loads(ask(page, "GET", "/group")[2])
    assert state["accuracy"]["low"] > 0.8
    assert group["label"] in COLOURS
    right = [photo["path"].removesuffix(".png").endswith(group["label"]) for photo in group["photos"]]
    assert len(right) > 10
    assert all(right)


def planted(root: Path) -> tuple[Path, list[str], list[str]]:
    """A data set with split folders; ten of its photos are in the wrong folder, five are in train and in test."""
    source = write_classes(root / "source", dict.fromkeys(COLOURS, 40), size=(48, 48))
    folder = root / "data"
    for colour in COLOURS:
        for number, file in enumerate(sorted((source / colour).iterdir())):
            split = "train" if number < 28 else "val" if number < 34 else "test"
            (folder / split / colour).mkdir(parents=True, exist_ok=True)
            shutil.copy(file, folder / split / colour / f"{colour}_{number}.png")
    rng = random.Random(0)
    images = sorted(folder.glob("train/*/*"))
    wrong = [
        file.rename(folder / "train" / rng.choice([each for each in COLOURS if each != file.parent.name]) / file.name)
        for file in rng.sample(images, 10)
    ]
    rest = [file for file in images if file.exists()]
    leaks = [
        Path(shutil.copy(file, folder / "test" / file.parent.name / f"copy_{file.name}"))
        for file in rng.sample(rest, 5)
    ]
    return folder, [str(file.relative_to(folder)) for file in wrong], [str(file.relative_to(folder)) for file in leaks]


def wrong_in(page: LabelPage, paths: list[str]) -> list[str]:
    """Which of the photos do not have the label that their names say."""
    return [path for path in paths if not Path(path).name.startswith(page.board.rows[path].label)]


@needs_chromium
def test_wrong_labels_and_leaks_are_mended_applied_and_trained_and_the_check_is_silent(tmp_path: Path) -> None:
    folder, wrong, leaks = planted(tmp_path)
    before = {file.read_bytes() for file in folder.rglob("*.png")}
    engine = Engine(folder, model="timm/resnet10t", work_dir=tmp_path / "ws", overrides={**SMALL, "max_epochs": 1})
    assert len(engine.check().leaks) == 5
    with page_of(folder) as page, chromium() as browser:
        until(page, lambda state: state["review"] is not None and not state["progress"]["what"])
        open_page(browser, page.url)
        while (left := state_of(page)["review"]) or wrong_in(page, wrong):
            press(browser, Keys.ENTER if left else "l")  # the first button, or "Look once more"
            wait(browser, lambda body: int(body.get_attribute("data-review")) != left)
        assert console_errors(browser) == []
    rows = read_journal(folder / JOURNAL)
    assert sum(row.left_out.startswith("copy of") for row in rows.values()) == 5
    table = engine.label(data_root=folder, apply="move")
    assert len(table.moves) == 15
    assert {file.read_bytes() for file in folder.rglob("*.png")} == before
    result = engine.train()
    found = Engine(folder, checkpoint=result.model_path, work_dir=tmp_path / "ws").check()
    assert found.leaks == ()
    assert [
        each.path for each in found.mislabelled or () if Path(each.path).name in {Path(w).name for w in wrong}
    ] == []
    assert {Path(path).name for path in leaks} & {path.name for path in folder.glob("train/*/*")} == set()


def test_what_is_confirmed_is_not_asked_again(tmp_path: Path) -> None:
    folder = write_classes(tmp_path / "data", dict.fromkeys(COLOURS, 12))
    shutil.copy(folder / "red" / "000.png", folder / "red" / "again.png")
    engine = Engine(folder, work_dir=tmp_path / "ws", overrides=THUMBNAILS)
    assert len(engine.check().copies) == 1
    with page_of(folder) as page:
        until(page, lambda state: state["review"])
        card = json.loads(ask(page, "GET", "/review")[2])["card"]
        ask(page, "POST", "/decide", {"action": "confirm", "ids": card["numbers"], "kind": card["kind"]})
        assert state_of(page)["review"] == 0
    with page_of(folder) as page:
        assert until(page, lambda state: state["review"] is not None)["review"] == 0
    assert engine.check().copies == ()


def test_copies_and_broken_photos_without_a_label_are_found_once_others_have_one(pile: Path) -> None:
    images = sorted(pile.glob("*.png"))
    shutil.copy(images[80], pile / "IMG_990_again.png")
    shutil.copy(images[0], pile / "IMG_991_again.png")
    (pile / "IMG_992_broken.png").write_bytes(b"no image")
    rows = {file.name: Row(file.stem.rpartition("_")[2]) for file in images[:60]}
    write_journal(pile / JOURNAL, rows)
    with page_of(pile) as page:
        until(page, lambda state: state["review"] is not None and not state["progress"]["what"])
        cards = [json.loads(ask(page, "GET", f"/review?skip={number}")[2])["card"] for number in range(3)]
    found = {(card["kind"], frozenset(photo["path"] for photo in card["photos"])) for card in cards}
    assert found == {
        ("broken", frozenset({"IMG_992_broken.png"})),
        ("copies", frozenset({images[80].name, "IMG_990_again.png"})),
        ("copies", frozenset({images[0].name, "IMG_991_again.png"})),
    }


def test_a_leak_in_class_folders_is_put_into_one_split(tmp_path: Path) -> None:
    folder = write_classes(tmp_path / "data", dict.fromkeys(COLOURS, 20))
    for number in range(6):
        shutil.copy(folder / "red" / f"{number:03}.png", folder / "red" / f"copy{number}.png")
    engine = Engine(folder, work_dir=tmp_path / "ws", overrides=THUMBNAILS)
    assert engine.check().leaks
    with page_of(folder) as page:
        until(page, lambda state: state["review"])
        while (card := json.loads(ask(page, "GET", "/review")[2])["card"]) is not None:
            action = {"action": "split", "split": "train"} if card["kind"] == "leak" else {"action": "confirm"}
            assert ask(page, "POST", "/decide", {"ids": card["numbers"], "kind": card["kind"], **action})[0] == 200
    found = engine.check()
    assert (found.leaks, found.copies, found.layout) == ((), (), f"table {JOURNAL}")


def test_a_second_page_on_the_folder_is_refused(pile: Path) -> None:
    with page_of(pile), pytest.raises(UsageError, match=f"{pile} is being labelled already: process"), page_of(pile):
        pass
    with page_of(pile):
        pass


@pytest.mark.parametrize(
    ("token", "headers", "status"),
    [
        ("", {}, 404),
        ("wrong", {}, 404),
        (None, {"Host": "evil.example"}, 403),
        (None, {"Origin": "http://evil.example"}, 403),
        (None, {"Sec-Fetch-Site": "cross-site"}, 403),
    ],
)
def test_who_does_not_know_the_address_or_comes_from_another_site_is_refused(
    token: str | None, headers: dict[str, str], status: int, pile: Path
) -> None:
    with page_of(pile) as page:
        decision = {"action": "label", "ids": [0], "label": "red"}
        assert ask(page, "POST", "/decide", decision, token=token, **headers)[0] == status
        assert not (pile / JOURNAL).exists()


def test_the_page_refers_to_nothing_elsewhere(pile: Path) -> None:
    with page_of(pile) as page:
        status, headers, body = ask(page, "GET", "/")
        picture = ask(page, "GET", "/thumb/0")
    assert status == 200
    assert set(re.findall(r"(?:https?:)?//[\w.]+", body.decode())) == {"http://www.w3.org"}, "a name, not an address"
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert "unsafe" not in headers["Content-Security-Policy"]
    assert (picture[0], picture[1]["Content-Type"]) == (200, "image/jpeg")
    assert picture[1]["X-Content-Type-Options"] == HEADERS["X-Content-Type-Options"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 200) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=8,
)
IDS = st.lists(st.integers(0, 89), min_size=1, max_size=4)
DECISIONS = st.fixed_dictionaries(
    {
        "action": st.sampled_from(["label", "label", "leave_out", "confirm", "keep_one", "split", "x", 3]),
        "ids": IDS | IDS | st.lists(st.integers(-3, 100), max_size=4) | JSON,
        "label": st.sampled_from(["red", "../x", "", "a,b", "=1+1"]) | st.text(max_size=90) | JSON,
        "kind": st.sampled_from(["leak", "mislabelled", "odd", "?"]) | JSON,
    },
    optional={
        "keep": st.integers(-2, 100) | JSON,
        "split": st.sampled_from(["train", "test", "../x"]) | JSON,
        "why": st.text(max_size=250) | JSON,
    },
)
VALID = st.fixed_dictionaries(
    {"action": st.sampled_from(["label", "leave_out"]), "ids": IDS, "label": st.sampled_from(["red", "a,b", ""])}
)
PATHS = ["/decide", "/decide", "/decide", "/undo", "/look", "/thumb/99999", "/photo/..", "/list?of=x&count=-1"]


def test_whatever_is_asked_the_page_answers_and_no_file_is_harmed(pile: Path) -> None:
    before, answers = {file.name: file.read_bytes() for file in pile.glob("*.png")}, []
    with page_of(pile) as page:

        @settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
        @given(
            path=st.sampled_from(PATHS),
            body=DECISIONS.map(json.dumps).map(str.encode)
            | st.binary(max_size=40)
            | JSON.map(json.dumps).map(str.encode),
        )
        def check(path: str, body: bytes) -> None:
            status, _, answer = ask(page, "POST", path, body)
            answers.append((path, status))
            assert status in (200, 404, 405, 422)
            assert isinstance(json.loads(answer), dict)

        check()
        ask(page, "POST", "/decide", {"action": "label", "ids": [0], "label": "red"})
        rows = page.board.rows
    assert {file.name: file.read_bytes() for file in pile.glob("*.png")} == before
    assert read_journal(pile / JOURNAL) == rows
    assert answers.count(("/decide", 200)) > 10
    assert answers.count(("/decide", 422)) > 20
    assert {each.name for each in pile.iterdir()} == {*before, JOURNAL, ".label"}


DECIDING = """
import sys
from pathlib import Path
from otx.data.journal import Row
from otx.label.board import Board
from otx.label.photos import find_photos
from otx.label.place import locked
root = Path(sys.argv[1])
with locked(root) as place:
    board = Board(find_photos(root), place)
    number = int(sys.argv[2])
    while True:
        board.decide("a", {number % 90: Row(f"class {number}")})
        print(number, flush=True)
        number += 1
"""


def test_fifty_kills_while_deciding_lose_no_decision_and_harm_no_file(pile: Path) -> None:
    before = {file.name: file.read_bytes() for file in pile.glob("*.png")}
    rng, done, decided = random.Random(0), 0, {}
    for _ in range(50):
        command = [sys.executable, "-c", DECIDING, str(pile), str(done)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            line = process.stdout.readline()
            time.sleep(rng.uniform(0, 0.05))
            process.kill()
            said = [
                int(each) for each in (line + process.stdout.read()).splitlines(keepends=True) if each.endswith("\n")
            ]
        decided |= {number % 90: number for number in said}
        rows = read_journal(pile / JOURNAL)
        paths = sorted(before)
        for place, number in decided.items():
            # the one that was cut off may have been written without being told
            assert rows[paths[place]].label in (f"class {number}", f"class {max(said) + 1}")
        done = max(said) + 1
    assert {file.name: file.read_bytes() for file in pile.glob("*.png")} == before


def test_the_command_says_what_is_labelled_and_what_comes_next(pile: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with page_of(pile) as page:
        for number, path in enumerate(page.board.photos.paths):
            colour = path.removesuffix(".png").rpartition("_")[2]
            ask(page, "POST", "/decide", {"action": "label", "ids": [number], "label": colour})
    assert main(["label", str(pile), "--apply", "move", "--dry_run", "true"]) == 0
    assert "Dry run: 90 files would be moved; nothing was done." in capsys.readouterr().out
    assert len(list(pile.glob("*.png"))) == 90
    assert main(["label", str(pile), "--apply", "move"]) == 0
    assert f"To take it back: otx label {pile.resolve()} --apply undo" in capsys.readouterr().out
    assert {colour: len(list((pile / colour).iterdir())) for colour in COLOURS} == dict.fromkeys(COLOURS, 30)
    assert main(["label", str(pile), "--apply", "undo"]) == 0
    assert len(list(pile.glob("*.png"))) == 90
    assert main(["label", str(pile), "--apply", "undo"]) == 2


def test_a_training_reads_the_table(pile: Path, tmp_path: Path) -> None:
    with page_of(pile) as page:
        for number, path in enumerate(page.board.photos.paths[:60]):
            colour = path.removesuffix(".png").rpartition("_")[2]
            ask(page, "POST", "/decide", {"action": "label", "ids": [number], "label": colour})
        table = page.table()
    assert (sum(table.counts().values()), table.num_photos) == (60, 90)
    changes = {**SMALL, "max_epochs": 1}
    result = Engine(pile, model="timm/resnet10t", work_dir=tmp_path / "ws", overrides=changes).train()
    split = (result.run_dir / "split.csv").read_text().splitlines()[1:]
    assert len(split) == 60


def test_the_done_button_ends_the_call_with_the_table(pile: Path) -> None:
    with process_of(pile) as (process, url):
        host, token = url.removeprefix("http://").split("/")[:2]
        with closing(http.client.HTTPConnection(host, timeout=20)) as connection:
            connection.request("POST", f"/{token}/done", b"{}")
            assert connection.getresponse().status == 200
        assert process.stdout is not None
        said = process.stdout.read()
        assert process.wait(timeout=30) == 0
    assert "0 of 90 photos are labelled" in said


def test_a_folder_without_photos_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no photo")
    with pytest.raises(Exception, match="holds no photos"), page_of(tmp_path):
        pass


def test_a_broken_photo_is_said_to_be_one(pile: Path) -> None:
    (pile / "AAA.png").write_bytes(b"no image")
    write_image(pile / "AAB.png")
    with page_of(pile) as page:
        until(page, lambda state: state["review"])
        assert ask(page, "GET", "/thumb/0")[0] == 422
        card = json.loads(ask(page, "GET", "/review")[2])["card"]
    assert (card["kind"], card["photos"][0]["path"]) == ("broken", "AAA.png")


@needs_chromium
@pytest.mark.skipif(not AXE.is_file(), reason=NO_AXE)
@pytest.mark.parametrize("view", ["g", "o", "r", "a"])
def test_every_view_has_no_grave_fault_of_accessibility(view: str, pile: Path) -> None:
    with page_of(pile) as page, chromium() as browser:
        until(page, lambda state: not state["progress"]["what"])
        ask(page, "POST", "/decide", {"action": "label", "ids": [0, 1], "label": "red"})
        for scheme in SCHEMES:
            show_as(browser, scheme, 1280)
            open_page(browser, page.url)
            press(browser, Keys.ESCAPE, view)
            time.sleep(0.5)
            assert grave_faults(browser) == []
