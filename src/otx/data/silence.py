"""Silence warnings in any number of threads at once."""

from __future__ import annotations

import threading
import warnings


class Silence:
    """A context without warnings, from the first thread that enters it until the last one that leaves it.

    Filters of warnings are those of all threads, and `warnings.catch_warnings` brings back those that it found: where
    threads overlap, one of them brings back the filter of another, which then stays for ever.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._caught = warnings.catch_warnings()

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            if self._inside == 1:
                self._caught = warnings.catch_warnings()
                self._caught.__enter__()
                warnings.simplefilter("ignore")

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._caught.__exit__(None, None, None)
