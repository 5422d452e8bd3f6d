"""Training speed on photos of twelve megapixels, with and without keeping the images in memory at a reduced size.

    python benchmarks/photos.py [--images 192] [--size 4000 3000] [--network mobilenet_v3_large] [--epochs 3]
        [--peer PEER/bin/python --peer_script run_otx.py]

Trains on JPEGs of blurred noise with a grain in two classes, from random weights, with batches of 64 images of
224 x 224. Prints the images a second of the first epoch and of the fastest one after it, including data loading, and
the seconds of the whole command.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image, ImageChops
from training import RANDOM, rate_of_peer, rates_of_otx

WAYS = {
    "as it is": [],
    "no memory": ["--data.cache_mb", "0"],
    "whole size": ["--data.train_subset.reduce_large", "false"],
    "neither": ["--data.cache_mb", "0", "--data.train_subset.reduce_large", "false"],
}


def make(root: Path, count: int, size: tuple[int, int]) -> None:
    """Photos of about 4 MB each, as a phone takes them."""
    rng = np.random.default_rng(0)
    for number in range(count):
        colours = Image.fromarray(rng.integers(0, 256, (24, 32, 3), np.uint8)).resize(size, Image.Resampling.BICUBIC)
        grain = Image.effect_noise(size, 12).convert("RGB")
        place = root / str(number % 2)
        place.mkdir(parents=True, exist_ok=True)
        ImageChops.add(colours, grain, scale=2).save(place / f"{number:04}.jpg", quality=90)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=192)
    parser.add_argument("--size", type=int, nargs=2, default=(4000, 3000))
    parser.add_argument("--network", default="mobilenet_v3_large")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--peer", type=Path)
    parser.add_argument("--peer_script", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        data = Path(scratch) / "data"
        make(data / "train", options.images, tuple(options.size))
        make(data / "val", 32, tuple(options.size))
        for name, own in WAYS.items():
            started = time.perf_counter()
            first, *later = rates_of_otx(options.network, data, Path(scratch) / name, options.epochs, [*RANDOM, *own])
            seconds = time.perf_counter() - started
            print(f"{name:11} {first:7.1f} images/s in epoch 1, {max(later):7.1f} later, {seconds:.0f} s", flush=True)
        if options.peer:
            started = time.perf_counter()
            peer = rate_of_peer(options.peer, options.peer_script, options.network, data, Path(scratch) / "peer")
            print(f"{'peer':11} {peer:7.1f} images/s, {time.perf_counter() - started:.0f} s for 4 epochs")
    print(f"{os.cpu_count()} cores")


if __name__ == "__main__":
    main()
