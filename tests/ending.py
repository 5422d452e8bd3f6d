"""Make sure that a test run ends, whatever a test does.

pytest-timeout ends a test that hangs in Python. It cannot end one that hangs in native code, since Python's handlers do
not run there: a thread of faulthandler prints the stacks of all threads and ends the process. Processes that a dead
worker or a failed test has left are killed, since they would hold the run's pipes open for ever.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

SLOW_SECONDS = 3000
GRACE_SECONDS = float(os.environ.get("OTX_TEST_GRACE", 30))
PR_SET_CHILD_SUBREAPER = 36
STDERR = pytest.StashKey[int]()
DONE = pytest.StashKey[threading.Event]()

_workers: set[int] = set()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[STDERR] = os.dup(2)
    if _is_controller(config) and sys.platform == "linux":
        # the children of a dead worker become children of this process
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
        config.stash[DONE] = threading.Event()
        threading.Thread(target=_end_orphans, args=(config.stash[DONE],), daemon=True).start()


def pytest_unconfigure(config: pytest.Config) -> None:
    if DONE in config.stash:
        config.stash[DONE].set()
        for pid in _children():
            _kill(pid)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodeready(node: Any) -> None:
    _workers.add(node.gateway._rinfo().pid)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("slow") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(SLOW_SECONDS))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    if seconds := _limit(item):
        faulthandler.dump_traceback_later(seconds + GRACE_SECONDS, exit=True, file=item.config.stash[STDERR])
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()


def _limit(item: pytest.Item) -> float:
    """The timeout of a test in seconds; 0: none."""
    marker = item.get_closest_marker("timeout")
    given = marker.args[0] if marker and marker.args else item.config.getoption("timeout")
    return float(given if given is not None else item.config.getini("timeout") or 0)


def _is_controller(config: pytest.Config) -> bool:
    return bool(config.getoption("numprocesses", None)) and not hasattr(config, "workerinput")


def _end_orphans(done: threading.Event) -> None:
    """When a worker is dead, kill its children: one that was forked holds the pipe whose end shows that it is dead."""
    while not done.wait(1):
        if any(_stat(pid)[:1] in ([], ["Z"]) for pid in _workers):
            for pid in set(_children()) - _workers:
                _kill(pid)


def _kill(pid: int) -> None:
    """Kill a process and its children."""
    children = _children(pid)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    for child in children:
        _kill(child)


def _children(parent: int | None = None) -> list[int]:
    pids = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
    return [pid for pid in pids if _stat(pid)[1:2] == [str(parent or os.getpid())]]


def _stat(pid: int) -> list[str]:
    """State, parent and further fields of a process; empty if it does not exist."""
    with contextlib.suppress(OSError):
        return (Path("/proc") / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()
    return []
