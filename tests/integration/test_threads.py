"""Threads of a training beside other programs and within a container's quota, counted in real processes."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from integration.conftest import SMALL, SMALL_MODEL, Recorder
from otx import Engine, limits, machine
from otx.inference.runtime import only_core, openvino_core
from otx.training.acceleration import threads
from otx.training.acceleration.threads import ThreadChooser

NOTE = "Other programs use this machine"
LINUX = pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs Linux")
COUNTING = """
import json, os, sys
from pathlib import Path
from otx import machine
if sys.argv[2] != "none":
    machine.CGROUPS, machine.OWN_CGROUPS = Path(sys.argv[2]), Path(sys.argv[2], "none")
from otx.limits import limit_blas
limit_blas()
counts, known = {}, 1
import numpy as np
def note(name):
    global known
    now = len(os.listdir("/proc/self/task"))
    counts[name], known = now - known, now
np.ones((512, 512)) @ np.ones((512, 512))
note("blas")
from otx.inference.predictor import load_predictor
from otx.inference.runtime import compile_exactly
images = [np.zeros((40, 40, 3), np.uint8)] * 2
for name in ("exported_model.xml", "exported_model.onnx", "model.safetensors"):
    load_predictor(Path(sys.argv[1], name)).logits(images)
    if name == "model.safetensors":
        import torch
        torch.ones(512, 512) @ torch.ones(512, 512)
    note(name)
compiled = compile_exactly(Path(sys.argv[1], "exported_model.xml"), ("logits",))
counts["exported_model.xml"] = compiled.get_property("INFERENCE_NUM_THREADS")
print(json.dumps(counts))
"""


@contextlib.contextmanager
def busy(loops: int) -> Iterator[None]:
    """Busy programs that are not children of this process, whose work would count as its own."""
    start = 'for n in $(seq $1); do "$0" -c "while True: pass" > /dev/null 2>&1 & echo $!; done'
    done = subprocess.run(["sh", "-c", start, sys.executable, str(loops)], capture_output=True, text=True, check=True)
    try:
        yield
    finally:
        for pid in done.stdout.split():
            os.kill(int(pid), signal.SIGKILL)


@pytest.fixture
def two_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """PyTorch with two threads that nobody has chosen in the environment."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    monkeypatch.setattr(threads, "LOOK_SECONDS", 0.05)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def train(photos: Path, work_dir: Path, **changes: Any) -> list[str]:
    recorder = Recorder()
    overrides = {**SMALL, "max_epochs": 2, **changes}
    Engine(photos, model=SMALL_MODEL, work_dir=work_dir, overrides=overrides, reporter=recorder).train()
    return [note for note in recorder.notes if note.startswith(NOTE)]


@pytest.mark.slow
@LINUX
@pytest.mark.skipif(machine.available_cores() < 2, reason="needs two processors")
def test_beside_busy_programs_a_training_says_once_that_it_uses_fewer_threads(
    photos: Path, tmp_path: Path, two_threads: None
) -> None:
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(cores)[:2])
    try:
        with busy(4):
            notes = train(photos, tmp_path, max_epochs=1)
    finally:
        os.sched_setaffinity(0, cores)
    assert notes == [f"{NOTE}: training goes on with 1 thread of 2, which is faster now."]
    assert torch.get_num_threads() == 2


@pytest.mark.slow
@pytest.mark.parametrize("why", ["deterministic", "chosen"])
def test_threads_that_must_not_change_do_not(
    why: str, photos: Path, tmp_path: Path, two_threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: set[int] = set()

    def note_threads(self: ThreadChooser, *_: object) -> None:
        used.add(torch.get_num_threads())
        self.count = 1

    for name in ("guess", "look", "step"):
        monkeypatch.setattr(ThreadChooser, name, note_threads)
    if why == "chosen":
        monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert train(photos, tmp_path, max_epochs=1, deterministic=why == "deterministic") == []
    assert used == set()


@pytest.mark.slow
@LINUX
def test_no_library_starts_more_threads_than_a_quota_allows(files: Path, tmp_path: Path) -> None:
    (tmp_path / "cpu.max").write_text("100000 100000\n")
    within = count_threads(files, str(tmp_path))
    assert (within["blas"], within["exported_model.xml"], within["model.safetensors"]) == (0, 1, 0)
    if machine.available_cores() > 1:
        without = count_threads(files, "none")
        # ONNX Runtime always has a thread that does not compute
        for name in within:
            assert within[name] < without[name], name


def count_threads(files: Path, quota: str) -> dict[str, int]:
    """Threads that each library starts in a child process under a quota; for OpenVINO, those it computes with."""
    own = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    command = [sys.executable, "-c", COUNTING, str(files), quota]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False, env=own)
    assert done.returncode == 0, done.stderr
    counts: dict[str, int] = json.loads(done.stdout)
    return counts


def test_processes_of_a_training_share_a_quota(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cpu.max").write_text("400000 100000\n")
    monkeypatch.setattr(machine, "CGROUPS", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    before = torch.get_num_threads()
    torch.set_num_threads(16)
    try:
        limits.limit_torch(2)
        assert (torch.get_num_threads(), os.environ.pop("OMP_NUM_THREADS")) == (2, "2")
        torch.set_num_threads(1)
        limits.limit_torch()
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_nncf_compiles_with_the_core_that_keeps_to_a_quota() -> None:
    import openvino

    made = openvino.Core
    with only_core():
        assert openvino.Core() is openvino_core()
    assert openvino.Core is made


def test_matrix_products_keep_to_a_quota_and_what_a_person_set_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpu.max").write_text("100000 100000\n")
    monkeypatch.setattr(machine, "CGROUPS", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3}, raising=False)
    for given, expected in (
        ({}, {"OPENBLAS_NUM_THREADS": "1"}),
        ({"OMP_NUM_THREADS": "2"}, {"OMP_NUM_THREADS": "2"}),
        ({"OPENBLAS_NUM_THREADS": "3"}, {"OPENBLAS_NUM_THREADS": "3"}),
    ):
        environment = dict(given)
        limits.limit_blas(environment)
        assert environment == expected
    from threadpoolctl import threadpool_info

    np.ones((2, 2)) @ np.ones((2, 2))
    with limits.limited_blas():
        assert {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"} == {1}
