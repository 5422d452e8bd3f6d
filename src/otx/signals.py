"""SIGTERM ends a command as Ctrl-C does: what was written stays whole, and the exit code says what happened."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

from otx.errors import StoppedError

# timeout(1) sends the signal to its child and to the child's group, torchrun hands on what the group got as well
SAME_SECONDS = 2.0
AGAIN_SECONDS = 0.02
SS_DISABLE = 2


class Terminated(KeyboardInterrupt):
    """SIGTERM arrived. Who lets a Ctrl-C through, or cleans up after one, does the same here."""


def signal_of(stop: BaseException | None) -> signal.Signals:
    """The signal behind an interruption; Lightning turns a Ctrl-C into a SystemExit that was raised in its place."""
    is_sigterm = isinstance(stop, Terminated) or (stop is not None and isinstance(stop.__context__, Terminated))
    return signal.SIGTERM if is_sigterm else signal.SIGINT


def name_of(number: signal.Signals) -> str:
    """What a person calls a signal."""
    return "Ctrl-C" if number == signal.SIGINT else number.name


class SecondSigterm:
    """While it is open, another SIGTERM ends the process at once, also where Python itself is waiting for a library.

    Another one is one that comes SAME_SECONDS after this was made, or later. Made in the main thread.
    """

    def __init__(self) -> None:
        self._made = time.monotonic()
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._before = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._watch, daemon=True, name="second-sigterm")
        self._thread.start()

    def _watch(self) -> None:
        while number := os.read(self._read, 1)[0]:
            if number == signal.SIGTERM and time.monotonic() - self._made > SAME_SECONDS:
                os._exit(128 + signal.SIGTERM)

    def close(self) -> None:
        signal.set_wakeup_fd(self._before)
        os.write(self._write, b"\0")
        self._thread.join()
        os.close(self._read)
        os.close(self._write)


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """Let SIGTERM raise Terminated in the main thread, where nobody has asked for something else to happen.

    A library that calls Python may make an error of its own out of an interruption, Ctrl-C too: the interruption is
    what is raised here.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    owner = os.getpid()
    with contextlib.ExitStack() as watching:

        def end(number: int, frame: FrameType | None) -> None:
            # a data worker that was just forked still has this handler
            if os.getpid() == owner and Terminated not in seen:
                seen.append(Terminated)
                # without a thread or a file to spare there is no second one
                with contextlib.suppress(OSError, RuntimeError):
                    if not second:
                        second.append(SecondSigterm())
                        watching.callback(second[0].close)
                raise Terminated

        def press(number: int, frame: FrameType | None) -> None:
            seen.append(KeyboardInterrupt)
            raise KeyboardInterrupt

        seen: list[type[KeyboardInterrupt]] = []
        second: list[SecondSigterm] = []
        watching.enter_context(_lost_ones_again(seen.clear))
        watching.enter_context(_handled(signal.SIGTERM, end))
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            watching.enter_context(_handled(signal.SIGINT, press))
        try:
            yield
        except Exception as error:
            if not seen or isinstance(error, StoppedError):
                raise
            raise seen[0] from error


@contextlib.contextmanager
def _handled(number: signal.Signals, handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    before = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before)


@contextlib.contextmanager
def _lost_ones_again(forget: Callable[[], None]) -> Iterator[None]:
    """Let an interruption come again that comes within a destructor or the callback of a weak reference.

    Python lets no exception out of these: it prints it, and goes on as if nothing had happened.
    """
    owner, show = os.getpid(), sys.unraisablehook

    def keep(lost: sys.UnraisableHookArgs) -> None:
        if os.getpid() != owner or not isinstance(lost.exc_value, KeyboardInterrupt):
            show(lost)
            return
        forget()
        with contextlib.suppress(RuntimeError):
            threading.Timer(AGAIN_SECONDS, _interrupt, [signal_of(lost.exc_value)]).start()

    sys.unraisablehook = keep
    try:
        yield
    finally:
        sys.unraisablehook = show


def _interrupt(number: signal.Signals) -> None:
    """Send a signal to the main thread."""
    main = threading.main_thread().ident
    if hasattr(signal, "pthread_kill") and main is not None:
        signal.pthread_kill(main, number)
    else:
        signal.raise_signal(number)


def outlive_signals() -> None:
    """Let a data worker go on when a signal goes to all processes: its parent ends it, when it has no more use for it.

    What the parent itself sends ends it at once. Where the system does not tell who sent a signal, every SIGTERM does.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_for_parent, args=(os.getppid(),), daemon=True).start()


def _end_for_parent(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)


class _Stack(ctypes.Structure):
    _fields_ = (("place", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


def drop_signal_stack() -> None:
    """Let this thread handle signals on its ordinary stack, whatever deleted cores have left (`inference/runtime.py`).

    Elsewhere than on Linux the call or its structure is another, and nothing happens.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).sigaltstack(ctypes.byref(_Stack(None, SS_DISABLE, 0)), None)
