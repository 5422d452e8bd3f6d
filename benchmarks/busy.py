"""Training speed on a CPU (images a second) while other programs keep processors busy.

    python benchmarks/busy.py [--network mobilenet_v3_large] [--weights FILE] [--images 256] [--epochs 4] [--busy 1 2]
        [--runs 1] [--ways chosen fixed] [--peer PEER/bin/python --peer_script run_otx.py]

Trains on JPEGs of noise in two classes, with batches of 64 images of 224 x 224: alone, and beside each number of
endless loops, in turns. "fixed" is the same training with OMP_NUM_THREADS set to the number of processors, so that it
cannot choose its threads. The figure is the median of the epochs after the first, including data loading; ratios are to
the same training alone. With a peer, OTX 2.6.0 trains its recipe of that name as in training.py.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from training import RANDOM, make, rate_of_peer, rates_of_otx

WAYS = ("chosen", "fixed")


@contextlib.contextmanager
def busy(loops: int) -> Iterator[None]:
    """Keep processors busy with processes in sessions of their own, like other users' programs."""
    command = [sys.executable, "-c", "while True: pass"]
    processes = [subprocess.Popen(command, start_new_session=True) for _ in range(loops)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


@contextlib.contextmanager
def threads(way: str) -> Iterator[None]:
    os.environ.pop("OMP_NUM_THREADS", None)
    if way == "fixed":
        os.environ["OMP_NUM_THREADS"] = str(len(os.sched_getaffinity(0)))
    try:
        yield
    finally:
        os.environ.pop("OMP_NUM_THREADS", None)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--network", default="mobilenet_v3_large")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--busy", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--ways", nargs="*", choices=WAYS, default=WAYS)
    parser.add_argument("--peer", type=Path)
    parser.add_argument("--peer_script", type=Path)
    options = parser.parse_args()
    start = RANDOM if options.weights is None else ["--model.weights", str(options.weights)]
    rates: dict[tuple[str, int], list[float]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        data = Path(scratch) / "data"
        make(data, options.images)
        for turn in range(options.runs):
            for loops in (0, *options.busy):
                # the first of a turn is not always the same: a machine is slower when it has just been idle, or warm
                for way in options.ways[:: 1 if turn % 2 == 0 else -1]:
                    work = Path(scratch) / f"{way} {loops} {turn}"
                    with busy(loops), threads(way):
                        found = rates_of_otx(options.network, data, work, options.epochs, start)
                    show(rates, way, loops, statistics.median(found[1:]))
                if options.peer:
                    work = Path(scratch) / f"peer {loops} {turn}"
                    with busy(loops), threads("chosen"):
                        rate = rate_of_peer(
                            options.peer, options.peer_script, options.network, data, work, options.epochs
                        )
                    show(rates, "OTX 2.6.0", loops, rate)
    print(f"{options.network}, {options.runs} runs, {options.images} images, {os.cpu_count()} cores")


def show(rates: dict[tuple[str, int], list[float]], way: str, loops: int, rate: float) -> None:
    rates.setdefault((way, loops), []).append(rate)
    own = statistics.median(rates[way, loops])
    against = {"its speed alone": (way, 0), "otx's": (WAYS[0], loops)}
    ratios = [f"{own / statistics.median(rates[key]):.2f} of {what}" for what, key in against.items() if key in rates]
    print(f"{way:9} beside {loops} busy loops: {rate:6.1f} images/s, {', '.join(ratios)}", flush=True)


if __name__ == "__main__":
    main()
