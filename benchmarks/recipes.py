"""Latency and size of the IR of every recipe, beside each other: python benchmarks/recipes.py [RECIPE ...]

The networks are trained for one epoch of noise from random weights, which changes no speed. `mobilenet_v3_large` is
always measured, as the one that the others are compared with.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from otx import Engine, list_models
from otx.recipe import DEFAULT_RECIPE

SETTINGS = {
    # without it, random weights explode: to numbers that no exported file can be compared with
    "optimizer.clip_norm": 5.0,
    "model.pretrained": False,
    "max_epochs": 1,
    "data.num_workers": 0,
    "data.train_subset.batch_size": 4,
    "precision": "32",
    "report": False,
}


def write_photos(root: Path) -> None:
    rng = np.random.default_rng(0)
    for name in map(str, range(10)):
        (root / name).mkdir(parents=True)
        for number in range(4):
            Image.fromarray(rng.integers(0, 256, (224, 224, 3), dtype=np.uint8)).save(root / name / f"{number}.png")


def export(name: str, photos: Path, folder: Path) -> Path:
    """The IR of a recipe."""
    engine = Engine(photos, model=name, work_dir=folder / name, overrides=SETTINGS)
    engine.train()
    return engine.export(output=folder / "exported" / name).path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipes", nargs="*", default=list_models())
    parser.add_argument("--seconds", type=float, default=2.0, help="how long each figure is measured")
    given = parser.parse_args()
    names = [DEFAULT_RECIPE, *(name for name in given.recipes if name != DEFAULT_RECIPE)]
    with tempfile.TemporaryDirectory() as scratch:
        write_photos(Path(scratch) / "photos")
        files = [export(name, Path(scratch) / "photos", Path(scratch)) for name in names]
        result = Engine().benchmark(files, batch=[1], seconds=given.seconds, memory=False)
    print(f"OpenVINO, FP32, 224 x 224, batch of 1, {os.cpu_count()} cores, one run")
    print("| recipe | latency | times the default | IR |")
    print("|---|---|---|---|")
    for name, file in zip(names, result.files, strict=True):
        ratio = file.latency_ms / result.files[0].latency_ms
        print(f"| `{name}` | {file.latency_ms:.1f} ms | {ratio:.1f} | {file.size_bytes / 1e6:.1f} MB |")


if __name__ == "__main__":
    main()
