"""Check that data workers can start: if not forked (macOS, Windows, Python 3.14), they import the main script again."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import subprocess
import sys
from multiprocessing import process, spawn
from pathlib import Path

from otx.errors import InputError

LIMIT = 60
STARTS_AGAIN_CODE = 86  # the exit code of a process that finds this out in the place of its caller
GUARD = """\
put what your script starts below `if __name__ == "__main__":`
    from otx import Engine

    if __name__ == "__main__":
        Engine("my_photos").train()"""
STARTS_AGAIN = "the processes that load images import your script again, and it starts a training there, too"
NO_WORKERS = (
    "Images are loaded without further processes, which would have to import your script again: it came from standard "
    "input. Write it to a file to train faster."
)
IMPORT = """\
import pickle, sys
from multiprocessing import process, spawn
process.current_process()._inheriting = True
spawn.prepare(pickle.load(sys.stdin.buffer))"""


def forks() -> bool:
    """Whether new processes are forked; unlike `multiprocessing.get_start_method()` this does not fix the method."""
    chosen = multiprocessing.get_start_method(allow_none=True)
    return (chosen or multiprocessing.get_all_start_methods()[0]) == "fork"


def can_start_workers() -> bool:
    """Whether data workers can start: spawned ones cannot import a script that came from standard input."""
    script = _main_script()
    return forks() or script is None or script.is_file()


def check_script() -> None:
    """Check that a spawned data worker could import the main script; a forked one need not.

    Raises:
        InputError: the script starts a training while it is imported, or fails.
        SystemExit: in a process that imports the script again, before it starts a training there.
    """
    if getattr(process.current_process(), "_inheriting", False):
        sys.stderr.write(f"error: {STARTS_AGAIN}\n  fix: {GUARD}\n")
        raise SystemExit(STARTS_AGAIN_CODE)
    is_frozen = getattr(sys, "frozen", False)  # a program made of Python and a script: the script is not imported
    if forks() or is_frozen or _main_script() is None or not can_start_workers():
        return
    code, said = _import_again()
    if code == STARTS_AGAIN_CODE:
        raise InputError(STARTS_AGAIN, fix=GUARD)
    if code:
        raise InputError(f"the processes that load images cannot import your script: {said}", fix=GUARD)


def _main_script() -> Path | None:
    """The file that spawned processes import, if there is one (none in a notebook, nor with `python -c`)."""
    main = sys.modules["__main__"]
    name = getattr(getattr(main, "__spec__", None), "name", None)
    # `python -m package` is never imported again
    is_program = name is not None and name.rpartition(".")[2] == "__main__"
    return None if is_program or getattr(main, "__file__", None) is None else Path(str(main.__file__))


def _import_again() -> tuple[int, str]:
    """Import the script as a spawned process does; return the exit code and the last line of its errors."""
    data = spawn.get_preparation_data("otx")
    data.pop("authkey", None)
    python = os.fsdecode(spawn.get_executable())
    command = [python, *subprocess._args_from_interpreter_flags(), "-c", IMPORT]  # type: ignore[attr-defined]
    try:
        done = subprocess.run(command, input=pickle.dumps(data), capture_output=True, timeout=LIMIT, check=False)
    except subprocess.TimeoutExpired:
        return 0, ""  # a slow script, and each worker will take as long
    lines = done.stderr.decode(errors="replace").strip().splitlines()
    return done.returncode, lines[-1] if lines else f"it ends with exit code {done.returncode}"
