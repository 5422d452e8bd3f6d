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

# timeout(1) sends the signal to its child and to the child's group, torchrun hands on what the group got as well
SAME_SECONDS = 2.0
AGAIN_SECONDS = 0.02
IMPORTS = "<frozen importlib._bootstrap>"
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

    Ctrl-C raises KeyboardInterrupt as ever. Where a library makes an error of its own out of either, it is still the
    interruption that is raised here.
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
    """Raises signals in the main thread, where Python and the libraries let an exception through.

    Args:
        opened: what is closed when signals are not listened to any more.
    """

    def __init__(self, opened: contextlib.ExitStack) -> None:
        self.raised: list[type[KeyboardInterrupt]] = []
        self._opened, self._owner, self._second = opened, os.getpid(), False
        self._imports, self._show = _count_imports(sys._getframe()), sys.unraisablehook

    def end(self, number: int, frame: FrameType | None) -> None:
        """Handle SIGTERM; several at once are one."""
        # a data worker that was just forked still has this handler
        if os.getpid() == self._owner and Terminated not in self.raised and not self._is_later(number, frame):
            self.raised.append(Terminated)
            # without a thread or a file to spare there is no second one
            with contextlib.suppress(OSError, RuntimeError):
                if not self._second:
                    self._opened.callback(SecondSigterm().close)
                    self._second = True
            raise Terminated

    def press(self, number: int, frame: FrameType | None) -> None:
        """Handle Ctrl-C."""
        if not self._is_later(number, frame):
            self.raised.append(KeyboardInterrupt)
            raise KeyboardInterrupt

    def _is_later(self, number: int, frame: FrameType | None) -> bool:
        """Whether an import is under way, and the signal comes again: C++ code that imports may end the process."""
        return _count_imports(frame) > self._imports and _send_later(signal.Signals(number))

    def keep(self, lost: sys.UnraisableHookArgs) -> None:
        """Let an interruption come again that came within a destructor or the callback of a weak reference.

        Python lets no exception out of these: it shows it, and goes on as if nothing had happened.
        """
        if os.getpid() != self._owner or not isinstance(lost.exc_value, KeyboardInterrupt):
            self._show(lost)
            return
        self.raised.clear()
        _send_later(signal_of(lost.exc_value))


def _count_imports(frame: FrameType | None) -> int:
    """How many imports are under way, one within the other, where a thread runs a frame."""
    count = 0
    while frame is not None:
        count += frame.f_code.co_filename == IMPORTS
        frame = frame.f_back
    return count


def _send_later(number: signal.Signals) -> bool:
    """Send a signal to the main thread in a moment; False where there is no thread to spare for that."""
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
