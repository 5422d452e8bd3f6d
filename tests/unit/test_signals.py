"""SIGTERM, sent to real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from otx.signals import SAME_SECONDS, Terminated, name_of, signal_of, terminable

CLEANS_UP = """
import sys, time
from otx.signals import Terminated, terminable
with terminable():
    try:
        print("ready", flush=True)
        time.sleep(60)
    except Terminated:
        print("cleaning up", flush=True)
        time.sleep(float(sys.argv[1]))
        print("clean", flush=True)
"""
IN_DESTRUCTOR = """
import time
from otx.signals import terminable
class Slow:
    def __del__(self):
        print("ready", flush=True)
        time.sleep(60)
with terminable():
    try:
        slow = Slow()
        del slow
        time.sleep(60)
    except KeyboardInterrupt as stop:
        print(type(stop).__name__, flush=True)
"""
IN_IMPORT = """
import sys, time
from otx.signals import terminable
with terminable():
    try:
        import slow_to_import
        time.sleep(60)
    except KeyboardInterrupt as stop:
        print(type(stop).__name__, "slow_to_import" in sys.modules, flush=True)
"""
SLOW_TO_IMPORT = """
import time
print("ready", flush=True)
begun = time.monotonic()
while time.monotonic() < begun + 1:
    time.sleep(0.1)
print("imported", flush=True)
"""
IN_LIBRARY = """
import time
from otx.signals import terminable
try:
    with terminable():
        try:
            print("ready", flush=True)
            time.sleep(60)
        except BaseException:
            raise RuntimeError("Terminated: <EMPTY MESSAGE>")
except KeyboardInterrupt as stop:
    print(type(stop).__name__, flush=True)
"""
WORKER = """
import os, sys, time
from otx.signals import outlive_signals
pid = os.fork()
if not pid:
    outlive_signals()
    print("ready", flush=True)
    time.sleep(60)
print(pid, flush=True)
sys.stdin.readline()
print("alive" if os.waitpid(pid, os.WNOHANG) == (0, 0) else "dead", flush=True)
os.kill(pid, 15)
print(os.waitpid(pid, 0)[1], flush=True)
"""


def begin(program: str, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", program, *arguments]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process


def read(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_two_signals_at_once_are_one_and_what_was_begun_is_cleaned_up() -> None:
    process = begin(CLEANS_UP, "0.2")
    assert read(process) == "ready"
    process.terminate()
    assert read(process) == "cleaning up"
    process.terminate()
    assert process.communicate(timeout=30)[0] == "clean\n"
    assert process.returncode == 0


def test_a_second_signal_later_ends_the_process_at_once() -> None:
    process = begin(CLEANS_UP, "60")
    assert read(process) == "ready"
    process.terminate()
    assert read(process) == "cleaning up"
    time.sleep(SAME_SECONDS + 0.2)
    process.terminate()
    assert process.communicate(timeout=30)[0] == ""
    assert process.returncode == 143


@pytest.mark.parametrize("program", [IN_DESTRUCTOR, IN_LIBRARY])
@pytest.mark.parametrize(("number", "name"), [(signal.SIGTERM, "Terminated"), (signal.SIGINT, "KeyboardInterrupt")])
def test_a_signal_is_not_lost_in_a_destructor_nor_in_the_error_of_a_library(
    number: int, name: str, program: str
) -> None:
    process = begin(program)
    assert read(process) == "ready"
    process.send_signal(number)
    assert process.communicate(timeout=30) == (f"{name}\n", "")
    assert process.returncode == 0


@pytest.mark.parametrize(("number", "name"), [(signal.SIGTERM, "Terminated"), (signal.SIGINT, "KeyboardInterrupt")])
def test_an_import_is_not_interrupted_but_what_follows_is(number: int, name: str, tmp_path: Path) -> None:
    (tmp_path / "slow_to_import.py").write_text(SLOW_TO_IMPORT)
    process = begin(f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{IN_IMPORT}")
    assert read(process) == "ready"
    process.send_signal(number)
    said, complained = process.communicate(timeout=30)
    assert (said.splitlines(), complained) == (["imported", f"{name} True"], "")


@pytest.mark.skipif(not hasattr(signal, "sigwaitinfo"), reason="this system does not say who sent a signal")
def test_a_data_worker_outlives_what_goes_to_all_and_its_parent_ends_it() -> None:
    process = begin(WORKER)
    worker = next(int(line) for line in sorted([read(process), read(process)]) if line != "ready")
    for number in (signal.SIGTERM, signal.SIGINT):
        os.kill(worker, number)
    time.sleep(0.2)
    assert process.communicate("\n", timeout=30)[0] == "alive\n0\n"


def test_handlers_of_others_stay() -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with terminable():
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)


def test_the_signal_behind_an_exception() -> None:
    assert name_of(signal_of(KeyboardInterrupt())) == "Ctrl-C"
    assert name_of(signal_of(Terminated())) == "SIGTERM"
    wrapped = SystemExit(1)
    wrapped.__context__ = Terminated()
    assert signal_of(wrapped) == signal.SIGTERM
