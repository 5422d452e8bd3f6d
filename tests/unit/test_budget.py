"""A limit of time: what is begun has to fit, whatever the speed."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otx.duration import seconds_of
from otx.errors import RecipeError
from otx.recipe import Recipe
from otx.training.budget import REPORT_SECONDS, REPORT_VALIDATIONS, Budget


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("20m", 1200), ("1h30m", 5400), ("45", 45), ("1.5h", 5400), ("20 min", 1200)]
)
def test_a_time_is_read(text: str, seconds: float) -> None:
    assert seconds_of(text) == seconds
    assert Recipe().override({"max_time": text}).max_time == text


@pytest.mark.parametrize("text", ["", "soon", "-5m", "20x", "10s", "1m2h", "1h30", "2m5"])
def test_a_time_that_is_none_or_too_short_is_refused(text: str) -> None:
    with pytest.raises(RecipeError, match="'max_time' must be a time of 30 s at least"):
        Recipe().override({"max_time": text})


def test_without_a_limit_everything_fits() -> None:
    budget = Budget()
    budget.measured(1e9, 1e8)
    assert budget.left == math.inf
    assert budget.allows_epoch()
    assert budget.affords(1e9, 0.01)
    assert not budget.ends_epoch()


@given(st.floats(40, 5000), st.floats(0.5, 200), st.floats(0.01, 0.5))
def test_the_report_always_fits_behind_the_last_epoch(limit: float, epoch: float, share: float) -> None:
    clock, validation = Clock(), share * epoch
    budget = Budget(limit, 0.0, clock=clock, worked=clock)
    # features of one image take as long as a validation, and a step three times as long
    budget.expect(validation, (epoch - validation) / (3 * validation), 1)
    begun = 0
    while budget.allows_epoch() and begun < 20_000:
        begun += 1
        started, step = clock.now, (epoch - validation) / 50
        for _ in range(50):
            clock.now += step
            if budget.ends_epoch():
                break
        clock.now += validation
        budget.measured(clock.now - started, validation)
    report = REPORT_SECONDS + REPORT_VALIDATIONS * validation + budget.ending
    # at most one step too late
    assert clock.now + report <= limit + (epoch - validation) / 50 or begun == 0
    assert budget.is_used_up


def test_a_run_that_is_twice_as_slow_as_expected_ends_in_time() -> None:
    clock = Clock()
    budget = Budget(100.0, 0.0, clock=clock, worked=clock)
    budget.expect(1.0, 3, 1)
    assert budget.epoch_seconds == 10.0
    assert budget.allows_epoch()
    clock.now = 20.0
    budget.measured(20.0, 2.0)
    assert budget.epoch_seconds == 20.0
    assert "epochs of 20 s" in budget.plan_in_words()


def test_beside_other_programs_more_time_is_kept_for_the_report() -> None:
    clock = Clock()
    alone = Budget(100.0, 0.0, clock=clock, worked=clock)
    beside = Budget(100.0, 0.0, clock=clock, worked=lambda: clock.now / 2)
    clock.now = 20.0
    assert alone.left == 80.0 - REPORT_SECONDS
    assert beside.left == 80.0 - 2 * REPORT_SECONDS
