"""A function in a child process: its messages and exceptions arrive, and a crash becomes a readable error."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from otx.child import Watch, run_in_child
from otx.errors import OtxError, RunError, UsageError
from otx.events import Progress, SilentReporter

HERE = Path(__file__).parent
LIMIT = 60


def double(watch: Watch, value: float) -> float:
    print("this is for people, not for the caller")
    watch.note("a note")
    watch.warn("a warning")
    watch.progress(Progress("doubling", 1, 2))
    return 2 * value


def refuse(watch: Watch) -> None:
    raise UsageError("--max_drop 2", allowed=["0 to 1"], fix="give less")


def fail(watch: Watch) -> None:
    raise ZeroDivisionError("no such number")


def crash(watch: Watch) -> None:
    watch.step("measuring", Path("my model.xml"), "openvino")
    ctypes.string_at(0)


def be_killed(watch: Watch) -> None:
    watch.step("quantising", Path("my model.xml"), "nncf")
    os.kill(os.getpid(), signal.SIGKILL)


def sleep(watch: Watch, mark: str) -> None:
    Path(mark).write_text(str(os.getpid()))
    time.sleep(LIMIT)


class Told(SilentReporter):
    def __init__(self) -> None:
        self.all: list[Any] = []

    def note(self, text: str) -> None:
        self.all.append(text)

    def warn(self, text: str) -> None:
        self.all.append(text)

    def progress(self, progress: Progress) -> None:
        self.all.append(progress)


def test_the_answer_and_all_that_is_told_arrive() -> None:
    told = Told()
    assert run_in_child(double, 2.5, reporter=told) == 5
    assert told.all == ["a note", "a warning", Progress("doubling", 1, 2)]


def test_an_error_arrives_as_it_was_raised() -> None:
    with pytest.raises(UsageError) as caught:
        run_in_child(refuse, reporter=SilentReporter())
    assert str(caught.value) == "--max_drop 2\n  allowed: 0 to 1\n  fix: give less"
    with pytest.raises(ZeroDivisionError, match="no such number") as mistake:
        run_in_child(fail, reporter=SilentReporter())
    assert "in fail" in mistake.value.__notes__[0]


@pytest.mark.parametrize(
    ("flags", "given", "said"),
    [
        ("flags : avx2 amx_int8 amx_tile", "", "put ONEDNN_MAX_CPU_ISA=AVX512_CORE_VNNI in front of the command"),
        ("flags : avx2 avx512f", "", "put ONEDNN_MAX_CPU_ISA=AVX2 in front of the command"),
        ("flags : avx2", "AVX2", "ONEDNN_MAX_CPU_ISA=AVX2 did not help, please report it"),
    ],
)
def test_a_crash_is_said_in_words(
    flags: str, given: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpuinfo").write_text(flags)
    monkeypatch.setattr("otx.child.CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", given)
    with pytest.raises(RunError, match=r"^openvino 20[\d.]+ crashed \(SIGSEGV\) when measuring my model.xml") as caught:
        run_in_child(crash, reporter=SilentReporter())
    assert said in caught.value.fix
    assert caught.value.exit_code == 1


def test_a_process_that_the_system_killed_is_said_to_have_had_too_little_memory() -> None:
    with pytest.raises(OtxError, match=r"\(SIGKILL\) that was quantising my model.xml with nncf \d") as caught:
        run_in_child(be_killed, reporter=SilentReporter())
    assert "the memory was full" in caught.value.fix


def program(call: str) -> list[str]:
    """A script without `if __name__ == "__main__"`."""
    lines = f"import sys; sys.path.insert(0, {str(HERE)!r})\nfrom test_child import *\n"
    return [sys.executable, "-c", f"{lines}print(run_in_child({call}, reporter=SilentReporter()))"]


def test_a_script_needs_no_guard() -> None:
    done = subprocess.run(program("double, 21"), capture_output=True, text=True, timeout=LIMIT, check=True)
    assert done.stdout == "42\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_the_child_ends_with_its_caller(number: signal.Signals, tmp_path: Path) -> None:
    mark = tmp_path / "pid"
    caller = subprocess.Popen(program(f"sleep, {str(mark)!r}"), stderr=subprocess.DEVNULL)
    wait_until(lambda: mark.is_file() and mark.read_text() != "")
    caller.send_signal(number)
    caller.wait(LIMIT)
    wait_until(lambda: is_over(int(mark.read_text())))


def is_over(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def wait_until(what: Callable[[], bool]) -> None:
    begun = time.monotonic()
    while not what():
        assert time.monotonic() < begun + LIMIT
        time.sleep(0.05)


def test_a_path_among_the_places_of_modules_is_no_obstacle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scripts write `sys.path.insert(0, Path(...))`, which Python itself passes over."""
    monkeypatch.setattr(sys, "path", [*sys.path, Path("lib")])
    assert run_in_child(double, 21, reporter=SilentReporter()) == 42


def test_no_library_reports_what_is_done_with_it() -> None:
    program = (
        "import sys, threading, otx, openvino, nncf; from openvino.tools.ovc import telemetry; "
        "print(type(telemetry).__module__, sys.modules['openvino_telemetry'], threading.active_count())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split()[-3:] == ["openvino.tools.ovc.telemetry_stub", "None", "1"]


def test_a_child_ends_after_the_callers_own_cores_have_gone() -> None:
    """As in a program that trained with data workers and used ModelAPI: see `openvino_core`."""
    program = (
        "import signal, openvino; from otx.child import run_in_child; from otx.events import SilentReporter\n"
        "from test_child import double\n"
        "signal.signal(signal.SIGCHLD, lambda *_: None)\n"
        "cores = [openvino.Core(), openvino.Core()]\n"
        "for core in cores: core.get_property('CPU', 'FULL_DEVICE_NAME')\n"
        "del core; cores.pop(0); cores.pop(0)\n"
        "print(run_in_child(double, 21, reporter=SilentReporter()))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=HERE, capture_output=True, text=True, timeout=LIMIT, check=False
    )
    assert (done.returncode, done.stdout) == (0, "42\n"), done.stderr
