"""Trainings as in containers: little shared memory, few open files, read-only folders, no user name."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from images import write_noise
from otx.workspace import latest_run

ROOT = ["unshare", "-rm"]
NOBODY = ["unshare", "-U", "--map-user=12345", "--map-group=12345"]
SMALL_SHM = "mount -t tmpfs -o size={size} none /dev/shm && "
READ_ONLY = (
    "mount --bind {work} {work} && mount -t tmpfs -o ro none /tmp && mount -t tmpfs -o ro none /var/tmp && "
    "mount -t tmpfs -o ro none /dev/shm && mount -o remount,bind,ro / && "
)
LIMIT = 300


def may(*prefix: str) -> bool:
    if shutil.which("unshare") is None:
        return False
    return subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode == 0


def mounts() -> None:
    if not may(*ROOT, "sh", "-c", SMALL_SHM.format(size="64k") + "true"):
        pytest.skip("this system lets nobody mount in a namespace of their own (unshare -rm)")


def nameless() -> None:
    if not may(*NOBODY):
        pytest.skip("this system lets nobody take another user id (unshare -U)")


def photos(root: Path, count: int, side: int = 40) -> Path:
    for part, share in (("train", count), ("val", 4), ("test", 4)):
        for number in range(share):
            write_noise(root / part / "ab"[number % 2] / f"{number}.jpg", (side, side), seed=number)
    return root


def training(data: Path, work: Path, size: int = 32, workers: int = 2) -> list[str]:
    options = {
        "data_root": data,
        "work_dir": work,
        "model": "tv_mobilenet_v3_small",
        "model.pretrained": "false",
        "max_epochs": 1,
        "data.input_size": size,
        "data.num_workers": workers,
        "report": "false",
    }
    return [sys.executable, "-m", "otx", "train", *(f"--{key}={value}" for key, value in options.items())]


def said(command: list[str], env: dict[str, str] | None = None, cwd: Path | None = None) -> str:
    """The output of a command that must succeed, without a traceback."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=LIMIT, env=env, cwd=cwd)
    text = done.stdout + done.stderr
    assert done.returncode == 0, text
    assert "Traceback" not in text and "Warning" not in text, text
    return text


def within(before: str, command: list[str]) -> list[str]:
    return [*ROOT, "sh", "-c", f'{before}exec "$@"', "sh", *command]


@pytest.mark.slow
def test_eight_workers_with_64_mb_of_shared_memory(tmp_path: Path) -> None:
    mounts()
    data = photos(tmp_path / "data", 96, 256)
    text = said(within(SMALL_SHM.format(size="64m"), training(data, tmp_path / "ws", 256, 8)))
    assert "batches travel in memory of the training's own" in text
    assert latest_run(tmp_path / "ws").model.is_file()


@pytest.mark.parametrize("size", ["64k", pytest.param("72k", marks=pytest.mark.slow)])
def test_no_room_for_semaphores(size: str, tmp_path: Path) -> None:
    mounts()
    text = said(within(SMALL_SHM.format(size=size), training(photos(tmp_path / "data", 8), tmp_path / "ws", workers=8)))
    assert "decodes its images itself instead of 8" in text and "semaphores" in text


@pytest.mark.slow
@pytest.mark.parametrize("size", ["64m", "256k"])
def test_two_processes_of_a_training_share_what_there_is(size: str, tmp_path: Path) -> None:
    mounts()
    command = training(photos(tmp_path / "data", 32), tmp_path / "ws", workers=8)
    said(within(SMALL_SHM.format(size=size), [*command, "--engine.num_devices=2", "--engine.device=cpu"]))
    assert latest_run(tmp_path / "ws").model.is_file()


@pytest.mark.slow
def test_two_trainings_share_64_mb(tmp_path: Path) -> None:
    mounts()
    data = photos(tmp_path / "data", 96, 256)
    one, other = (" ".join(training(data, tmp_path / name, 256, 4)) for name in ("one", "other"))
    both = f"{one} & first=$!; {other} || exit 1; wait $first"
    said(within(SMALL_SHM.format(size="64m"), ["sh", "-c", both]))
    assert all(latest_run(tmp_path / name).model.is_file() for name in ("one", "other"))


@pytest.mark.slow
def test_128_open_files(tmp_path: Path) -> None:
    command = training(photos(tmp_path / "data", 8), tmp_path / "ws", workers=16)
    text = said(["sh", "-c", 'ulimit -n 128 && exec "$@"', "sh", *command])
    assert "instead of 16: a process may open 128 files here (ulimit -n)" in text


def test_a_home_that_cannot_be_looked_into_and_a_user_without_a_name(tmp_path: Path) -> None:
    nameless()
    data, locked = photos(tmp_path / "data", 8), tmp_path / "locked"
    locked.mkdir(mode=0)
    env = {key: value for key, value in os.environ.items() if key not in ("USER", "LOGNAME", "XDG_CACHE_HOME")}
    command = training(data, tmp_path / "ws", workers=0)
    said([*NOBODY, *command], {**env, "HOME": str(locked / "home"), "TMPDIR": str(tmp_path)})


@pytest.mark.slow
@pytest.mark.parametrize("case", ["no name", "read-only"])
def test_every_verb(case: str, tmp_path: Path) -> None:
    data, work = photos(tmp_path / "data", 8), tmp_path / "work"
    work.mkdir()
    names = ("PATH", "PYTHONPATH", "HF_HUB_OFFLINE", "OMP_NUM_THREADS")
    env = {key: os.environ[key] for key in names if key in os.environ}
    if case == "no name":
        nameless()
        before = NOBODY
    else:
        if tmp_path.is_relative_to("/tmp"):
            pytest.skip("needs pytest --basetemp outside /tmp, which is made read-only")
        mounts()
        script = READ_ONLY.format(work=work) + f'cd {work} && exec "$@"'
        before = [*ROOT, "sh", "-c", script, "sh"]
        env = {**env, "HOME": "/root"}
    said([*before, *training(data, work / "ws")], env, work)
    here = ["--work_dir", str(work / "ws")]
    images = str(data / "test")
    verbs = [["test"], ["predict", images], ["export"], ["optimize"], ["explain", images], ["report"]]
    for verb in verbs:
        said([*before, sys.executable, "-m", "otx", *verb, *here], env, work)
    for verb in (["check", "--data_root", str(data)], ["find"], ["env"]):
        said([*before, sys.executable, "-m", "otx", *verb], env, work)
