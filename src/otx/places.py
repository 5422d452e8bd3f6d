"""Folders for temporary files and caches, also if the usual ones are not writable."""

from __future__ import annotations

import contextlib
import functools
import getpass
import os
import tempfile
from pathlib import Path

TEMPORARY = ".tmp"


def prepare_places(work_dir: Path) -> None:
    """Give this process and its children a folder for temporary files, one for caches, and a user name.

    Containers run with a read-only root, without a home, and with a user ID that has no name; third-party libraries
    then fail without saying so. Nothing changes if the usual places can be used.
    """
    _prepare_temporary(work_dir)
    if _home() is None:  # libraries take it for granted
        os.environ["HOME"] = str(fallback_cache())
    if not _has_cache():
        os.environ.setdefault("XDG_CACHE_HOME", str(fallback_cache()))
    try:
        getpass.getuser()
    except (OSError, KeyError, ImportError):  # KeyError until Python 3.12
        os.environ["USER"] = f"user{os.getuid()}" if hasattr(os, "getuid") else "user"


def cache_folder() -> Path:
    """The folder for files that otx can make again: `OTX_CACHE`, else `~/.cache/otx`, else a temporary folder."""
    if given := os.environ.get("OTX_CACHE"):
        return Path(given)
    home = _home()
    usual = home / ".cache" / "otx" if home else None
    return usual if usual and (_is_folder(usual) or _can_make(usual)) else fallback_cache() / "otx"


def fallback_cache() -> Path:
    """A temporary folder that no other user can have prepared: libraries run code that they find in caches."""
    user = os.getuid() if hasattr(os, "getuid") else 0
    folder = Path(tempfile.gettempdir()) / f"otx-cache-{user}"
    with contextlib.suppress(OSError):  # the code that writes there reports the error
        folder.mkdir(mode=0o700, exist_ok=True)
        if hasattr(os, "getuid") and folder.lstat().st_uid != user:
            return _own_folder()
    return folder


@functools.cache
def _own_folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="otx-cache-"))


def _prepare_temporary(work_dir: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        tempfile.gettempdir()
        return
    folder = work_dir.absolute() / TEMPORARY
    with contextlib.suppress(OSError):  # the code that writes there reports the error
        folder.mkdir(parents=True, exist_ok=True)
    tempfile.tempdir = os.environ["TMPDIR"] = str(folder)


def _has_cache() -> bool:
    """Whether there is a cache folder or one can be made; one in a container's image may be read-only."""
    home = _home()
    return home is not None and (_is_folder(home / ".cache") or _can_make(home / ".cache"))


def _home() -> Path | None:
    try:
        return Path.home()
    except RuntimeError:  # no HOME, and a user without a name
        return None


def _can_make(folder: Path) -> bool:
    """Whether the nearest existing parent folder is writable."""
    above = next(parent for parent in folder.parents if os.path.lexists(parent))
    return os.access(above, os.W_OK | os.X_OK)


def _is_folder(path: Path) -> bool:
    """Whether it is a folder; False if a parent may not be read, for which pathlib raises an error."""
    return os.path.isdir(path)  # noqa: PTH112
