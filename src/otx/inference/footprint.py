"""Measure how much memory a model file takes, in a process of its own, since a process does not shrink again."""

from __future__ import annotations

import contextlib
import importlib
import re
from pathlib import Path

from otx.inference.runners import library_of, load_runner

IMAGES = 5
LIBRARIES = {"torch": ("otx.networks.build", "timm"), "openvino": ("openvino",), "onnxruntime": ("onnx", "onnxruntime")}


def memory_growth(path: str, device: str) -> int | None:
    """Peak growth of this process, in bytes, while it loads a file and classifies one image after another.

    The runtime is imported first, so its libraries do not count. None if Linux's /proc is missing.
    """
    for module in LIBRARIES[library_of(Path(path))]:
        importlib.import_module(module)
    _forget_peak()
    before = _status("VmRSS")
    runner = load_runner(Path(path), device, batch=1)
    image = runner.noise()
    for _ in range(IMAGES):
        runner.infer(image)
    peak = _status("VmHWM")
    return None if before is None or peak is None else max(0, peak - before)


def _forget_peak() -> None:
    """Reset VmHWM (proc(5), clear_refs): imports take more memory for a moment than they keep."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _status(name: str) -> int | None:
    """An entry of /proc/self/status, in bytes."""
    try:
        found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None
