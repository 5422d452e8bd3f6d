"""The number of threads of a training on a CPU: fewer while other programs use the same processors.

The threads of a parallel region wait for the slowest. One that shares its processor with another program waits for a
whole time slice of it, thousands of times a second of computing: two threads beside one busy program then take several
times as long as one thread that has a processor of its own. So the processors that others use are counted, fewer
threads are tried for a few steps, and what is faster is kept. When the others are done, more threads are tried again.
"""

from __future__ import annotations

import contextlib
import math
import os
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch

from otx.events import Reporter
from otx.limits import is_thread_count_chosen
from otx.machine import visible_cores
from otx.recipe import Recipe

PROC = Path("/proc")
Size = tuple[int, int]
TICKS_IN_USE = (0, 1, 2, 5, 6)  # user, nice, system, irq, softirq of /proc/stat
LOOK_SECONDS = 1.0
SLACK = 0.4  # share of a processor that other programs may use without slowing a thread down
MIN_SPEEDUP = 0.9
NOT_SLOWER = 1.02
MUCH_SLOWER = 1.5
TRIAL_STEPS = 2
TRIAL_SECONDS = 0.3
MAX_UNKNOWN_STEPS = 5
MIN_PAUSE = 10.0
MAX_PAUSE = 300.0
PAUSE_A_SECOND = 10.0


@dataclass
class Pace:
    """The time that images of one size took."""

    seconds: float = 0.0
    images: int = 0

    def add(self, seconds: float, images: int) -> None:
        self.seconds += seconds
        self.images += images

    @property
    def an_image(self) -> float:
        return self.seconds / self.images


@dataclass
class Trial:
    """A few steps with another number of threads, and the time per image before."""

    before: int
    usual: dict[Size, float]
    steps: int = 0
    unknown: int = 0
    counted: int = 0
    seconds: float = 0.0
    expected: float = 0.0
    lost: float = 0.0


@dataclass
class ThreadChooser:
    """Chooses the number of threads of the next step, from times and loads that it is given.

    Attributes:
        most: threads of a machine that does nothing else.
        cores: processors that this process may run on: more than `most` within a quota.
        count: threads of the next step.
    """

    most: int
    cores: int
    count: int = 0
    _trial: Trial | None = None
    _paces: dict[Size, Pace] = field(default_factory=lambda: defaultdict(Pace))
    _batch: int = 0
    _clock: float = 0.0
    _pause_until: float = 0.0
    _failures: int = 0
    _given_up: dict[Size, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.count = self.count or self.most

    @property
    def is_trying(self) -> bool:
        """Whether a trial is under way."""
        return self._trial is not None

    def guess(self, others: float) -> None:
        """Choose before any step was timed, from the number of processors that others use."""
        self.count = self._fitting(others)

    def step(self, size: Size, images: int, seconds: float) -> None:
        """Add the time of a step on images of one size (height, width)."""
        self._clock += seconds
        self._batch = max(self._batch, images)
        if self._trial is not None:
            self._judge(self._trial, size, images, seconds)
        elif images > self._batch / 2:  # an image of a small last batch takes longer
            self._paces[size].add(seconds, images)

    def look(self, others: float) -> None:
        """Start a trial if another number of threads fits the load of the other programs since the last call."""
        usual = {size: pace.an_image for size, pace in self._paces.items()}
        self._paces.clear()
        wanted = self._fitting(others)
        if wanted != self.count and usual and self._trial is None and not self._is_paused(usual):
            self._trial, self.count = Trial(self.count, usual), wanted

    def _fitting(self, others: float) -> int:
        fit = self._clip(self.cores - others)
        # a program that shares a processor with our thread shows half of the load that it would have alone
        return fit if fit >= self.count else min(fit, self._clip(self.cores - 2 * others))

    def _clip(self, free: float) -> int:
        return max(1, min(self.most, math.floor(free + SLACK)))

    def _is_paused(self, usual: dict[Size, float]) -> bool:
        """Whether a failed trial is too recent to repeat, unless the training has become much slower since."""
        slower = any(seconds > MUCH_SLOWER * self._given_up.get(size, math.inf) for size, seconds in usual.items())
        return self._clock < self._pause_until and not slower

    def _judge(self, trial: Trial, size: Size, images: int, seconds: float) -> None:
        if size not in trial.usual:
            trial.unknown += 1
            if trial.unknown >= MAX_UNKNOWN_STEPS:
                self._end(trial, is_better=False)
        elif images > self._batch / 2:
            self._compare(trial, trial.usual[size] * images, seconds)

    def _compare(self, trial: Trial, expected: float, seconds: float) -> None:
        trial.steps, trial.lost = trial.steps + 1, trial.lost + seconds - expected
        if seconds > MUCH_SLOWER * expected:
            self._end(trial, is_better=False)
        elif trial.steps > 1:  # the first step includes one-time work for a new number of threads
            trial.counted, trial.seconds = trial.counted + 1, trial.seconds + seconds
            trial.expected += expected
            if trial.counted >= TRIAL_STEPS and trial.seconds >= TRIAL_SECONDS:
                limit = MIN_SPEEDUP if self.count < trial.before else NOT_SLOWER
                self._end(trial, is_better=trial.seconds <= limit * trial.expected)

    def _end(self, trial: Trial, *, is_better: bool) -> None:
        self._trial = None
        if is_better:
            self._failures = 0
            return
        pause = max(MIN_PAUSE, PAUSE_A_SECOND * trial.lost) * 2**self._failures
        self._pause_until = self._clock + min(MAX_PAUSE, pause)
        self._failures = min(self._failures + 1, 5)
        self.count, self._given_up = trial.before, trial.usual


@dataclass(frozen=True)
class Reading:
    """Processor seconds used since boot, and those of this process and of its children, by process id."""

    clock: float
    busy: float
    own: dict[int, float]


class OtherWork:
    """Measures how many processors other programs use; this process's children do not count as others."""

    def __init__(self, read: Callable[[], Reading | None] | None = None) -> None:
        self._read = read or read_processors
        self._before = self._read()

    def since_last_look(self) -> float | None:
        """The number of processors, such as 0.8; None if too little time has passed or the system does not say."""
        if self._before is None or time.perf_counter() - self._before.clock < LOOK_SECONDS:
            return None
        before, now = self._before, self._read()
        self._before = now or before
        if now is None:
            return None
        own = sum(max(0.0, seconds - before.own.get(pid, 0.0)) for pid, seconds in now.own.items())
        return max(0.0, (now.busy - before.busy - own) / (now.clock - before.clock))


def read_processors() -> Reading | None:
    """The times of the processors that this process may run on; None if the system does not say.

    Source: proc(5), /proc/stat and /proc/PID/stat.
    """
    try:
        names = {f"cpu{number}" for number in os.sched_getaffinity(0)}
        tick = 1 / os.sysconf("SC_CLK_TCK")
        rows = [line.split() for line in (PROC / "stat").read_text().splitlines() if line.startswith("cpu")]
        busy = sum(int(row[1 + place]) for row in rows if row[0] in names for place in TICKS_IN_USE)
    except (OSError, ValueError, IndexError, AttributeError):
        return None
    return Reading(time.perf_counter(), busy * tick, {0: time.process_time(), **_children(tick)}) if busy else None


def _children(tick: float) -> dict[int, float]:
    used: dict[int, float] = {}
    with contextlib.suppress(OSError):
        for pid in (PROC / f"self/task/{threading.get_native_id()}/children").read_text().split():
            with contextlib.suppress(OSError):  # it has just ended
                row = (PROC / pid / "stat").read_text().rpartition(")")[2].split()
                used[int(pid)] = (int(row[11]) + int(row[12])) * tick
    return used


class ThreadWatch:
    """Adapts the number of threads of a training to the load of other programs.

    Args:
        is_on: False leaves the threads as they are. Sums of other threads round otherwise, so that a training that is
            to repeat its figures must be left alone.
    """

    def __init__(self, reporter: Reporter, *, is_on: bool) -> None:
        self.reporter, self.is_on = reporter, is_on and torch.get_num_threads() > 1
        self.others = OtherWork()
        self.chooser = ThreadChooser(torch.get_num_threads(), visible_cores())
        self._is_told = False

    def begin(self) -> None:
        """Choose from the load since this was created. Called before the first step."""
        others = self.others.since_last_look() if self.is_on else None
        if others is not None:
            self.chooser.guess(others)
            self._apply()

    @contextlib.contextmanager
    def step(self, images: torch.Tensor) -> Iterator[None]:
        """Time a training step on images (N, 3, H, W), and choose the threads of the next one."""
        started = time.perf_counter()
        yield
        if not self.is_on:
            return
        height, width = images.shape[2:]
        self.chooser.step((height, width), len(images), time.perf_counter() - started)
        others = self.others.since_last_look()
        if others is not None:
            self.chooser.look(others)
        self._apply()

    def _apply(self) -> None:
        count, most = self.chooser.count, self.chooser.most
        if count != torch.get_num_threads():
            torch.set_num_threads(count)
        if count < most and not self.chooser.is_trying and not self._is_told:
            self._is_told = True
            threads = "1 thread" if count == 1 else f"{count} threads"
            self.reporter.note(
                f"Other programs use this machine: training goes on with {threads} of {most}, which is faster now."
            )


def may_choose_threads(recipe: Recipe, device: str) -> bool:
    """Whether a training may change its threads: not if figures must repeat or the user has set their number.

    Several processes wait for each other, and each would take the others for other programs.
    """
    processes = recipe.engine.num_devices * recipe.engine.num_nodes
    return device == "cpu" and processes == 1 and not recipe.deterministic and not is_thread_count_chosen()


class KeptThreads(contextlib.ContextDecorator):
    """Restores the number of PyTorch threads at the end of the block."""

    def __enter__(self) -> None:
        self._before = torch.get_num_threads()

    def __exit__(self, *_: object) -> None:
        if torch.get_num_threads() != self._before:
            torch.set_num_threads(self._before)
