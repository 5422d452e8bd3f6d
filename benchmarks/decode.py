"""Decode, resize and normalise JPEGs of 500 x 375: otx against torchvision's ImageFolder and transforms.

    python benchmarks/decode.py [--images 400] [--workers 2] [--runs 5]

Both yield batches of 64 float images (3, 224, 224) from torch's DataLoader with the same number of workers, in turns in
one process; the images are noise of several scales, written as JPEG of quality 90.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

from otx.data.dataset import ImageSet, Split, Subset
from otx.data.loader import Batching, ImageSubset, normalise, val_loader
from otx.data.preprocessing import Preprocessing
from otx.memory import keep_freed_memory
from otx.networks.table import IMAGENET_MEAN, IMAGENET_STD

SIZE, BATCH = 224, 64


def make(root: Path, count: int) -> None:
    rng = np.random.default_rng(0)
    for number in range(count):
        layers = [
            np.asarray(
                Image.fromarray(rng.integers(0, 256, (6 * 4**k, 8 * 4**k, 3), np.uint8)).resize((500, 375)), float
            )
            for k in range(4)
        ]
        pixels = np.average(layers, axis=0, weights=[8, 4, 2, 1]).astype(np.uint8)
        place = root / str(number % 2)
        place.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(place / f"{number:04}.jpg", quality=90)


def torchvision_loader(root: Path, workers: int) -> Any:
    steps = [transforms.Resize((SIZE, SIZE)), transforms.ToTensor(), transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD)]
    return DataLoader(ImageFolder(root, transforms.Compose(steps)), batch_size=BATCH, num_workers=workers)


def otx_loader(root: Path, workers: int) -> Any:
    folder = ImageFolder(root)
    paths = tuple(str(Path(path).relative_to(root)) for path, _ in folder.samples)
    keep_freed_memory()  # as a training does
    mean, std = ([255 * value for value in values] for values in (IMAGENET_MEAN, IMAGENET_STD))
    size = Preprocessing(SIZE, SIZE, (mean[0], mean[1], mean[2]), (std[0], std[1], std[2]))
    images = ImageSubset(ImageSet(root, Subset(paths, tuple(folder.targets)), Split.TRAIN, 10**9), size)
    loader = val_loader(images, Batching(BATCH, workers))
    return ((normalise(batch.images, MEAN, STD), batch.labels) for batch in loader)


def timed(make_loader: Callable[[Path, int], Any], root: Path, workers: int) -> float:
    started = time.perf_counter()
    count = sum(len(labels) for _, labels in make_loader(root, workers))
    return count / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    rates: dict[str, list[float]] = {"torchvision": [], "otx": []}
    with tempfile.TemporaryDirectory() as scratch:
        make(Path(scratch), options.images)
        for _ in range(options.runs):
            rates["torchvision"].append(timed(torchvision_loader, Path(scratch), options.workers))
            rates["otx"].append(timed(otx_loader, Path(scratch), options.workers))
    for name, values in rates.items():
        print(f"{name:12} {statistics.median(values):8.1f} images/s (median of {options.runs})")
    ratio = statistics.median(rates["otx"]) / statistics.median(rates["torchvision"])
    print(f"otx is {ratio:.2f} x as fast, {options.workers} workers, {os.cpu_count()} cores")


MEAN, STD = (255 * torch.tensor(values) for values in (IMAGENET_MEAN, IMAGENET_STD))

if __name__ == "__main__":
    main()
