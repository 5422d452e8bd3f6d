"""What every test runs under."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from hypothesis import settings

pytest_plugins = ["ending"]
# how long an example takes says nothing here but how busy the machine is
settings.register_profile("otx", deadline=None)
settings.load_profile("otx")
# networks this small are slower on several threads, many times so on a busy machine
os.environ["OMP_NUM_THREADS"] = "1"
# no test asks the network: what is not in the hub's cache is not there
os.environ["HF_HUB_OFFLINE"] = "1"
# a run that a shell has put into the background ignores Ctrl-C, and all that it starts would ignore it too
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# first, so that no worker is left with one of them at the end
LONGEST = ("optimize", "readme", "processes", "stops", "training", "incremental", "models", "report", "containers")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {f"test_{name}.py": place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.name, len(LONGEST)))


@pytest.fixture(autouse=True)
def digits_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The digits are written into a folder of the test session, not into the user's."""
    folder = tmp_path_factory.getbasetemp() / "cache"
    monkeypatch.setenv("OTX_CACHE", str(folder))
    return folder
