"""Ask questions that may crash or block a process, in a new Python process."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from otx.signals import drop_signal_stack

UNKNOWN = "cannot be found out"
ANSWER = "otx answers: "
ASK = f"""
import importlib, json, sys
sys.path[:], module, name, arguments = json.loads(sys.argv[1])
answer = getattr(importlib.import_module(module), name)(*arguments)
sys.stdout.write({ANSWER!r} + json.dumps(answer) + chr(10))
"""


class NoAnswer(Exception):
    """The question has no answer; the text says why."""


class Crashed(NoAnswer):
    """The process that was asked was killed by a signal; the text names it."""


def ask(question: Callable[..., Any], *arguments: Any, seconds: float) -> Any:
    """Call a module-level function in a new Python process with the same `sys.path`, and return its result.

    Args:
        arguments: JSON values; the result must be one, too.
        seconds: how long to wait for it.

    Raises:
        Crashed: the process was killed.
        NoAnswer: it took too long, or raised an error.
    """
    called = json.dumps([sys.path, question.__module__, question.__name__, arguments])
    command = [sys.executable, "-c", ASK, called]
    drop_signal_stack()
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=seconds)
    except subprocess.TimeoutExpired as error:
        raise NoAnswer(f"no answer within {seconds:g} s") from error
    except OSError as error:
        raise NoAnswer(f"{sys.executable} cannot be started: {error.strerror or error}") from error
    if done.returncode < 0:
        raise Crashed(_signal_name(-done.returncode))
    answers = [line for line in done.stdout.splitlines() if line.startswith(ANSWER)]
    if done.returncode or not answers:
        raise NoAnswer(_last_line(done.stderr) or f"exit code {done.returncode}")
    return json.loads(answers[-1].removeprefix(ANSWER))


def attempt(find_out: Callable[[], Any]) -> Any:
    """The result of a function, or a NoAnswer for any error: errors belong in the report, too."""
    try:
        return find_out()
    except NoAnswer as error:
        return error
    except Exception as error:
        return NoAnswer(f"{type(error).__name__}: {str(error)[:200]}")


def in_words(answer: Any) -> str:
    """An answer as text; for a NoAnswer, the reason."""
    return f"{UNKNOWN}: {answer}" if isinstance(answer, NoAnswer) else str(answer)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else ""
