"""Compare how fast IRs are: measured in turns, so that other load on the machine affects all of them alike."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from otx.inference.runtime import compile_exactly

ROUNDS = 20
IMAGES_A_ROUND = 10


@dataclass(frozen=True)
class Speed:
    """Latency of one image at a time, and images a second with all cores at work."""

    median_ms: float
    p95_ms: float
    images_per_second: float


def measure_speed(files: Mapping[str, Path]) -> dict[str, Speed]:
    """Measure IRs on noise of their own input size."""
    single = {name: compile_exactly(path, ("logits",), hint="LATENCY", batch=1) for name, path in files.items()}
    many = {name: compile_exactly(path, ("logits",), hint="THROUGHPUT", batch=1) for name, path in files.items()}
    times: dict[str, list[float]] = {name: [] for name in files}
    rates: dict[str, list[float]] = {name: [] for name in files}
    for number in range(ROUNDS + 1):
        for name in files:
            lasted, rate = _latencies(single[name]), _rate(many[name])
            if number > 0:
                times[name] += lasted
                rates[name].append(rate)
    return {
        name: Speed(
            float(np.median(times[name]) * 1e3),
            float(np.percentile(times[name], 95) * 1e3),
            float(np.median(rates[name])),
        )
        for name in files
    }


def _latencies(compiled: Any) -> list[float]:
    image, lasted = _noise(compiled), []
    request = compiled.create_infer_request()
    for _ in range(IMAGES_A_ROUND):
        started = time.perf_counter()
        request.infer([image], share_inputs=True)
        lasted.append(time.perf_counter() - started)
    return lasted


def _rate(compiled: Any) -> float:
    import openvino

    queue, image = openvino.AsyncInferQueue(compiled), _noise(compiled)
    started = time.perf_counter()
    for _ in range(4 * IMAGES_A_ROUND):
        queue.start_async([image], share_inputs=True)
    queue.wait_all()
    return 4 * IMAGES_A_ROUND / (time.perf_counter() - started)


def _noise(compiled: Any) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(0).standard_normal(tuple(compiled.input().shape), np.float32)
