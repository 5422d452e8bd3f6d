"""Folders for what is not a person's result: temporary files and caches, where the usual ones cannot be written to."""

from __future__ import annotations

import contextlib
import functools
import getpass
import os
import tempfile
from pathlib import Path

TEMPORARY = ".tmp"


def prepare_places(work_dir: Path) -> None:
    """Let this process and its children have a folder for temporary files, one for caches, and a user's name.

    Containers run with a read-only root, with a home that is missing, and with a user id that has no name; libraries
    of others then fail far from where that could be said. Nothing changes where the usual places can be used.
    """
    _prepare_temporary(work_dir)
    if _home() is None:  # libraries ask for it without a second thought
        os.environ["HOME"] = str(fallback_cache())
    if not _has_cache():
        os.environ.setdefault("XDG_CACHE_HOME", str(fallback_cache()))
    try:
        getpass.getuser()
    except (OSError, KeyError, ImportError):  # KeyError until Python 3.12
        os.environ["USER"] = f"user{os.getuid()}" if hasattr(os, "getuid") else "user"


def cache_folder() -> Path:
    """Where otx keeps what it can make again: `OTX_CACHE`, `~/.cache/otx`, or a temporary folder without a home."""
    if given := os.environ.get("OTX_CACHE"):
        return Path(given)
    home = _home()
    usual = home / ".cache" / "otx" if home else None
    return usual if usual and (_is_folder(usual) or _can_make(usual)) else fallback_cache() / "otx"


def fallback_cache() -> Path:
    """A folder among the temporary files that nobody else can have prepared: libraries run what they find in caches."""
    user = os.getuid() if hasattr(os, "getuid") else 0
    folder = Path(tempfile.gettempdir()) / f"otx-cache-{user}"
    with contextlib.suppress(OSError):  # whoever writes there says so in words
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
    with contextlib.suppress(OSError):  # whoever writes there says so in words
        folder.mkdir(parents=True, exist_ok=True)
    tempfile.tempdir = os.environ["TMPDIR"] = str(folder)


def _has_cache() -> bool:
    """Whether there is a cache, be it one that came with a container's image and can only be read."""
    home = _home()
    return home is not None and (_is_folder(home / ".cache") or _can_make(home / ".cache"))


def _home() -> Path | None:
    try:
        return Path.home()
    except RuntimeError:  # no HOME, and a user without a name
        return None


def _can_make(folder: Path) -> bool:
    """Whether the nearest folder above that exists can be written to."""
    above = next(parent for parent in folder.parents if os.path.lexists(parent))
    return os.access(above, os.W_OK | os.X_OK)


def _is_folder(path: Path) -> bool:
    """Also where a folder above may not be looked into, for which pathlib raises an error."""
    return os.path.isdir(path)  # noqa: PTH112
