"""The limits of a container's control groups apply to processors and memory, whatever the machine has."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from otx import machine


@pytest.fixture
def cgroups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty tree of control groups; this process is in `/pod/box` (cgroup v2), and sees 64 processors."""
    own = tmp_path / "cgroup"
    own.write_text("0::/pod/box\n")
    monkeypatch.setattr(machine, "OWN_CGROUPS", own)
    monkeypatch.setattr(machine, "CGROUPS", tmp_path / "fs")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    return tmp_path / "fs"


def write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def test_without_a_quota_the_affinity_counts(cgroups: Path) -> None:
    assert (machine.available_cores(), machine.cpu_quota()) == (64, None)


@pytest.mark.parametrize(("text", "cores"), [("200000 100000", 2), ("250000 100000", 3), ("10000 100000", 1)])
def test_a_quota_counts_in_whole_processors(cgroups: Path, text: str, cores: int) -> None:
    write(cgroups / "pod" / "box" / "cpu.max", text)
    assert machine.available_cores() == cores


@pytest.mark.parametrize("text", ["max 100000", "", "nonsense", "max"])
def test_what_is_no_quota_is_none(cgroups: Path, text: str) -> None:
    write(cgroups / "cpu.max", text)
    assert machine.cpu_quota() is None


def test_the_smallest_quota_around_a_process_counts(cgroups: Path) -> None:
    write(cgroups / "pod" / "box" / "cpu.max", "800000 100000")
    write(cgroups / "pod" / "cpu.max", "400000 100000")
    write(cgroups / "cpu.max", "max 100000")
    assert machine.cpu_quota() == 4


def test_a_quota_of_the_first_version_counts(cgroups: Path) -> None:
    machine.OWN_CGROUPS.write_text("3:cpuset:/box\n2:cpu,cpuacct:/box\n")
    write(cgroups / "cpu,cpuacct" / "box" / "cpu.cfs_quota_us", "150000\n")
    write(cgroups / "cpu,cpuacct" / "box" / "cpu.cfs_period_us", "100000\n")
    write(cgroups / "cpu" / "cpu.cfs_quota_us", "-1\n")
    assert machine.cpu_quota() == 1.5
    assert machine.available_cores() == 2


def test_fewer_processors_than_the_quota_count(cgroups: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(cgroups / "cpu.max", "400000 100000")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {5}, raising=False)
    assert machine.available_cores() == 1


@pytest.mark.parametrize("name", ["pod/box/memory.max", "memory.max", "memory/memory.limit_in_bytes"])
def test_memory_is_limited_by_any_group(cgroups: Path, name: str) -> None:
    write(cgroups / name, "123456789\n")
    assert machine.memory_limit() == 123456789


def test_without_a_limit_the_memory_is_the_machines(cgroups: Path) -> None:
    write(cgroups / "memory.max", "max\n")
    assert machine.memory_limit() == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
