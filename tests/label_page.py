"""The page of `otx label` in tests: served here or by the command, asked by requests and by a browser's keyboard."""

from __future__ import annotations

import http.client
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from selenium.webdriver import Chrome
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from otx import Engine
from otx.verbs.label import LabelPage, serve

THUMBNAILS = {"model.pretrained": False}


@contextmanager
def page_of(folder: Path, checkpoint: Path | None = None, **overrides: object) -> Iterator[LabelPage]:
    """A page in this process, by default with thumbnails."""
    with serve(Engine(overrides=overrides or THUMBNAILS)._session(), folder, checkpoint) as page:
        yield page


@contextmanager
def process_of(folder: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The command in a process of its own, by default with thumbnails, and the address it prints."""
    options = options or ("--model.pretrained", "false")
    command = [sys.executable, "-m", "otx", "label", str(folder), "--open", "false", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        try:
            found = next(match for line in process.stdout if (match := re.search(r"http://\S+/", line)))
            yield process, found[0]
        finally:
            process.kill()


def ask(
    page: LabelPage, method: str, path: str, body: Any = None, *, token: str | None = None, **headers: str
) -> tuple[int, dict[str, str], bytes]:
    host, own = page.url.removeprefix("http://").split("/")[:2]
    with closing(http.client.HTTPConnection(host, timeout=20)) as connection:
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        connection.request(method, f"/{own if token is None else token}{path}", data, headers)
        response = connection.getresponse()
        return response.status, dict(response.getheaders()), response.read()


def state_of(page: LabelPage) -> dict[str, Any]:
    return dict(json.loads(ask(page, "GET", "/state")[2]))


def ask_card(page: LabelPage) -> dict[str, Any] | None:
    """The first card of the review; None if there is none left."""
    card = json.loads(ask(page, "GET", "/review")[2])["card"]
    return None if card is None else dict(card)


def until(page: LabelPage, check: Any, seconds: float = 60) -> dict[str, Any]:
    end = time.monotonic() + seconds
    while not check(state := state_of(page)):
        assert time.monotonic() < end, state
        time.sleep(0.1)
    return state


def press(browser: Chrome, *keys: str) -> None:
    ActionChains(browser).send_keys(*keys).perform()


def wait(browser: Chrome, check: Any) -> None:
    WebDriverWait(browser, 60).until(lambda page: check(page.find_element(By.TAG_NAME, "body")))


def open_page(browser: Chrome, url: str) -> None:
    browser.get(url)
    wait(browser, lambda body: body.get_attribute("data-ready"))


def labelled(browser: Chrome) -> int:
    return int(browser.find_element(By.ID, "count").text.split()[0])


def class_shown(browser: Chrome) -> str:
    """The true class of the photo that is shown alone: the end of its name, `IMG_004_red.png`."""
    wait(browser, lambda _: browser.find_elements(By.CSS_SELECTOR, "figcaption"))
    name = str(browser.execute_script("return document.querySelector('figcaption').textContent"))
    return re.sub(r"\.(png|jpg).*", "", name).rpartition("_")[2]


def label_some(browser: Chrome, count: int) -> None:
    """Label photos one by one with the keyboard alone, by their true classes."""
    for _ in range(count):
        shown = class_shown(browser)
        names = browser.execute_script(
            "return [...document.querySelectorAll('#classes .name')].map((e) => e.textContent)"
        )
        if shown in names:
            press(browser, str(names.index(shown) + 1))
        else:
            if browser.switch_to.active_element.get_attribute("id") != "name":
                press(browser, "n")
            press(browser, shown, Keys.ENTER)
