"""A limit of time for a whole `otx train`: what still fits is decided from the speed that was measured so far."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from otx.duration import seconds_of

# seconds of one processor to write the report: its pictures, plots and saliency maps
REPORT_SECONDS = 12.0
# the smallest part of a processor that this process is expected to get beside other programs
LEAST_SHARE = 0.15
# calibration and the report compute the validation images again, in float32
REPORT_VALIDATIONS = 3.0
# a step of the whole network takes about as long as three of features alone
STEP_PER_FEATURE = 3.0
# what is begun has to fit with this much to spare, since speed varies
SPARE = 1.1
# the part of an epoch that is worth to be begun
WORTH = 0.3
# more features are not computed: of training images for the classifier, and at the end for what the model knows
MAX_FEATURES = 10_000
# checks and features may take at most these shares of the limit
CHECK_SHARE, PROBE_SHARE = 0.15, 0.4


@dataclass
class Budget:
    """The time that a training may take.

    Args:
        limit: seconds for the whole command; None: no limit.
        began: when the command began, by `clock`.
        worked: the processor time of this process.
        with_report: keep time for the report.

    Attributes:
        ending: seconds after the last epoch in which the model is completed from its training images.
        is_used_up: the training was ended since no further epoch would have fitted.
    """

    limit: float | None = None
    began: float = field(default_factory=time.monotonic)
    with_report: bool = True
    clock: Callable[[], float] = time.monotonic
    worked: Callable[[], float] = time.process_time
    is_used_up: bool = False
    ending: float = 0.0
    _validation: float = 0.0
    _expected: float = 0.0
    _epochs: list[float] = field(default_factory=list)

    @classmethod
    def of(cls, text: str | None, began: float, *, with_report: bool) -> Budget:
        """The budget of a recipe's `max_time`."""
        return cls(None if text is None else seconds_of(text), began, with_report)

    @property
    def left(self) -> float:
        """Seconds until the end, without those that the report needs."""
        if self.limit is None:
            return math.inf
        report = REPORT_SECONDS / self.share + REPORT_VALIDATIONS * self._validation if self.with_report else 0.0
        return self.limit - (self.clock() - self.began) - self.ending - report

    @property
    def share(self) -> float:
        """How much of a processor this process has got so far, LEAST_SHARE to 1: other programs take the rest."""
        return min(1.0, max(LEAST_SHARE, self.worked() / max(1e-9, self.clock() - self.began)))

    @property
    def epoch_seconds(self) -> float:
        """How long an epoch takes with its validation: the slower of the last two, before them what is expected."""
        return max(self._epochs[-2:], default=self._expected)

    def affords(self, seconds: float, share: float) -> bool:
        """Whether something that takes `seconds` is within a share of the limit, and before its end."""
        return self.limit is None or (seconds <= share * self.limit and seconds <= self.left)

    def expect(self, seconds: float, num_train: int, num_val: int) -> None:
        """Estimate an epoch, a validation and what comes after the last epoch from the features of one image."""
        self.ending = seconds * min(MAX_FEATURES, num_train)
        if not self._epochs:
            self._validation = seconds * num_val
            self._expected = STEP_PER_FEATURE * seconds * num_train + self._validation

    def measured(self, epoch: float, validation: float) -> None:
        """Add the seconds of an epoch, and of its validation."""
        self._epochs.append(epoch)
        self._validation = validation

    def allows_epoch(self) -> bool:
        """Whether enough of one more epoch fits, with its validation; if not, the budget is used up."""
        part = self._validation + WORTH * (self.epoch_seconds - self._validation)
        self.is_used_up = self.is_used_up or self.left < SPARE * part
        return not self.is_used_up

    def ends_epoch(self) -> bool:
        """Whether an epoch has to end now, since what is left is needed to validate it."""
        self.is_used_up = self.is_used_up or self.left < SPARE * self._validation
        return self.is_used_up

    def plan_in_words(self) -> str:
        """How many more epochs fit, from the speed of those measured or expected."""
        left = max(0.0, self.left)
        count = left / max(1e-9, self.epoch_seconds)
        return (
            f"--max_time: {left:.0f} s are left before the report, enough for about {count:.1f} epochs of "
            f"{self.epoch_seconds:.0f} s."
        )
