"""The processors and the memory that this process may use, within the limits of its container."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUPS = Path("/proc/self/cgroup")
UNKNOWN_MEMORY = 8 * 2**30


def available_cores(processes: int = 1) -> int:
    """How many processors this process may keep busy: its CPU affinity, and the quota of its container.

    A quota of 2.5 processors counts as 3: three threads use all of it, two would leave some of it unused.

    Args:
        processes: processes on this machine that share them; each gets the same.
    """
    cores, quota = visible_cores(), cpu_quota()
    allowed = cores if quota is None else min(cores, math.ceil(quota))
    return max(1, allowed // processes)


def visible_cores() -> int:
    """How many processors this process may run on (its CPU affinity), whatever its quota is."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_quota() -> float | None:
    """The processors that the control groups of this process allow it, for instance 1.5; None without a limit.

    Source: "cpu.max" in the kernel's cgroup-v2 documentation, "cpu.cfs_quota_us" in that of version 1.
    """
    quotas = [quota for folder in _own_cgroups() if (quota := _quota_of(folder)) is not None]
    return min(quotas, default=None)


def memory_limit() -> int:
    """Bytes of memory that a process may take at most: those of the machine, or of its container (8 GB if unknown)."""
    known = hasattr(os, "sysconf")
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if known else UNKNOWN_MEMORY
    for folder in _own_cgroups():
        for name in ("memory.max", "memory.limit_in_bytes"):
            with contextlib.suppress(OSError, ValueError):  # no such file, or "max"
                total = min(total, int((folder / name).read_text()))
    return total


def _own_cgroups() -> Iterator[Path]:
    """The folders of the control groups this process is in, and of those around them: any of them may set a limit."""
    groups = [("", "/"), ("cpu", "/"), ("memory", "/")]
    with contextlib.suppress(OSError):
        for line in OWN_CGROUPS.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            groups.append((controllers, path))
    seen: set[Path] = set()
    for controllers, path in groups:
        for mounted in (CGROUPS, *(CGROUPS / name for name in (controllers, *controllers.split(",")) if name)):
            for inner in (PurePosixPath(path), *PurePosixPath(path).parents):
                folder = mounted / inner.relative_to("/")
                if folder not in seen and ".." not in folder.parts:
                    seen.add(folder)
                    yield folder


def _quota_of(folder: Path) -> float | None:
    with contextlib.suppress(OSError, ValueError):
        quota, period = (folder / "cpu.max").read_text().split()
        return int(quota) / int(period) if quota != "max" else None
    with contextlib.suppress(OSError, ValueError):
        microseconds = int((folder / "cpu.cfs_quota_us").read_text())
        return microseconds / int((folder / "cpu.cfs_period_us").read_text()) if microseconds > 0 else None
    return None
