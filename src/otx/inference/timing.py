"""How long work takes, measured in turns: what else the machine does then hits everything that is compared alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

ROUNDS = 10

Work = Callable[[int], list[float]]
"""Does something so many times, and returns what was measured: the seconds of each time, or one rate."""


def measure_in_turns(
    works: Mapping[str, Work],
    seconds: float,
    *,
    rounds: int = ROUNDS,
    on_round: Callable[[int], None] = lambda number: None,
) -> dict[str, list[float]]:
    """Let each work be done again and again, one after another, and collect what each returns.

    Each turn begins with one time that does not count: it finds the caches full of what was computed before it, and
    threads of another library that still wait for more. Every second round goes backwards.

    Args:
        seconds: how long each is measured in all; a turn lasts `seconds / rounds`, and at least one time.
        on_round: is told how many rounds are done.
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
    """How many times work can be done in so many seconds; the first time, which is slower, does not count."""
    work(1)
    started = time.perf_counter()
    work(1)
    return max(1, round(seconds / max(time.perf_counter() - started, 1e-6)))
