"""With planted crashes and hangs, a test run ends, names the test, and leaves no process behind."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PLANTED = {
    "crash": ("ctypes.string_at(0)", "Segmentation fault"),
    "hang": ("time.sleep(600)", "Timeout (>2.0s)"),
    "native": ("signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM]); ctypes.CDLL(None).sleep(600)", "Timeout ("),
}
FILE = """
import ctypes, os, signal, subprocess, sys, threading, time
from pathlib import Path

def quiet():
    time.sleep(600)

def test_planted():
    threading.Thread(target=quiet, daemon=True).start()
    global child
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    forked = os.fork()
    if forked == 0:  # holds every pipe of its parent open
        time.sleep(600)
        os._exit(0)
    Path({pids!r}).write_text(f"{{child.pid}} {{forked}}")
    {plant}
"""


@pytest.mark.skipif(sys.platform != "linux", reason="processes left behind are found in /proc")
@pytest.mark.parametrize("kind", PLANTED)
def test_a_run_with_a_planted_fault_ends_and_names_the_test(tmp_path: Path, kind: str) -> None:
    plant, said = PLANTED[kind]
    pids = tmp_path / "pids"
    (tmp_path / "test_planted.py").write_text(FILE.format(plant=plant, pids=str(pids)))
    (tmp_path / "test_other.py").write_text("def test_other(): pass\n")
    options = [word for word in (ROOT / "scripts/test").read_text().split("pytest ")[-1].split() if word != '"$@"']
    command = [sys.executable, "-m", "pytest", *options, "-c", str(ROOT / "pyproject.toml"), "--rootdir", str(tmp_path)]
    began = time.monotonic()
    ended = subprocess.run(
        [*command, "-p", "ending", "-p", "no:cacheprovider", "--timeout", "2", str(tmp_path)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT / "tests"), "OTX_TEST_GRACE": "2"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    output = ended.stdout + ended.stderr
    assert ended.returncode == 1, output
    assert time.monotonic() - began < 60
    assert "test_planted.py::test_planted" in output
    assert said in output
    assert "test_planted.py" in output and "in quiet" in output
    assert not any(is_running(pid) for pid in pids.read_text().split())


def is_running(pid: str) -> bool:
    try:
        return " Z " not in (Path("/proc") / pid / "stat").read_text()
    except OSError:
        return False
