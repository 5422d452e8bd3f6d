"""Simulated systems other than Linux: spawned processes, no symbolic links, missing functions."""

from __future__ import annotations

import ctypes
import errno
import multiprocessing
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from images import write_classes
from otx import Engine
from otx.data.dataset import ImageSet, Split, Subset
from otx.data.loader import Augmentation, Batching, ImageSubset, count_workers, train_loader
from otx.data.preprocessing import Preprocessing
from otx.machine import available_cores, memory_limit
from otx.memory import drop_freed_memory, keep_freed_memory
from otx.model.checksum import move_into_place
from otx.signals import drop_signal_stack
from otx.spawn import can_start_workers, forks
from otx.workspace import latest_folder, latest_run, set_latest

TRAINING = """
from otx import Engine
few = {{"model.pretrained": False, "data.input_size": 32, "max_epochs": 1, "report": False, "precision": "32"}}
engine = Engine({data!r}, model="timm/test_resnet", work_dir={work!r}, overrides={{**few, "data.num_workers": 1}})
"""
UNGUARDED = TRAINING + "engine.train()\n"
GUARDED = TRAINING + "if __name__ == '__main__':\n    engine.train()\n"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_classes(tmp_path_factory.mktemp("spawn") / "data", {"ant": 8, "bee": 8})


@pytest.fixture
def system(tmp_path: Path) -> dict[str, str]:
    """The environment of a system that starts processes by the method in START, `spawn` unless a test changes it."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(
        "import multiprocessing, os\nmultiprocessing.set_start_method(os.environ['START'])\n"
    )
    paths = [str(site), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "START": "spawn", "PYTHONPATH": os.pathsep.join(filter(None, paths))}


def run(
    arguments: list[str], system: dict[str, str], text: str = "", **changes: str
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *arguments]
    return subprocess.run(
        command, env={**system, **changes}, input=text, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_script_without_a_guard_is_told_so_before_anything_is_written(
    method: str, data: Path, tmp_path: Path, system: dict[str, str]
) -> None:
    script = tmp_path / "script.py"
    script.write_text(UNGUARDED.format(data=str(data), work=str(tmp_path / "ws")))
    done = run([str(script)], system, START=method)
    assert done.returncode == 1
    assert done.stderr.count("Traceback") == 1
    assert "otx.errors.InputError: the processes that load images import your script again" in done.stderr
    assert 'if __name__ == "__main__":\n        Engine("my_photos").train()' in done.stderr
    assert "RuntimeError" not in done.stderr
    assert not (tmp_path / "ws").exists()


def test_a_script_that_cannot_be_imported_again_is_told_why(data: Path, tmp_path: Path, system: dict[str, str]) -> None:
    script, once = tmp_path / "script.py", tmp_path / "once"
    text = f"import os\nos.mkdir({str(once)!r})\n"
    script.write_text(text + UNGUARDED.format(data=str(data), work=str(tmp_path / "ws")))
    done = run([str(script)], system)
    assert "InputError: the processes that load images cannot import your script: FileExistsError" in done.stderr
    assert not (tmp_path / "ws").exists()


@pytest.mark.slow
def test_a_script_with_a_guard_trains_with_workers(data: Path, tmp_path: Path, system: dict[str, str]) -> None:
    script = tmp_path / "script.py"
    script.write_text(GUARDED.format(data=str(data), work=str(tmp_path / "ws")))
    done = run([str(script)], system)
    assert (done.returncode, done.stderr) == (0, "")
    assert latest_run(tmp_path / "ws").model.is_file()


@pytest.mark.slow
def test_a_script_from_standard_input_trains_without_workers(
    data: Path, tmp_path: Path, system: dict[str, str]
) -> None:
    text = "import logging\nlogging.basicConfig(level=logging.INFO)\n"
    text += UNGUARDED.format(data=str(data), work=str(tmp_path / "ws"))
    done = run(["-"], system, text)
    assert done.returncode == 0, done.stderr
    assert "Images are loaded without further processes" in done.stderr
    assert "Traceback" not in done.stderr
    assert latest_run(tmp_path / "ws").model.is_file()


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_the_command_line_and_a_notebook_train_with_workers(
    method: str, data: Path, tmp_path: Path, system: dict[str, str]
) -> None:
    options = ["--model", "timm/test_resnet", "--model.pretrained", "false", "--data.input_size", "32"]
    options += ["--max_epochs", "1", "--data.num_workers", "1", "--work_dir", str(tmp_path / "cli")]
    done = run(["-m", "otx", "train", "--data_root", str(data), *options], system, START=method)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "Warning" not in done.stderr
    # as in a notebook, there is no file to import
    text = UNGUARDED.format(data=str(data), work=str(tmp_path / "notebook"))
    done = run(["-c", text], system, START=method)
    assert (done.returncode, done.stderr) == (0, "")
    assert latest_run(tmp_path / "notebook").model.is_file()


def make_subset(root: Path) -> ImageSubset:
    names = tuple(f"{name}/{number:03}.png" for name in ("ant", "bee") for number in range(8))
    subset = Subset(names, tuple([0] * 8 + [1] * 8))
    flat = Preprocessing(32, 32, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    augmentation = Augmentation((0.5, 1.0), (0.75, 1.3), 0.5)
    return ImageSubset(ImageSet(root, subset, Split.TRAIN, 10**6), flat, augmentation=augmentation, cache=10**6)


@pytest.fixture
def spawning() -> Iterator[None]:
    before = multiprocessing.get_start_method(allow_none=True)
    multiprocessing.set_start_method("spawn", force=True)
    yield
    multiprocessing.set_start_method(before, force=True)


def test_a_spawned_process_loads_images_and_keeps_none(data: Path, spawning: None) -> None:
    images = make_subset(data)
    options = {"balanced": True, "efficient": True, "seed": 0}
    here, there = (train_loader(images, Batching(4, num_workers=count), **options) for count in (0, 1))
    first, *_ = there
    expected, *_ = here
    assert first.images.shape == (4, 3, 32, 32)
    assert first.images.equal(expected.images)
    assert pickle.loads(pickle.dumps(images)).cache.get(0) is None


def test_no_workers_where_the_script_cannot_be_read_again(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = make_subset(data)
    monkeypatch.setattr("multiprocessing.get_start_method", lambda allow_none=False: "spawn")
    main: Any = sys.modules["__main__"]
    monkeypatch.setattr(main, "__spec__", None)
    monkeypatch.setattr(main, "__file__", "<stdin>", raising=False)
    assert not forks()
    assert not can_start_workers()
    assert count_workers(2, images) == 0
    monkeypatch.setattr(main, "__file__", __file__)
    assert count_workers(2, images) == 2


def refuse(*_: Any, **__: Any) -> None:
    raise OSError(errno.EPERM, "A required privilege is not held by the client")


@pytest.fixture
def windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Windows: most users may not make links, and a folder or a link to one cannot be replaced."""
    replace = Path.replace

    def replace_files(self: Path, target: Path) -> Path:
        if target.is_dir():
            raise PermissionError(errno.EACCES, "Access is denied")
        return replace(self, target)

    monkeypatch.setattr(Path, "symlink_to", refuse)
    monkeypatch.setattr(Path, "replace", replace_files)


def test_without_links_the_newest_run_is_found(data: Path, tmp_path: Path, windows: None) -> None:
    few = {"model.pretrained": False, "data.input_size": 32, "max_epochs": 1, "report": False, "data.num_workers": 0}
    result = Engine(data, model="timm/test_resnet", work_dir=tmp_path, overrides=few).train()
    assert latest_run(tmp_path).path.resolve() == result.run_dir.resolve()
    again = Engine(work_dir=tmp_path)
    assert again.test().num_images > 0
    assert latest_folder(tmp_path, "test").parent.resolve() == result.run_dir.resolve() / "test"
    (tmp_path / "empty").mkdir()
    again.export(output=tmp_path / "exported", deploy=tmp_path / "empty")
    assert (tmp_path / "empty" / "model.xml").is_file()
    assert latest_folder(tmp_path, "export").resolve() == tmp_path / "exported"


def test_a_link_gives_way_to_a_text_file(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    folders = [tmp_path / "first", tmp_path / "second"]
    for folder in folders:
        folder.mkdir()
    set_latest(tmp_path, "train", folders[0])
    assert (tmp_path / ".latest" / "train").is_symlink()
    request.getfixturevalue("windows")
    set_latest(tmp_path, "train", folders[1])
    assert latest_folder(tmp_path, "train").resolve() == folders[1]
    assert [path.name for path in (tmp_path / ".latest").iterdir()] == ["train"]


def test_functions_that_other_systems_lack(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("fork", "sched_getaffinity", "sysconf"):
        monkeypatch.delattr(os, name)
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(ctypes, "CDLL", refuse)
    assert available_cores() >= 1
    assert memory_limit() > 0
    keep_freed_memory()
    drop_freed_memory()
    drop_signal_stack()


def test_files_are_flushed_as_windows_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    def flush_what_is_written(handle: int) -> None:
        assert fcntl.fcntl(handle, fcntl.F_GETFL) & (os.O_RDWR | os.O_WRONLY)

    (tmp_path / "beside").mkdir()
    (tmp_path / "beside" / "model.bin").write_bytes(b"1")
    monkeypatch.setattr(os, "fsync", flush_what_is_written)
    move_into_place(tmp_path / "beside", tmp_path, ["model.bin"])
    assert (tmp_path / "model.bin").read_bytes() == b"1"
