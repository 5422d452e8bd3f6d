"""Print what happens while a verb works, all of it on standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from otx.events import Progress
from otx.results import EpochResult

SILENCE_SECONDS = 30.0
CLEAR = "\r\x1b[K"
BAR_WIDTH = 20


class ConsoleReporter:
    """Prints notes, warnings and epochs; progress on a live line in a terminal, elsewhere after 30 s without output."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._live = sys.stderr.isatty()
        self._header = False
        self._clock = clock
        self._written = self._began = clock()
        self._what, self._first = "", 0
        self._bar: LiveLine | None = None

    def note(self, text: str) -> None:
        self._line(text)

    def warn(self, text: str) -> None:
        self._line(f"warning: {text}")

    def progress(self, progress: Progress) -> None:
        if self._live:
            self._bar = self._bar or LiveLine()
            self._bar.show(progress)
            return
        now = self._clock()
        if progress.what != self._what or progress.done < self._first:
            self._what, self._first, self._began = progress.what, progress.done, now
        if now - self._written >= SILENCE_SECONDS:
            self._line(_sentence(progress, self._seconds_left(progress, now)))

    def _seconds_left(self, progress: Progress, now: float) -> float | None:
        """The reported time, else an estimate from the speed since the first report of this work."""
        done = progress.done - self._first
        if progress.seconds_left is not None or done <= 0:
            return progress.seconds_left
        return (now - self._began) / done * (progress.total - progress.done)

    def epoch(self, result: EpochResult, max_epochs: int) -> None:
        if not self._header:
            self._header = True
            self._line("   epoch    loss  val accuracy  val loss        lr  images/s      time")
        best = " best" if result.is_best else ""
        self._line(
            f"{result.epoch + 1:>4}/{max_epochs:<4} {result.train_loss:>6.3f}  {result.val_accuracy:>12.4f}  "
            f"{result.val_loss:>8.3f}  {result.lr:>8.2g}  {result.images_per_second:>8.1f}  "
            f"{_time(result.seconds):>8}{best}"
        )

    def _line(self, text: str) -> None:
        clear_line()
        print(text, file=sys.stderr, flush=True)
        self._written = self._clock()


class QuietReporter(ConsoleReporter):
    """Prints warnings only."""

    def note(self, text: str) -> None:
        """Print nothing."""

    def progress(self, progress: Progress) -> None:
        """Print nothing."""

    def epoch(self, result: EpochResult, max_epochs: int) -> None:
        """Print nothing."""


class LiveLine:
    """Draws the progress of a piece of work on the terminal's current line, as wide as the terminal.

    It uses rich, but not rich's Live: that hides the cursor, and a killed process would leave it hidden.
    """

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
        from rich.progress import Progress as Bars

        self._console = Console(stderr=True, markup=False, highlight=False)
        what, detail = (TextColumn(f"{{task.{name}}}", markup=False) for name in ("description", "fields[detail]"))
        self._bars = Bars(what, BarColumn(BAR_WIDTH), MofNCompleteColumn(), detail, console=self._console)
        self._task = self._bars.add_task("")

    def show(self, progress: Progress) -> None:
        """Redraw the line; without a known total there is no bar."""
        from rich.text import Text

        left = "" if progress.seconds_left is None else f", {progress.seconds_left:.0f} s left"
        detail = Text(f"{progress.detail}{left}".removeprefix(", "))
        # a narrow terminal cuts off the end of the detail
        needed = len(progress.what) + BAR_WIDTH + 2 * len(str(progress.total)) + 4
        detail.truncate(max(1, self._console.width - needed), overflow="ellipsis")
        self._bars.update(
            self._task,
            description=progress.what,
            completed=progress.done,
            total=max(progress.total, 1),
            detail=detail.plain,
        )
        drawn = self._bars.get_renderable() if progress.total else Text(f"{progress.what} ... {progress.detail}")
        with self._console.capture() as captured:
            self._console.print(drawn, end="", no_wrap=True, overflow="ellipsis", crop=True)
        sys.stderr.write(CLEAR + captured.get().rstrip())
        sys.stderr.flush()


def clear_line() -> None:
    """Erase the live line before something else is printed in its place."""
    if sys.stderr.isatty():
        sys.stderr.write(CLEAR)
        sys.stderr.flush()


def _sentence(progress: Progress, seconds_left: float | None) -> str:
    """Progress as a line of text: `checking images: 512 of 2048, 25 %, 1 min 30 s left`."""
    if progress.total == 0:
        return f"{progress.what}: still at work, {progress.detail}"
    parts = [f"{progress.done} of {progress.total}", f"{100 * progress.done / progress.total:.0f} %"]
    if progress.detail:
        parts.append(progress.detail)
    if seconds_left is not None:
        parts.append(f"{_time(seconds_left)} left")
    return f"{progress.what}: {', '.join(parts)}"


def _time(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else f"{int(seconds // 60)} min {int(seconds % 60)} s"
