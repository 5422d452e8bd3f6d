"""Wait for a training process, at most `LIMIT` seconds."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

LIMIT = 300


def wait_for(what: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    begun = time.monotonic()
    while not what():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < begun + LIMIT
        time.sleep(0.05)


def has_trained(work: Path) -> Callable[[], bool]:
    """Whether the second epoch of the latest run is over."""
    return lambda: any(len(path.read_text().splitlines()) > 2 for path in work.glob("2*/metrics.csv"))
