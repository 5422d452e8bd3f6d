"""Takes pictures of the pages: python scripts/screenshots.py RUN FOLDER [PHOTOS WEIGHTS].

`scripts/screenshots` makes a run first. PHOTOS (class folders) and WEIGHTS (NETWORK.TAG.safetensors) are for the
page of `otx label`.
"""

from __future__ import annotations

import io
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from browser import chromium, show_as
from otx import Engine
from otx.label.decisions import take
from otx.verbs.label import serve

WIDE, PHONE = 1280, 390
COLUMN, COLUMNS, GAP = 1500, 3, 24
EXACT = 40


def picture(browser: Chrome, width: int, height: int) -> Image.Image:
    """The page from its top, as high as asked for."""
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    return Image.open(io.BytesIO(browser.get_screenshot_as_png())).convert("RGB")


def place_of(browser: Chrome, selector: str) -> int:
    """How far below the top of the page an element begins."""
    script = "return document.querySelector(arguments[0]).getBoundingClientRect().top + scrollY"
    return round(browser.execute_script(script, selector))


def report(browser: Chrome, page: Path, scheme: str) -> tuple[Image.Image, Image.Image]:
    """The page's upper half, and its lower half from the mistakes on."""
    show_as(browser, scheme, WIDE)
    browser.get(page.as_uri())
    browser.execute_script("document.documentElement.style.overflow = 'hidden'")
    middle, end = place_of(browser, "#gallery"), place_of(browser, "#images")
    whole = picture(browser, WIDE, end)
    return whole.crop((0, 0, WIDE, middle)), whole.crop((0, middle, WIDE, end))


def phone(browser: Chrome, page: Path) -> Image.Image:
    """The page on a phone, in columns from its top."""
    show_as(browser, "light", PHONE)
    browser.get(page.as_uri())
    whole = picture(browser, PHONE, COLUMNS * COLUMN)
    sheet = Image.new("RGB", (COLUMNS * (PHONE + GAP) - GAP, COLUMN), "#d0d4d8")
    for number in range(COLUMNS):
        part = whole.crop((0, number * COLUMN, PHONE, (number + 1) * COLUMN))
        sheet.paste(part, (number * (PHONE + GAP), 0))
    return sheet


def demo(browser: Chrome, url: str) -> Image.Image:
    """The demo after its first known mistake, or else its last example, with the map beside the photo."""
    show_as(browser, "light", WIDE)
    browser.get(url)
    wait = WebDriverWait(browser, 30)
    wait.until(lambda page: page.find_elements(By.CSS_SELECTOR, "body[data-ready]"))
    browser.find_element(By.ID, "with-map").click()
    known = browser.find_elements(By.XPATH, "//button[span[@class='known']]")
    (known or browser.find_elements(By.CSS_SELECTOR, "#examples button"))[-1].click()
    wait.until(lambda page: page.find_element(By.ID, "heat").is_displayed())
    return picture(browser, WIDE, browser.execute_script("return document.documentElement.scrollHeight"))


def label(browser: Chrome, photos: Path, weights: Path) -> Image.Image:
    """The page of `otx label` on a pile of 200 photos, after two groups of each class were named as they should be."""
    with tempfile.TemporaryDirectory() as scratch:
        pile = Path(scratch, "my_photos")
        pile.mkdir()
        files = random.Random(0).sample(sorted(photos.glob("*/*.jpg")), 200)
        for number, file in enumerate(files):
            shutil.copy(file, pile / f"IMG_{number:04}.jpg")
        network = weights.name.partition(".")[0]
        engine = Engine(model=f"timm/{network}", overrides={"model.weights": str(weights)})
        with serve(engine._session(), pile, None) as page:
            while page.site.state()["progress"]["what"]:
                time.sleep(0.5)
            for number, file in enumerate(files[:60]):
                take(page.board, {"action": "label", "ids": [number], "label": file.parent.name})
            while (page.site.state()["accuracy"] or {"total": 0})["total"] < 60:
                time.sleep(0.5)
            show_as(browser, "light", WIDE)
            browser.get(page.url)
            WebDriverWait(browser, 30).until(lambda page: page.find_elements(By.CSS_SELECTOR, ".tile"))
            asked = browser.find_element(By.ID, "title").text
            for tile in browser.find_elements(By.CSS_SELECTOR, ".tile"):
                if files[int(tile.get_attribute("data-id") or 0)].parent.name not in asked:
                    tile.click()
            time.sleep(1)
            shown = picture(browser, WIDE, 800)
    return shown.resize((960, 600), Image.Resampling.LANCZOS)


def beside(pictures: Sequence[Image.Image], height: int) -> Image.Image:
    """Pictures side by side, each cut to a height, at three quarters of their size."""
    sheet = Image.new("RGB", (len(pictures) * (WIDE + 2 * GAP), height + 2 * GAP), "#d0d4d8")
    for number, each in enumerate(pictures):
        sheet.paste(each.crop((0, 0, WIDE, min(height, each.height))), (GAP + number * (WIDE + 2 * GAP), GAP))
    return sheet.resize((sheet.width * 3 // 4, sheet.height * 3 // 4), Image.Resampling.LANCZOS)


def save(image: Image.Image, path: Path) -> None:
    """Write a PNG of 256 colours: the most frequent ones, which are those of the page, as they are."""
    pixels = np.asarray(image).astype(int) @ (65536, 256, 1)
    found, counts = np.unique(pixels, return_counts=True)
    exact = found[np.argsort(-counts)[:EXACT]]
    palette = image.quantize(256 - EXACT)
    places = np.array(image.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG))
    for number, colour in enumerate(exact.tolist()):
        places[pixels == colour] = 256 - EXACT + number
    shades = palette.getpalette()[: 3 * (256 - EXACT)]
    kept = Image.fromarray(places, "P")
    kept.putpalette([*shades, *(part for colour in exact.tolist() for part in colour.to_bytes(3))])
    kept.save(path, optimize=True)


def main(run: Path, docs: Path, photos: Path | None = None, weights: Path | None = None) -> None:
    page = run / "report.html"
    with chromium() as browser:
        light, _ = report(browser, page, "light")
        _, dark = report(browser, page, "dark")
        save(light, docs / "report-light.png")
        save(dark, docs / "report-dark.png")
        save(phone(browser, page), docs / "report-phone.png")
        with Engine(checkpoint=run / "exported_model.xml", work_dir=run.parent).demo() as served:
            answer = demo(browser, served.url)
        save(answer, docs / "demo.png")
        if photos is not None and weights is not None:
            save(label(browser, photos, weights), docs / "label.png")
        save(beside((light, answer), answer.height), docs / "result.png")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
