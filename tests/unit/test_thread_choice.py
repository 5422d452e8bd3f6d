"""A training chooses its threads by the processors that other programs leave, and by what proves faster."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from otx.recipe import Recipe
from otx.training.acceleration import threads
from otx.training.acceleration.threads import OtherWork, Reading, ThreadChooser, may_choose_threads

SIZE = (224, 224)


class Machine:
    """Simulated processors, shared fairly with other programs; threads that wait for each other lose most."""

    def __init__(self, cores: int, *, others: float = 0.0, most: int | None = None, waiting: float = 4.0) -> None:
        self.cores, self.others, self.waiting = cores, others, waiting
        self.chooser = ThreadChooser(most or cores, cores)
        self.clock = 0.0
        self.counts: list[int] = []

    def run(self, steps: int, *, every: int = 5) -> int:
        """Run steps, every few a smaller one (the end of an epoch); returns the number of threads at the end."""
        since, used = 0.0, 0.0
        for number in range(1, steps + 1):
            images, work = (12, 0.5) if number % every == 0 else (64, 1.6)
            count = self.chooser.count
            crowd = max(1.0, (count + self.others) / self.cores)
            lasted = work / count * crowd * (self.waiting if count > 1 and crowd > 1 else 1)
            self.counts.append(count)
            self.chooser.step(SIZE, images, lasted)
            since, used, self.clock = since + lasted, used + lasted * self.others / crowd, self.clock + lasted
            if since >= threads.LOOK_SECONDS:
                self.chooser.look(used / since)
                since = used = 0.0
        return self.chooser.count


@pytest.mark.parametrize("cores", [1, 2, 3, 8, 64])
def test_alone_nothing_is_tried(cores: int) -> None:
    machine = Machine(cores, others=0.2)
    machine.run(200)
    assert set(machine.counts) == {cores}


@pytest.mark.parametrize(("cores", "others", "count"), [(2, 1, 1), (2, 5, 1), (8, 1, 7), (8, 3, 5), (64, 1, 63)])
def test_beside_others_it_computes_on_the_processors_they_leave(cores: int, others: float, count: int) -> None:
    machine = Machine(cores)
    machine.run(20)
    machine.others = others
    assert machine.run(300) == count
    assert machine.counts[20:].count(cores) <= 60


def test_all_threads_come_back_when_the_others_end() -> None:
    machine = Machine(2, others=1)
    assert machine.run(30) == 1
    machine.others = 0
    assert machine.run(20) == 2


@pytest.mark.parametrize(("cores", "others"), [(2, 0.6), (8, 3.5), (64, 20)])
def test_what_is_not_faster_is_given_up_and_seldom_tried_again(cores: int, others: float) -> None:
    tried, left_alone = Machine(cores, others=others, waiting=0.5), Machine(cores, others=others, waiting=0.5)
    left_alone.chooser.look = lambda _: None  # type: ignore[method-assign]
    assert tried.run(1000) == left_alone.run(1000) == cores
    assert min(tried.counts) < cores
    assert tried.clock < 1.04 * left_alone.clock


def test_within_a_quota_work_on_other_processors_does_not_matter() -> None:
    machine = Machine(64, others=40, most=2)
    machine.run(100)
    assert set(machine.counts) == {2}


def test_images_of_a_new_size_are_no_reason_to_keep_another_number() -> None:
    chooser = ThreadChooser(2, 2)
    chooser.step((160, 160), 64, 1.0)
    chooser.look(1.0)
    assert (chooser.count, chooser.is_trying) == (1, True)
    for _ in range(threads.MAX_UNKNOWN_STEPS):
        chooser.step(SIZE, 64, 9.0)
    assert (chooser.count, chooser.is_trying) == (2, False)


def test_after_a_short_disturbance_it_is_still_ready_for_a_long_one() -> None:
    chooser = ThreadChooser(2, 2)
    chooser.step(SIZE, 64, 2.0)
    chooser.look(0.8)
    chooser.step(SIZE, 64, 4.0)
    assert (chooser.count, chooser.is_trying) == (2, False)
    chooser.step(SIZE, 64, 2.0)
    chooser.look(0.8)
    assert not chooser.is_trying
    chooser.step(SIZE, 64, 8.0)
    chooser.look(0.8)
    assert (chooser.count, chooser.is_trying) == (1, True)


def test_a_failed_return_to_all_threads_is_repeated() -> None:
    machine = Machine(2, others=1)
    assert machine.run(30) == 1
    machine.others = 0.0
    machine.chooser.look(0.0)
    machine.chooser.step(SIZE, 64, 2.0)
    machine.chooser.look(0.0)
    machine.chooser.step(SIZE, 64, 20.0)
    assert machine.chooser.count == 1
    assert machine.run(150) == 2


def test_before_the_first_step_it_begins_with_what_is_free() -> None:
    chooser = ThreadChooser(4, 4)
    chooser.guess(0.1)
    assert chooser.count == 4
    chooser.guess(1.0)
    assert chooser.count == 2  # the others may get only half of what they want
    assert not chooser.is_trying


def test_others_are_what_is_neither_this_process_nor_its_children(monkeypatch: pytest.MonkeyPatch) -> None:
    readings: Iterator[Reading] = iter(
        [Reading(0.0, 50.0, {0: 5.0, 7: 3.0, 8: 9.0}), Reading(2.0, 53.5, {0: 6.5, 7: 3.2, 9: 0.1})]
    )
    monkeypatch.setattr(threads.time, "perf_counter", lambda: 2.0)
    assert OtherWork(lambda: next(readings)).since_last_look() == pytest.approx((3.5 - 1.5 - 0.2 - 0.1) / 2)


def test_a_system_that_does_not_tell_is_left_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(threads, "PROC", tmp_path)
    assert threads.read_processors() is None
    (tmp_path / "stat").write_text("cpu0 0 0 0 0\ncpu1 0 0 0 0\n")
    assert threads.read_processors() is None
    assert OtherWork().since_last_look() is None


@pytest.mark.skipif(not Path("/proc/stat").is_file(), reason="needs Linux")
def test_the_work_of_a_child_is_seen_as_own() -> None:
    child = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            time.sleep(0.2)
            reading = threads.read_processors()
            assert reading is not None
            if reading.own.get(child.pid, 0.0) > 0.05:
                return
        pytest.fail(f"{child.pid} is not among {reading.own}")
    finally:
        child.kill()
        child.wait()


def test_threads_are_left_alone_where_figures_repeat_or_a_person_chose(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    recipe = Recipe()
    assert may_choose_threads(recipe, "cpu")
    assert not may_choose_threads(recipe, "gpu")
    assert not may_choose_threads(recipe.override({"deterministic": True}), "cpu")
    assert not may_choose_threads(recipe.override({"engine.num_devices": 2}), "cpu")
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert not may_choose_threads(recipe, "cpu")
