"""What `otx benchmark` and `otx env` return."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from otx.plain import Result


@dataclass(frozen=True)
class Throughput(Result):
    """Images a second at one batch size; None if the file or the runtime cannot do it (`why_not`).

    `streams` is how many batches are computed in parallel: `auto`, a number, or empty for a runtime without streams;
    `requests` is how many were in flight at a time.
    """

    batch: int
    streams: str
    images_per_second: float | None
    requests: int = 1
    why_not: str = ""


@dataclass(frozen=True)
class BenchmarkedFile(Result):
    """How fast one file is. Latency is of one image at a time, `num_timed` of them.

    Args:
        name: its file name, with the folders that tell it apart from the other files.
        runtime: what computes it, with its version.
        weights: `FP32`, `FP16` or `INT8`, as they are stored.
        computes_in: the type that floats are computed in.
        threads: processors that compute one image; None if the runtime does not say.
        memory_bytes: peak growth of a separate process that loaded the file and classified one image at a time, without
            its libraries; None if unknown.
    """

    name: str
    path: Path
    runtime: str
    device: str
    weights: str
    computes_in: str
    input_size: tuple[int, int]
    size_bytes: int
    threads: int | None
    latency_ms: float
    latency_p95_ms: float
    num_timed: int
    throughput: tuple[Throughput, ...]
    memory_bytes: int | None


@dataclass(frozen=True)
class BenchmarkResult(Result):
    """Files measured in turns on one machine. `decoding` says which photos were decoded; empty if none were."""

    processor: str
    cores: int
    seconds: float
    rounds: int
    decoding: str
    files: tuple[BenchmarkedFile, ...]


@dataclass(frozen=True)
class Environment(Result):
    """Facts about a machine and an installation: text by name; `problems` names those that could not be found out."""

    lines: dict[str, str]
    problems: tuple[str, ...]
