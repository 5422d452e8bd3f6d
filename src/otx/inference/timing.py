"""Measure how long work takes, in turns, so that other load on the machine affects all that is compared alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

ROUNDS = 10

Work = Callable[[int], list[float]]
"""Does something a number of times, and returns the measurements: the seconds of each time, or one rate."""


def measure_in_turns(
    works: Mapping[str, Work],
    seconds: float,
    *,
    rounds: int = ROUNDS,
    on_round: Callable[[int], None] = lambda number: None,
) -> dict[str, list[float]]:
    """Do each work in turns, and collect what each returns.

    Each turn begins with one time that does not count: it finds the caches full of another work's data, and threads of
    another library that still wait for more. Every second round goes backwards.

    Args:
        seconds: how long each is measured in all; a turn lasts `seconds / rounds`, and at least one time.
        on_round: gets the number of rounds done.
    """
    counts = {name: _times_in(work, seconds / rounds) for name, work in works.items()}
    measured: dict[str, list[float]] = {name: [] for name in works}
    for number in range(rounds):
        for name in list(works)[:: 1 if number % 2 == 0 else -1]:
            works[name](1)
            measured[name] += works[name](counts[name])
        on_round(number + 1)
    return measured


def _times_in(work: Work, seconds: float) -> int:
    """How many times work can be done in `seconds`; the first time, which is slower, does not count."""
    work(1)
    started = time.perf_counter()
    work(1)
    return max(1, round(seconds / max(time.perf_counter() - started, 1e-6)))
