"""SIGTERM ends a command as Ctrl-C does: what was written stays whole, and the exit code says what happened."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType

from otx.errors import StoppedError

# one stop may arrive twice: timeout(1) signals its child and the child's group, torchrun forwards its group's signal
SAME_SECONDS = 2.0
AGAIN_SECONDS = 0.02
IMPORTS = "<frozen importlib._bootstrap>"
SS_DISABLE = 2


class Terminated(KeyboardInterrupt):
    """SIGTERM arrived. Code that passes on a Ctrl-C, or cleans up after one, does the same here."""


def signal_of(stop: BaseException | None) -> signal.Signals:
    """The signal behind an interruption, or behind an exception that was raised while one was handled."""
    is_sigterm = isinstance(stop, Terminated) or (stop is not None and isinstance(stop.__context__, Terminated))
    return signal.SIGTERM if is_sigterm else signal.SIGINT


def name_of(number: signal.Signals) -> str:
    """The name of a signal for the user."""
    return "Ctrl-C" if number == signal.SIGINT else number.name


class SecondSigterm:
    """While it is open, a second SIGTERM ends the process at once, even while Python is waiting for a library.

    A SIGTERM within SAME_SECONDS of its creation still counts as the first. Create it in the main thread.
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
    """Make SIGTERM raise Terminated in the main thread, unless it has another handler already.

    Ctrl-C raises KeyboardInterrupt as usual. If a library turns either into an error of its own, the interruption is
    raised here instead.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    with contextlib.ExitStack() as opened:
        stops = _Interruptions(opened)
        opened.callback(setattr, sys, "unraisablehook", sys.unraisablehook)
        sys.unraisablehook = stops.keep
        opened.callback(signal.signal, signal.SIGTERM, signal.signal(signal.SIGTERM, stops.end))
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            opened.callback(signal.signal, signal.SIGINT, signal.signal(signal.SIGINT, stops.press))
        try:
            yield
        except Exception as error:
            if not stops.raised or isinstance(error, StoppedError):
                raise
            raise stops.raised[0] from error


class _Interruptions:
    """Turns signals into exceptions in the main thread, at points where Python and the libraries let them through.

    Args:
        opened: is closed when the handlers are removed.
    """

    def __init__(self, opened: contextlib.ExitStack) -> None:
        self.raised: list[type[KeyboardInterrupt]] = []
        self._opened, self._owner, self._second = opened, os.getpid(), False
        self._imports, self._show = _count_imports(sys._getframe()), sys.unraisablehook

    def end(self, number: int, frame: FrameType | None) -> None:
        """Handle SIGTERM; several at once count as one."""
        # a data worker that was just forked still has this handler
        if os.getpid() == self._owner and Terminated not in self.raised and not self._postponed(number, frame):
            self.raised.append(Terminated)
            # if no thread or pipe can be opened, a second one is ignored
            with contextlib.suppress(OSError, RuntimeError):
                if not self._second:
                    self._opened.callback(SecondSigterm().close)
                    self._second = True
            raise Terminated

    def press(self, number: int, frame: FrameType | None) -> None:
        """Handle Ctrl-C."""
        if not self._postponed(number, frame):
            self.raised.append(KeyboardInterrupt)
            raise KeyboardInterrupt

    def _postponed(self, number: int, frame: FrameType | None) -> bool:
        """During an import, send the signal again later: C++ code that imports may end the process on an exception."""
        return _count_imports(frame) > self._imports and _send_later(signal.Signals(number))

    def keep(self, lost: sys.UnraisableHookArgs) -> None:
        """Send an interruption again that was raised in a destructor or in the callback of a weak reference.

        Python lets no exception out of these: it prints the exception and goes on.
        """
        if os.getpid() != self._owner or not isinstance(lost.exc_value, KeyboardInterrupt):
            self._show(lost)
            return
        self.raised.clear()
        _send_later(signal_of(lost.exc_value))


def _count_imports(frame: FrameType | None) -> int:
    """How many nested imports a frame is running in."""
    count = 0
    while frame is not None:
        count += frame.f_code.co_filename == IMPORTS
        frame = frame.f_back
    return count


def _send_later(number: signal.Signals) -> bool:
    """Send a signal to the main thread in a moment; False if no thread can be started for that."""
    try:
        threading.Timer(AGAIN_SECONDS, _send, [number]).start()
    except RuntimeError:
        return False
    return True


def _send(number: signal.Signals) -> None:
    main = threading.main_thread().ident
    if hasattr(signal, "pthread_kill") and main is not None:
        signal.pthread_kill(main, number)
    else:
        signal.raise_signal(number)


def outlive_signals() -> None:
    """Make a data worker ignore signals that go to all processes: its parent ends it when it is no longer needed.

    A SIGTERM from the parent ends it at once. If the system does not say who sent a signal, every SIGTERM does.
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
    """Make this thread handle signals on its normal stack, not on that of a deleted core (see `inference/runtime.py`).

    Outside Linux the call or its structure differs, and nothing happens.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).sigaltstack(ctypes.byref(_Stack(None, SS_DISABLE, 0)), None)
