"""Do the faster defaults cost accuracy? Trains with and without them, over several seeds.

    python benchmarks/defaults.py FOLDER --weights FILE.safetensors [--model timm/mobilenetv2_100] [--epochs 5]
        [--seeds 0 1 2] [--size 224] [--per_class N] [--threads 2] [--variants plain default training.freeze_stages=3]

FOLDER holds class folders, or train/ and test/ with class folders; `--per_class` takes the first N images of each class
from train/, and N / 5 from test/. The plain training computes in float32 throughout, with timm's layers, and starts
with a random classifier. Other variants are the default with other settings (`KEY=VALUE,KEY=VALUE`). Prints top-1 on
the test images and the seconds of the training.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import yaml

from otx import Engine
from otx.training import prepare

PLAIN = {"precision": "32", "training.head_first": False}
LAYERS = ("fold_norms", "pool_by_products", "speed_up_depthwise")


def take(folder: Path, place: Path, per_class: int) -> Path:
    """Link some images of each class of train/ and test/."""
    for split, count in (("train", per_class), ("test", per_class // 5)):
        for source in sorted((folder / split).iterdir()):
            (place / split / source.name).mkdir(parents=True)
            for image in sorted(source.iterdir())[:count]:
                (place / split / source.name / image.name).symlink_to(image.resolve())
    return place


def settings_of(
    weights: Path, options: argparse.Namespace, seed: int, variant: str, changes: dict[str, Any]
) -> dict[str, Any]:
    """The settings of a training: `changes`, and those that a variant names (`KEY=VALUE,KEY=VALUE`)."""
    # a comma before KEY= parts settings; others are within a value
    parts = re.split(r",(?=[\w.]+=)", variant)
    others = dict(part.split("=", 1) for part in parts if "=" in part)
    return {
        "model.weights": str(weights),
        "data.input_size": options.size,
        "data.check_images": False,
        "engine.device": getattr(options, "device", "cpu"),
        "max_epochs": options.epochs,
        "report": False,
        "seed": seed,
        **({"data.num_workers": options.workers} if getattr(options, "workers", None) is not None else {}),
        **changes,
        **{key: yaml.safe_load(value) for key, value in others.items()},
    }


def train(data: Path, work: Path, options: argparse.Namespace, seed: int, variant: str) -> tuple[float, float]:
    """Top-1 on the test images, and the seconds of the training."""
    plain = variant == "plain"
    settings = settings_of(options.weights, options, seed, variant, PLAIN if plain else {})
    kept = {name: getattr(prepare, name) for name in LAYERS}
    if plain:
        for name in LAYERS:
            setattr(prepare, name, lambda *_, **__: 0)
    try:
        started = time.perf_counter()
        engine = Engine(data, model=options.model, work_dir=work, overrides=settings)
        result = engine.train()
        seconds = time.perf_counter() - started
    finally:
        for name, function in kept.items():
            setattr(prepare, name, function)
    return engine.test(checkpoint=result.model_path).top1, seconds


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--model", default="timm/mobilenetv2_100")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--per_class", type=int)
    parser.add_argument("--variants", nargs="+", default=["plain", "default"])
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in options.variants}
    with tempfile.TemporaryDirectory() as scratch:
        data = options.folder
        if options.per_class:
            data = take(options.folder, Path(scratch) / "data", options.per_class)
        for seed in options.seeds:
            for number, (name, rows) in enumerate(found.items()):
                rows.append(train(data, Path(scratch) / f"{number}_{seed}", options, seed, name))
                print(name, seed, f"{rows[-1][0]:.4f} in {rows[-1][1]:.0f} s", flush=True)
    for name, rows in found.items():
        accuracies, times = zip(*rows, strict=True)
        print(
            f"{name} top-1 {statistics.mean(accuracies):.4f} ({min(accuracies):.4f} to {max(accuracies):.4f}), "
            f"{statistics.mean(times):.0f} s, {len(rows)} seeds, {options.epochs} epochs, {options.threads} threads"
        )


if __name__ == "__main__":
    main()
