"""Temporary files and caches get another folder if the usual ones are not writable."""

from __future__ import annotations

import getpass
import os
import tempfile
from pathlib import Path

import pytest

from otx.places import cache_folder, fallback_cache, prepare_places


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", os.environ.copy())
    monkeypatch.setattr(tempfile, "tempdir", None)
    for name in ("OTX_CACHE", "XDG_CACHE_HOME"):
        os.environ.pop(name, None)


def test_where_everything_can_be_used_nothing_changes(tmp_path: Path) -> None:
    os.environ["HOME"], os.environ["USER"] = str(tmp_path), "somebody"
    before = dict(os.environ)
    prepare_places(tmp_path / "ws")
    assert dict(os.environ) == before and not (tmp_path / "ws").exists()
    assert cache_folder() == tmp_path / ".cache" / "otx"


def test_without_a_temporary_folder_the_work_dir_has_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> str:
        raise FileNotFoundError(2, "No usable temporary directory found")

    with monkeypatch.context() as patched:
        patched.setattr(tempfile, "gettempdir", none)
        prepare_places(tmp_path / "ws")
    assert tempfile.gettempdir() == os.environ["TMPDIR"] == str(tmp_path / "ws" / ".tmp")
    with tempfile.TemporaryDirectory() as folder:
        assert Path(folder).parent == tmp_path / "ws" / ".tmp"


def test_without_a_home_caches_lie_with_the_temporary_files(tmp_path: Path) -> None:
    os.environ["HOME"] = "/dev/null/home"
    tempfile.tempdir = str(tmp_path)
    prepare_places(tmp_path)
    assert Path(os.environ["XDG_CACHE_HOME"]).parent == tmp_path
    assert tmp_path in cache_folder().parents


def test_a_user_without_a_name_gets_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pwd = pytest.importorskip("pwd")

    def unknown(uid: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME", "HOME"):
        os.environ.pop(name, None)
    prepare_places(tmp_path)
    assert getpass.getuser() == f"user{os.getuid()}"
    assert cache_folder().name == "otx" and Path.home().is_absolute()


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="only root can give a folder away")
def test_a_folder_that_somebody_else_has_prepared_is_not_used(tmp_path: Path) -> None:
    tempfile.tempdir = str(tmp_path)
    theirs = tmp_path / f"otx-cache-{os.getuid()}"
    theirs.mkdir()
    os.chown(theirs, 12345, 12345)
    assert fallback_cache() != theirs and fallback_cache() == fallback_cache()
