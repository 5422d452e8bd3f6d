"""Settings and fixtures of all tests."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from hypothesis import settings

pytest_plugins = ["ending"]
# the time of an example only shows how busy the machine is
settings.register_profile("otx", deadline=None)
settings.load_profile("otx")
# networks this small are slower on several threads, much slower on a busy machine
os.environ["OMP_NUM_THREADS"] = "1"
# no test uses the network; the hub has only what is in its cache
os.environ["HF_HUB_OFFLINE"] = "1"
# a run in the background of a shell ignores Ctrl-C, and all processes that it starts would ignore it, too
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# these run first, so that no worker still has one of them at the end
LONGEST = ("optimize", "readme", "processes", "stops", "training", "incremental", "models", "report", "containers")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {f"test_{name}.py": place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.name, len(LONGEST)))


@pytest.fixture(autouse=True)
def digits_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make otx's cache a folder of the test session, not the user's."""
    folder = tmp_path_factory.getbasetemp() / "cache"
    monkeypatch.setenv("OTX_CACHE", str(folder))
    return folder
