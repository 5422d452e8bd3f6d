"""`otx label` with real photos and weights: sixty flowers by keyboard, and a data set of flowers that is mended."""

from __future__ import annotations

import random
import shutil
import signal
from pathlib import Path

import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

from browser import CHROMEDRIVER, CHROMIUM, NO_BROWSER, chromium, console_errors
from label_page import ask_card, label_some, labelled, open_page, page_of, press, process_of, state_of, until, wait
from otx import Engine
from otx.data.journal import JOURNAL, read_journal
from otx.verbs.label import LabelPage

SHARED = Path(__file__).resolve().parents[3] / "shared"
FLOWERS = SHARED / "data" / "flowers"
WEIGHTS = SHARED / "weights" / "tf_efficientnet_lite0.imagenet_backbone.safetensors"
SETTINGS = {"model.name": "timm/tf_efficientnet_lite0", "model.weights": str(WEIGHTS), "data.input_size": 224}
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (CHROMIUM and CHROMEDRIVER), reason=NO_BROWSER),
    pytest.mark.skipif(
        not (FLOWERS.is_dir() and WEIGHTS.is_file()), reason="needs ../shared/data and ../shared/weights"
    ),
]


def flowers(count: int) -> list[Path]:
    """So many photos of each class, mixed."""
    rng = random.Random(0)
    files = [file for folder in sorted(FLOWERS.iterdir()) for file in rng.sample(sorted(folder.glob("*.jpg")), count)]
    rng.shuffle(files)
    return files


def test_sixty_flowers_by_keyboard_with_undo_a_reload_and_a_kill(tmp_path: Path) -> None:
    for number, file in enumerate(flowers(20)):
        shutil.copyfile(file, tmp_path / f"IMG_{number:03}_{file.parent.name}.jpg")
    options = [word for key, value in SETTINGS.items() for word in (f"--{key}", str(value))]
    with chromium() as browser:
        with process_of(tmp_path, *options) as (process, url):
            open_page(browser, url)
            press(browser, "o")
            label_some(browser, 35)
            wait(browser, lambda _: labelled(browser) == 35)
            for _ in range(5):
                press(browser, Keys.BACKSPACE)
            wait(browser, lambda _: labelled(browser) == 30)
            open_page(browser, url)
            assert labelled(browser) == 30
            assert console_errors(browser) == []
            process.send_signal(signal.SIGKILL)
            process.wait()
        with process_of(tmp_path, *options) as (_, url):
            open_page(browser, url)
            console_errors(browser)  # of the page whose server was killed
            assert labelled(browser) == 30
            press(browser, "o")
            label_some(browser, 30)
            wait(browser, lambda _: labelled(browser) == 60)
            wait(browser, lambda body: int(body.get_attribute("data-fitted")) == 60)
            assert console_errors(browser) == []
    rows = read_journal(tmp_path / JOURNAL)
    assert len(rows) == 60
    assert all(path.removesuffix(".jpg").endswith(row.label) for path, row in rows.items())
    assert len(list(tmp_path.glob("*.jpg"))) == 100


def planted(folder: Path) -> tuple[list[str], list[str]]:
    """Split folders of flowers; ten training photos are in a wrong folder, five others are in test as well.

    The name of each photo says its true class.

    Returns:
        The names of the ten and of the five.
    """
    rng, classes = random.Random(0), sorted(each.name for each in FLOWERS.iterdir())
    counts = dict.fromkeys(classes, 0)
    for file in flowers(100):
        name, number = file.parent.name, counts[file.parent.name]
        counts[name] += 1
        split = "train" if number < 70 else "val" if number < 80 else "test"
        (folder / split / name).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, folder / split / name / f"{name}_{number}.jpg")
    chosen = rng.sample(sorted(folder.glob("train/*/*")), 15)
    for file in chosen[:10]:
        file.rename(folder / "train" / rng.choice([name for name in classes if name != file.parent.name]) / file.name)
    for file in chosen[10:]:
        shutil.copyfile(file, folder / "test" / file.parent.name / f"again_{file.name}")
    return [file.name for file in chosen[:10]], [file.name for file in chosen[10:]]


def wrong_paths(folder: Path, wrong: list[str]) -> list[str]:
    return [file.relative_to(folder).as_posix() for file in folder.glob("train/*/*") if file.name in wrong]


def mended(page: LabelPage, wrong: list[str]) -> list[str]:
    """The planted photos that have the class in their name by now."""
    rows = page.board.rows
    return [path for path, row in rows.items() if Path(path).name in wrong and Path(path).name.startswith(row.label)]


def mend_in_list(browser: Chrome, page: LabelPage, path: str) -> None:
    """Find a photo among those of its class, click it, and press the key of the right class."""
    given, true = Path(path).parent.name, Path(path).name.partition("_")[0]
    press(browser, Keys.ESCAPE, "a")
    wait(browser, lambda _: browser.find_elements(By.XPATH, f"//*[@id='actions']/button[text()='{given}']"))
    browser.find_element(By.XPATH, f"//*[@id='actions']/button[text()='{given}']").click()
    number, top = page.board.photos.paths.index(path), iter(range(0, 100_000, 200))

    def there(_: WebElement) -> bool:
        if found := browser.find_elements(By.CSS_SELECTOR, f"#tiles [data-id='{number}']"):
            found[0].click()
            return True
        browser.execute_script("document.getElementById('scroll').scrollTop = arguments[0]", next(top))
        return False

    wait(browser, there)
    press(browser, str(sorted(each.name for each in FLOWERS.iterdir()).index(true) + 1))
    wait(browser, lambda _: page.board.rows[path].label == true)


def test_ten_wrong_labels_and_five_leaks_of_flowers_are_mended_and_the_check_is_silent(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    wrong, leaks = planted(folder)
    before = {file.read_bytes() for file in folder.rglob("*.jpg")}
    engine = Engine(folder, work_dir=tmp_path / "ws", overrides={**SETTINGS, "max_epochs": 0, "report": False})
    assert {Path(leak.first.path).name for leak in engine.check().leaks} >= set(leaks)
    with page_of(folder, **SETTINGS) as page, chromium() as browser:
        until(page, lambda state: state["review"] is not None and not state["progress"]["what"], 300)
        open_page(browser, page.url)
        for again in range(2):
            while (card := ask_card(page)) is not None:
                left = state_of(page)["review"]
                # a person sees what the name says; Enter takes the first button, K keeps what is there
                is_wrong = card["kind"] == "mislabelled" and f"/{card['suggested']}_" in card["photos"][0]["path"]
                press(browser, Keys.ENTER if card["kind"] == "leak" or is_wrong else "k")
                wait(browser, lambda body, left=left: int(body.get_attribute("data-review")) != left)
            if not again:
                press(browser, "l")
                until(page, lambda state: not state["progress"]["what"], 300)
        found = mended(page, wrong)
        assert len(found) >= 7, found
        for path in sorted(set(wrong_paths(folder, wrong)) - set(found)):
            mend_in_list(browser, page, path)
        wait(browser, lambda _: len(mended(page, wrong)) == 10)
        assert console_errors(browser) == []
    engine.label(data_root=folder, apply="move")
    assert {file.read_bytes() for file in folder.rglob("*.jpg")} == before
    result = engine.train()
    checked = Engine(folder, checkpoint=result.model_path, work_dir=tmp_path / "ws").check()
    assert checked.leaks == ()
    assert not {Path(each.path).name for each in checked.mislabelled or ()} & set(wrong)
