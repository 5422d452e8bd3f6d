"""The site that `scripts/docs` builds: its links, what it loads, what it holds, and who can use it."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from browser import AXE, CHROMEDRIVER, CHROMIUM, NO_AXE, NO_BROWSER, SCHEMES, chromium, grave_faults, show_as
from otx.commands import VERBS
from otx.recipe import Recipe
from otx.schema import all_settings

ROOT = Path(__file__).parents[2]
READ = ("index.html", "tutorial.html", "troubleshooting.html", "reference/settings.html", "reference/python.html")
# a headless browser has no mouse, and Material lets the keyboard scroll code only where there is one
MOUSE = "const ask = matchMedia; window.matchMedia = (query) => ask(query === '(hover)' ? 'all' : query);"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built strictly: a link that leads nowhere is an error."""
    if importlib.util.find_spec("mkdocs") is None or importlib.util.find_spec("mkdocstrings") is None:
        pytest.skip("needs mkdocs: pip install 'otx[docs]'")
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src"), "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    return folder


def test_the_site_loads_nothing_from_elsewhere(site: Path) -> None:
    loaded = re.compile(r"""<(?:script|link|img|iframe)\b[^>]*?\b(?:src|href)=["']?(https?:)?//""")
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 25
    assert [page for page in pages if loaded.search(page.read_text(encoding="utf-8"))] == []
    styles = [
        path for path in site.rglob("*.css") if re.search(r"url\(['\"]?https?:", path.read_text(encoding="utf-8"))
    ]
    assert styles == []


def test_the_reference_has_every_setting_verb_and_method(site: Path) -> None:
    settings = (site / "reference" / "settings.html").read_text(encoding="utf-8")
    assert [each.key for each in all_settings(Recipe) if f"<code>{each.key}</code>" not in settings] == []
    commands = (site / "reference" / "command-line.html").read_text(encoding="utf-8")
    assert [verb for verb in VERBS if f'id="otx-{verb}"' not in commands] == []
    python = (site / "reference" / "python.html").read_text(encoding="utf-8")
    assert [name for name in ("train", "test", "iter_predict") if f'id="otx.Engine.{name}"' not in python] == []


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as driver:
        driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": MOUSE})
        yield driver


@pytest.mark.skipif(not (CHROMIUM and CHROMEDRIVER), reason=NO_BROWSER)
@pytest.mark.skipif(not AXE.is_file(), reason=NO_AXE)
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("page", READ)
def test_everybody_can_use_the_site(page: str, scheme: str, site: Path, browser: Any) -> None:
    show_as(browser, scheme, 1100)
    browser.get((site / page).as_uri())
    browser.execute_script("localStorage.clear()")  # the scheme that was chosen on the last page
    browser.refresh()
    chosen = browser.find_element("tag name", "body").get_attribute("data-md-color-scheme")
    assert chosen == {"light": "default", "dark": "slate"}[scheme]
    assert grave_faults(browser) == []
