"""Without a terminal, progress lines come often enough, and do not flood a log."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from images import write_classes
from otx.console_progress import ConsoleReporter
from otx.events import Progress, SilentReporter, heartbeat


class Clock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def work(
    reporter: ConsoleReporter, clock: Clock, seconds: int, what: str = "checking images", total: int = 100
) -> None:
    """Report the progress of a work that does one image a second."""
    for second in range(1, seconds + 1):
        clock.now += 1
        reporter.progress(Progress(what, second, total))


def test_a_line_comes_every_30_seconds_and_says_what_is_left(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    work(ConsoleReporter(clock), clock, 95)
    assert capsys.readouterr().err.splitlines() == [
        "checking images: 30 of 100, 30 %, 1 min 10 s left",
        "checking images: 60 of 100, 60 %, 40.0 s left",
        "checking images: 90 of 100, 90 %, 10.0 s left",
    ]


def test_what_is_over_soon_is_not_told(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    work(ConsoleReporter(clock), clock, 29, total=29)
    assert capsys.readouterr().err == ""


def test_a_note_counts_as_a_sign_of_life(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    reporter = ConsoleReporter(clock)
    work(reporter, clock, 20)
    reporter.note("Something is known now.")
    work(reporter, clock, 29, "features")
    assert capsys.readouterr().err == "Something is known now.\n"
    clock.now += 1
    reporter.progress(Progress("features", 30, 40, "loss 0.1", seconds_left=61))
    assert capsys.readouterr().err == "features: 30 of 40, 75 %, loss 0.1, 1 min 1 s left\n"


def test_time_left_is_that_of_the_work_at_hand(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    reporter = ConsoleReporter(clock)
    work(reporter, clock, 10)
    for done in range(1, 11):
        clock.now += 3
        reporter.progress(Progress("features", done, 20))
    assert capsys.readouterr().err == "features: 7 of 20, 35 %, 39.0 s left\n"


def test_a_library_at_work_is_told_by_how_long_it_has_been(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    reporter = ConsoleReporter(clock)
    clock.now += 31
    reporter.progress(Progress("quantising", 0, 0, "31 s"))
    assert capsys.readouterr().err == "quantising: still at work, 31 s\n"


TERMINAL = """
from otx.cli import _show
from otx.console_progress import ConsoleReporter
from otx.events import Progress
reporter = ConsoleReporter()
reporter.progress(Progress("epoch 1/2", 5, 10, "loss 0.500, 7 images/s", seconds_left=4))
reporter.progress(Progress("quantising " * 5, 0, 0, "31 s"))
reporter.note("A note.")
reporter.progress(Progress("exporting", 0, 0, "3 s"))
_show("report", "report.html", {})
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no pty")
@pytest.mark.parametrize("columns", [80, 40])
def test_one_live_line_as_wide_as_the_terminal_makes_way_for_what_is_printed(columns: int) -> None:
    import pty

    ours, theirs = pty.openpty()
    environment = {**os.environ, "COLUMNS": str(columns), "TERM": "xterm"}
    command = [sys.executable, "-c", TERMINAL]
    done = subprocess.run(command, stdout=theirs, stderr=theirs, env=environment, timeout=60, check=False)
    shown = os.read(ours, 10_000).decode()
    assert done.returncode == 0, shown
    # a hidden cursor would stay hidden if the process is killed
    assert "\x1b[?25l" not in shown
    plain = re.sub(r"\x1b\[[\d;]*m", "", shown)
    epoch, quantising, note, exporting, report = plain.split("\r\x1b[K")[1:]
    detail, end = ("loss 0.500, 7 images/s, 4 s left", " ... 31 s") if columns == 80 else ("lo…", "…")
    assert re.fullmatch(rf"epoch 1/2 \S{{20}} +5/10 {detail}", epoch)
    assert quantising.startswith("quantising quantising ") and quantising.endswith(end)
    assert max(len(epoch), len(quantising)) <= columns
    assert (note, exporting, report) == ("A note.\r\n", "exporting ... 3 s", "report.html\r\n")


class Beats(SilentReporter):
    def __init__(self) -> None:
        self.told: list[Progress] = []

    def progress(self, progress: Progress) -> None:
        self.told.append(progress)


def test_a_heartbeat_beats_while_its_block_lasts_and_ends_with_it() -> None:
    beats = Beats()
    with pytest.raises(KeyError), heartbeat(beats, "exporting", every=0.01):
        while len(beats.told) < 3:
            time.sleep(0.01)
        raise KeyError
    count = len(beats.told)
    time.sleep(0.05)
    assert (len(beats.told), beats.told[0].what, beats.told[0].total) == (count, "exporting", 0)


def test_a_process_without_a_terminal_tells_what_it_does(tmp_path: Path) -> None:
    """A real training whose standard error is a pipe; half a minute of silence is shortened to a tenth of a second."""
    root = write_classes(tmp_path / "photos", {"a": 40, "b": 40})
    program = (
        "import sys; from otx import cli, console_progress; "
        "console_progress.SILENCE_SECONDS = 0.1; sys.exit(cli.main(sys.argv[1:]))"
    )
    options = ["--model", "timm/test_resnet", "--model.pretrained=false", "--data.input_size=32", "--report=false"]
    options += ["--max_epochs=1", "--data.num_workers=0", "--data.train_subset.batch_size=2"]
    command = ["train", "--data_root", str(root), "--work_dir", str(tmp_path / "ws"), *options]
    done = subprocess.run([sys.executable, "-c", program, *command], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^starting: still at work, \d+ s$", done.stderr, re.MULTILINE)
    steps = r"^epoch 1/1: \d+ of \d+, \d+ %, loss [\d.]+, \d+ images/s, [\d.]+ s left$"
    assert re.search(steps, done.stderr, re.MULTILINE)
    assert "\x1b" not in done.stderr
