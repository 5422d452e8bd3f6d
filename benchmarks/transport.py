"""Loading speed: batches from data workers in otx's own shared memory, against PyTorch's files in /dev/shm.

    python benchmarks/transport.py DATA [--size 224] [--batch 64] [--workers 1 2] [--runs 3] [--epochs 4]

Only loading, no network: images a second of the fastest epoch after the first, which decodes and keeps the images. Both
ways run in turns, in one process.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from otx.data.dataset import ImageSet, Split
from otx.data.load import load_dataset
from otx.data.loader import Augmentation, Batching, ImageSubset, train_loader
from otx.data.preprocessing import Preprocessing
from otx.data.transport import Batch, Item

CROP = Augmentation((0.5, 1.0), (0.75, 1.33), 0.5)


def files(items: Sequence[Item]) -> Batch:
    """Collate as PyTorch does: its workers put the tensors of a batch into files in /dev/shm."""
    rows = [image.permute(1, 2, 0) for image, _, _ in items if image is not None]
    labels = torch.tensor([label for image, label, _ in items if image is not None])
    return Batch(torch.stack(rows).permute(0, 3, 1, 2), labels)


def rate(options: argparse.Namespace, workers: int, way: str) -> float:
    data = load_dataset(options.data)
    flat = Preprocessing(options.size, options.size, (0, 0, 0), (1, 1, 1))
    images = ImageSubset(ImageSet(data.root, data.train, Split.TRAIN, 10**8), flat, augmentation=CROP, cache=2**30)
    loader = train_loader(images, Batching(options.batch, workers), balanced=False, efficient=False, seed=0)
    if way == "files":
        loader.collate_fn = files
    seconds = []
    for _ in range(options.epochs):
        begun = time.perf_counter()
        for batch in loader:
            batch.images.to(torch.float32)
        seconds.append(time.perf_counter() - begun)
    return len(images) / min(seconds[1:])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    for name, default in (("size", 224), ("batch", 64), ("runs", 3), ("epochs", 4)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2])
    options = parser.parse_args()
    for workers in options.workers:
        rates: dict[str, list[float]] = {"own": [], "files": []}
        for _ in range(options.runs):
            for way, found in rates.items():
                found.append(rate(options, workers, way))
        own, former = (statistics.median(found) for found in rates.values())
        print(f"{workers} workers: {own:.0f} images/s, files {former:.0f}, ratio {own / former:.2f}", rates, flush=True)
    print(f"{options.runs} runs, {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
