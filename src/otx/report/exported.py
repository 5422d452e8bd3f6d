"""What was exported from a run: how large each file is, how fast, and how good."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from otx.workspace import RunFolder

PATTERNS = ("exported_model*.xml", "exported_model*.onnx", "optimized_model*.xml")
OPTIMIZED = "optimized_model.json"


@dataclass(frozen=True)
class Exported:
    """An exported file of a run, its weights included. None: not measured.

    Args:
        precision: FP32, FP16 or INT8.
        latency_ms: median of one image at a time, on the machine that wrote the file.
        top1: accuracy (0 to 1) on the validation images, measured by `otx optimize`.
    """

    name: str
    precision: str
    size_bytes: int
    latency_ms: float | None
    top1: float | None


def exported_of(run: RunFolder) -> tuple[Exported, ...]:
    """The exported files in a run folder, the smallest first."""
    optimized = {each["precision"]: each for each in _plain(run.path / OPTIMIZED).get("variants", ())}
    files = [path for pattern in PATTERNS for path in run.path.glob(pattern)]
    return tuple(sorted((_exported(path, optimized) for path in files), key=lambda each: (each.size_bytes, each.name)))


def figures_of(path: Path) -> Path:
    """Where the figures of a file that `otx export` wrote into its run folder are."""
    return path.with_name(f"{path.name}.json")


def _exported(path: Path, optimized: Mapping[str, Any]) -> Exported:
    own = _plain(figures_of(path))
    precision = "INT8" if path.stem.startswith("optimized") else "FP16" if path.stem.endswith("_fp16") else "FP32"
    # one measurement for all rows where there is one: `otx optimize` measures its files in turns
    is_plain = path.suffix == ".xml" and "embedded" not in path.stem
    figures = optimized.get(precision, {}) if is_plain else {}
    return Exported(
        path.name,
        precision,
        sum(part.stat().st_size for part in _parts(path)),
        figures.get("latency_ms", own.get("latency_ms")),
        figures.get("top1"),
    )


def _parts(path: Path) -> Iterator[Path]:
    yield path
    weights = path.with_suffix(".bin")
    if path.suffix == ".xml" and weights.is_file():
        yield weights


def _plain(path: Path) -> dict[str, Any]:
    """The figures beside a file; empty if there are none that can be read, as they are of no further use."""
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return plain if isinstance(plain, dict) else {}
