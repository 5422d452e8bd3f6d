"""A headless Chromium for the tests of pages."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.webdriver.chrome.service import Service

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
CHROMEDRIVER = shutil.which("chromedriver")
NO_BROWSER = "needs chromium and chromedriver (Debian: apt install chromium chromium-driver)"
ARGUMENTS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)


AXE = Path(os.environ.get("AXE_CORE", Path(__file__).parents[1] / "node_modules" / "axe-core" / "axe.min.js"))
NO_AXE = "needs axe-core: npm install --no-save axe-core, or AXE_CORE=.../axe.min.js"
SCHEMES = ("light", "dark")
GRAVE = ("serious", "critical")


@contextmanager
def chromium(*arguments: str, width: int = 1100, height: int = 1000) -> Iterator[webdriver.Chrome]:
    """A browser with its own profile, which records what pages write to the console."""
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM or ""
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with tempfile.TemporaryDirectory(prefix="otx.", ignore_cleanup_errors=True) as profile:
        for argument in (*ARGUMENTS, f"--user-data-dir={profile}", f"--window-size={width},{height}", *arguments):
            options.add_argument(argument)
        driver = webdriver.Chrome(options, Service(CHROMEDRIVER))
        try:
            yield driver
        finally:
            driver.quit()


def console_errors(driver: webdriver.Chrome) -> list[str]:
    """The errors and warnings on the console since the last call."""
    return [line["message"] for line in driver.get_log("browser") if line["level"] in ("SEVERE", "WARNING")]


def show_as(driver: webdriver.Chrome, scheme: str, width: int) -> None:
    """Let pages see a colour scheme, and a window of a width, of a phone below 500 pixels."""
    feature = {"name": "prefers-color-scheme", "value": scheme}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def grave_faults(driver: webdriver.Chrome) -> list[tuple[str, str]]:
    """What axe-core finds serious or critical in the page: its rule, and the first element."""
    driver.execute_script(AXE.read_text(encoding="utf-8"))
    found: list[Any] = driver.execute_async_script("axe.run(document).then((all) => arguments[0](all.violations))")
    return [(each["id"], each["nodes"][0]["html"]) for each in found if each["impact"] in GRAVE]
