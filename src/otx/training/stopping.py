"""What ends a training before its last epoch: signals and early stopping."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import subprocess
import threading
from collections.abc import Sequence
from fractions import Fraction
from types import FrameType
from typing import Any

import torch

from otx.events import Reporter
from otx.recipe import EarlyStoppingSettings
from otx.signals import SecondSigterm, name_of

STOPS = (signal.SIGINT, signal.SIGTERM)
WHOLE = Fraction(1)


class Interrupted(Exception):
    """Ctrl-C or SIGTERM arrived. Raised between two steps, so that no step is half done."""


class GracefulStop:
    """Ends the training between two steps on the first Ctrl-C or SIGTERM, and at once on the second."""

    def __init__(self, reporter: Reporter) -> None:
        self.reporter = reporter
        self.pressed: signal.Signals | None = None
        self.children: Sequence[subprocess.Popen[bytes]] = ()
        is_main = threading.current_thread() is threading.main_thread()
        self._before = {number: signal.getsignal(number) for number in STOPS} if is_main else {}
        self._second: SecondSigterm | None = None
        self._owner = os.getpid()

    def listen(self, launcher: Any) -> None:
        """Start to hold signals until `check`, and to pass them on to the processes of Fabric's launcher."""
        self.children = getattr(launcher, "procs", ())
        for number in self._before:
            signal.signal(number, self._press)

    def check(self) -> None:
        """Raise Interrupted if a signal has arrived."""
        if self.pressed is not None:
            raise Interrupted

    def close(self) -> None:
        """Restore the signal handlers."""
        if self._second is not None:
            self._second.close()
            self._second = None
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _press(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._owner:
            return  # a data worker that was just forked: its parent ends it
        if self.pressed is None:
            self.pressed = signal.Signals(number)
            signal.signal(signal.SIGINT, self._before[signal.SIGINT])
            with contextlib.suppress(OSError, RuntimeError):
                self._second = SecondSigterm()
            tell(self.children, signal.SIGTERM)
            again = name_of(self.pressed)
            self.reporter.note(f"{again}: stopping after this step; {again} again stops at once.")


def tell(children: Any, number: signal.Signals) -> None:
    """Send a signal to Fabric's processes, and make Fabric forget them: it would kill this one when they end."""
    for child in children:
        child.send_signal(number)
    if children:
        children.clear()


class EarlyStopping:
    """Counts the epochs in which the score did not rise, without those of the warm-up.

    Args:
        per_pass: how many epochs draw as many images as one that is not shortened. Patience and warm-up are as many
            times longer, so that they see as many images however short the epochs are.

    Attributes:
        epochs: the patience; None to wait for ever.
    """

    def __init__(self, settings: EarlyStoppingSettings, per_pass: Fraction = WHOLE) -> None:
        self.epochs = None if settings.patience is None else math.ceil(settings.patience * per_pass)
        self.min_delta, self.warmup = settings.min_delta, math.ceil(settings.warmup_epochs * per_pass)
        self.waited, self.whole = 0, settings.patience
        # float32 like the metric, so that comparing with `min_delta` is exact to the last bit
        self.best = torch.tensor(-torch.inf)

    @property
    def in_words(self) -> str:
        same = "" if self.epochs == self.whole else f", which draw as many images as {self.whole} whole ones"
        return f"{self.epochs} epochs{same}"

    @property
    def is_over(self) -> bool:
        return self.epochs is not None and self.waited >= self.epochs

    def update(self, epoch: int, score: float) -> None:
        """Add the score of an epoch, counted from 0."""
        if epoch < self.warmup:
            return
        now = torch.tensor(score)
        if now - self.min_delta > self.best:
            self.best, self.waited = now, 0
        else:
            self.waited += 1

    def begin_anew(self) -> None:
        """Start waiting again, when a run that has ended is given more epochs. The best score stays."""
        if self.is_over:
            self.waited = 0

    def state_dict(self) -> dict[str, Any]:
        return {"wait_count": self.waited, "best_score": self.best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        # the patience itself comes from the recipe, not from the checkpoint
        self.waited, self.best = state["wait_count"], state["best_score"].cpu()
