"""Run a function in a child process: if a library crashes there, the caller gets an error with an explanation."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO, Any, NoReturn

from otx.errors import RunError
from otx.events import Progress, Reporter
from otx.results import EpochResult
from otx.signals import drop_signal_stack

CPUINFO = Path("/proc/cpuinfo")
ISA = "ONEDNN_MAX_CPU_ISA"
START = "import sys, json; sys.path[:] = json.loads(sys.argv[1]); from otx.child import main; main()"


@dataclass(frozen=True)
class Step:
    """What a child is doing (such as "measuring the speed of"), to which file, and with which packages."""

    doing: str
    file: str
    packages: tuple[str, ...]


class Watch:
    """The reporter of a function in a child: it sends everything through a pipe to the caller's reporter."""

    def __init__(self, pipe: IO[bytes]) -> None:
        self._pipe, self._lock = pipe, threading.Lock()

    def step(self, doing: str, file: Path | str, *packages: str) -> None:
        """Say what comes next, so that the error names it if it kills the process."""
        self.send("step", Step(doing, str(file), packages))

    def note(self, text: str) -> None:
        self.send("note", text)

    def warn(self, text: str) -> None:
        self.send("warn", text)

    def progress(self, progress: Progress) -> None:
        self.send("progress", progress)

    def epoch(self, result: EpochResult, max_epochs: int) -> None:
        raise NotImplementedError("no training runs in a child")

    def send(self, kind: str, value: Any) -> None:
        message = pickle.dumps((kind, value))
        with self._lock:
            self._pipe.write(message)
            self._pipe.flush()


def run_in_child(function: Callable[..., Any], *arguments: Any, reporter: Reporter) -> Any:
    """Return `function(watch, *arguments)`, computed in a new Python process.

    Its exceptions are raised here too. The child ends when the caller does, because its pipe closes.

    Args:
        function: a module-level function; it, its arguments and its result are pickled.
        reporter: gets what the function tells its `Watch`.

    Raises:
        RunError: the process was killed, by a crash or by the system.
    """
    command = [sys.executable, "-c", START, json.dumps(sys.path, default=str)]
    drop_signal_stack()  # the child's end raises SIGCHLD, for which torch's data workers have set a handler
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            with contextlib.suppress(BrokenPipeError):  # the child is gone already: _listen finds out why
                process.stdin.write(pickle.dumps((function, arguments)))
                process.stdin.flush()
            return _listen(process, process.stdout, reporter)
        finally:
            # do not wait for its pipes to close: a process that a library forked there may hold them open
            process.kill()
            process.wait()
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()


def _listen(process: subprocess.Popen[bytes], pipe: IO[bytes], reporter: Reporter) -> Any:
    step = Step("starting", "a process", ("otx",))
    while True:
        try:
            kind, value = pickle.load(pipe)
        except (EOFError, pickle.UnpicklingError):
            raise _crashed(process.wait(), step) from None
        match kind:
            case "result":
                return value
            case "error":
                raise value
            case "step":
                step = value
            case _:
                getattr(reporter, kind)(value)


def _crashed(code: int, step: Step) -> RunError:
    """The error for a child that ended without a result; a negative exit code is a signal."""
    number = -code
    name = signal.Signals(number).name if number in set(signal.Signals) else f"exit code {code}"
    packages = " or ".join(f"{package} {_version(package)}" for package in step.packages)
    if name in ("SIGKILL", "SIGTERM"):
        return RunError(
            f"the system ended the process ({name}) that was {step.doing} {step.file} with {packages}",
            fix="SIGKILL mostly means that the memory was full: close other programs, or give fewer images "
            "(--subset_size)",
        )
    return RunError(f"{packages} crashed ({name}) when {step.doing} {step.file}", fix=_suggested_fix(step))


def _suggested_fix(step: Step) -> str:
    if "onnxruntime" in step.packages:
        return "pip install --upgrade onnxruntime, or --export_format OPENVINO; please report it with `otx --version`"
    older = _older_instructions()
    if older == os.environ.get(ISA):
        return f"pip install --upgrade {' '.join(step.packages)}; {ISA}={older} did not help, please report it"
    return (
        f"put {ISA}={older} in front of the command (`{ISA}={older} otx ...`): older instructions, slower, well tried"
    )


def _older_instructions() -> str:
    """The value of ONEDNN_MAX_CPU_ISA that leaves out this processor's newest instructions."""
    try:
        text = CPUINFO.read_text()
    except OSError:
        return "AVX2"
    return "AVX512_CORE_VNNI" if "amx_int8" in text.split() else "AVX2"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def main() -> NoReturn:
    """The child: read one request from standard input, write messages to standard output, and exit without cleanup.

    What other code prints to standard output goes to standard error.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the caller handles Ctrl-C and ends this process
    with os.fdopen(os.dup(1), "wb") as pipe:
        os.dup2(2, 1)
        watch = Watch(pipe)
        try:
            function, arguments = pickle.load(sys.stdin.buffer)
            threading.Thread(target=_end_with_caller, args=(os.dup(0),), daemon=True).start()
            with open(os.devnull) as nothing:  # noqa: PTH123 - its descriptor is what counts
                os.dup2(nothing.fileno(), 0)
            answer = ("result", function(watch, *arguments))
        except BaseException as error:
            error.add_note("In a process of its own:\n" + traceback.format_exc())
            answer = ("error", error)
        try:
            watch.send(*answer)
        except (pickle.PicklingError, TypeError, AttributeError):
            watch.send("error", RuntimeError(f"cannot be sent: {answer!r}"))
    os._exit(0)


def _end_with_caller(pipe: int) -> None:
    """End this process when the pipe closes: then the caller is gone, for whatever reason.

    `os.read` takes no lock. A process that a library forks meanwhile would wait for the lock of a Python file.
    """
    os.read(pipe, 1)
    os._exit(1)
