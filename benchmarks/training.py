"""Training speed on a CPU (images a second): otx against OTX 2.6.0.

    python benchmarks/training.py --peer PEER/bin/python --peer_script run_otx.py
        [--networks mobilenet_v3_large efficientnet_b0] [--images 512] [--runs 2] [--threads 2]

Both train their recipe of that name from random weights with batches of 64 images of 224 x 224, in turns, on JPEGs of
noise in two classes. otx trains once more from a weights file, as from pretrained weights: the classifier first, then
with fixed batch norm statistics; the file holds random values, on which the speed does not depend. The peer trains
pretrained weights like any others. The figure is the fastest of the second to the fourth epoch, including data loading:
for the peer its own mean time of a step (`train/iter_time`, which after a validation includes that, too), for otx the
images over the whole epoch. Finally the floating-point operations a second of otx's step are compared with those of a
matrix product on this machine, in float32 and in bf16.
"""

from __future__ import annotations

import argparse
import csv
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from otx.networks.table import MODELS

BATCH, SIZE, EPOCHS = 64, 224, 4
RANDOM = ["--model.pretrained", "false"]
RECIPES = "lib/python3.11/site-packages/otx/recipe/classification/multi_class_cls"


def make(root: Path, images: int) -> None:
    rng = np.random.default_rng(0)
    for split, count in (("train", images // 2), ("val", 8)):
        for label in ("a", "b"):
            place = root / split / label
            place.mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 256, (SIZE, SIZE, 3), np.uint8)
                Image.fromarray(pixels).save(place / f"{number}.jpg")


def run(command: list[str], variables: dict[str, str] | None = None) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=variables)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")


def rate_of_peer(peer: Path, script: Path, network: str, data: Path, work: Path, epochs: int = EPOCHS) -> float:
    config = peer.parent.parent / RECIPES / f"{network}.yaml"
    asked = ["--max_epochs", str(epochs), "--engine.device", "cpu", "--data.train_subset.batch_size", str(BATCH)]
    places = ["--config", str(config), "--data_root", str(data), "--work_dir", str(work)]
    own = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    run([str(peer), str(script), "train", *places, *asked], own)
    (log,) = work.glob("2*/csv/version_0/metrics.csv")
    with log.open() as file:
        times = [float(row["train/iter_time"]) for row in csv.DictReader(file) if row.get("train/iter_time")]
    return BATCH / min(times[1:])


def rates_of_otx(network: str, data: Path, work: Path, epochs: int, options: list[str]) -> list[float]:
    """Images a second of each epoch, without the fit of the classifier, if there is one."""
    asked = ["--max_epochs", str(epochs), "--engine.device", "cpu", "--data.train_subset.batch_size", str(BATCH)]
    places = ["--config", network, "--data_root", str(data), "--work_dir", str(work)]
    run([sys.executable, "-m", "otx", "train", *places, *asked, *options])
    with (work / ".latest" / "train" / "metrics.csv").open() as file:
        return [float(row["images_per_second"]) for row in csv.DictReader(file) if int(row["epoch"]) >= 0]


def write_weights(network: str, file: Path) -> Path:
    torch.manual_seed(0)
    save_file(timm.create_model(MODELS[network].network).state_dict(), file)
    return file


def matrix_product(threads: int, dtype: torch.dtype) -> float:
    """Floating-point operations a second of a product of two matrices."""
    torch.set_num_threads(threads)
    size = 2048
    left, right = torch.randn(size, size, dtype=dtype), torch.randn(size, size, dtype=dtype)
    times = []
    for _ in range(10):
        started = time.perf_counter()
        left @ right
        times.append(time.perf_counter() - started)
    return 2 * size**3 / min(times)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--peer", type=Path, required=True)
    parser.add_argument("--peer_script", type=Path, required=True)
    parser.add_argument("--networks", nargs="+", default=["mobilenet_v3_large", "efficientnet_b0"])
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    with tempfile.TemporaryDirectory() as scratch:
        data = Path(scratch) / "data"
        make(data, options.images)
        for network in options.networks:
            weights = write_weights(network, Path(scratch) / f"{network}.safetensors")
            rates: dict[str, list[float]] = {"peer": [], "otx": [], "otx, fine tuning": []}
            for turn in range(options.runs):
                place = Path(scratch) / f"{network}_{turn}"
                for name, start in (("otx", RANDOM), ("otx, fine tuning", ["--model.weights", str(weights)])):
                    found = rates_of_otx(network, data, place / name, EPOCHS, start)
                    rates[name].append(max(found[1:]))
                rates["peer"].append(rate_of_peer(options.peer, options.peer_script, network, data, place / "peer"))
                print(network, {name: round(values[-1], 2) for name, values in rates.items()}, flush=True)
            peer, own, tuning = (statistics.median(values) for values in rates.values())
            work = 3e9 * MODELS[network].gflops  # forward, and twice as much backward
            products = {name: matrix_product(options.threads, getattr(torch, name)) for name in ("float32", "bfloat16")}
            shares = (f"{rate / 1e9:.0f} in {name} ({own * work / rate:.0%})" for name, rate in products.items())
            print(
                f"{network}: peer {peer:.2f}, otx {own:.2f} images/s, ratio {own / peer:.2f}; "
                f"fine tuning {tuning:.2f}, ratio {tuning / peer:.2f}; "
                f"otx computes {own * work / 1e9:.1f} GFLOP/s, a matrix product {' and '.join(shares)}; "
                f"{options.runs} runs, {os.cpu_count()} cores, {options.threads} threads",
                flush=True,
            )


if __name__ == "__main__":
    main()
