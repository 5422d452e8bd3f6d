"""Which sampler is best where a class is rare?

    python benchmarks/rare.py FOLDER --weights FILE.safetensors [--counts 3 6 20 300 300] [--model timm/mobilenetv2_100]
        [--size 128] [--seeds 0 1 2] [--test 60] [--ways short stretched full random]

FOLDER holds class folders. For each seed the counts are dealt to the classes at random; each class gives at most that
many images to train on, and --test others (at most a fifth of its images) to test on. Without --counts every class
gives all that are not tested. Then one network is trained in each way, on the same images:

- short: an epoch draws of each class as many images as the smallest needs (sampler.images_per_class); patience, plateau
  and warm-up count such epochs;
- stretched: the same epochs, but patience, plateau and warm-up count images;
- full: a balanced epoch draws as many images as there are (data.train_subset.efficient=false);
- random: every image once an epoch (data.train_subset.sampler=random).

Prints top-1, macro F1, the recall of the classes of at most 20 images, epochs and seconds.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from unittest.mock import patch

import numpy as np

from otx import Engine
from otx.training.inputs import Inputs

FEW = 20
WAYS = {
    "short": {"data.train_subset.efficient": True},
    "stretched": {"data.train_subset.efficient": True},
    "full": {"data.train_subset.efficient": False},
    "random": {"data.train_subset.sampler": "random"},
}
COLUMNS = ("top-1", "macro F1", "rare recall", "epochs", "seconds")
Row = tuple[float, ...]


def lay_out(folder: Path, place: Path, counts: Sequence[int] | None, num_test: int, seed: int) -> dict[str, int]:
    """Link images into train/ and test/; return the training images of each class."""
    rng = np.random.default_rng(seed)
    names = sorted(path.name for path in folder.iterdir())
    limits = [None] * len(names) if counts is None else rng.permutation(counts).tolist()
    taken = {}
    for name, limit in zip(names, limits, strict=True):
        images = rng.permutation(sorted((folder / name).iterdir())).tolist()
        tested = min(num_test, len(images) // 5)
        parts = {"test": images[:tested], "train": images[tested:][:limit]}
        taken[name] = len(parts["train"])
        for split, chosen in parts.items():
            (place / split / name).mkdir(parents=True)
            for image in chosen:
                (place / split / name / image.name).symlink_to(image.resolve())
    return taken


def train(data: Path, work: Path, options: argparse.Namespace, seed: int, way: str) -> tuple[Row, dict[str, float]]:
    """The figures of a training, and the recall of each class."""
    settings = {
        "model.weights": str(options.weights.resolve()),
        "data.input_size": options.size,
        "data.check_images": False,
        "engine.device": "cpu",
        "report": False,
        "seed": seed,
        **WAYS[way],
    }
    started = time.perf_counter()
    engine = Engine(data, model=options.model, work_dir=work, overrides=settings)
    result = engine.train()
    seconds = time.perf_counter() - started
    num_epochs = sum(epoch.is_trained for epoch in result.epochs)
    found = engine.test(checkpoint=result.model_path)
    recalls = {item.name: item.recall for item in found.classes}
    return (found.top1, found.macro_f1, num_epochs, seconds), recalls


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--model", default="timm/mobilenetv2_100")
    parser.add_argument("--counts", type=int, nargs="+")
    parser.add_argument("--test", type=int, default=60)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS))
    options = parser.parse_args()
    rows: dict[str, list[Row]] = {way: [] for way in options.ways}
    with tempfile.TemporaryDirectory() as scratch:
        for seed in options.seeds:
            data = Path(scratch, f"data{seed}")
            taken = lay_out(options.folder, data, options.counts, options.test, seed)
            rare = [name for name, count in taken.items() if count <= FEW]
            print(f"seed {seed}: {taken}", flush=True)
            for way in options.ways:
                per_pass = (lambda *_: Fraction(1)) if way == "short" else Inputs.epochs_per_pass
                with patch.object(Inputs, "epochs_per_pass", per_pass):
                    figures, recalls = train(data, Path(scratch, f"{way}{seed}"), options, seed, way)
                of_rare = statistics.mean(recalls[name] for name in rare) if rare else float("nan")
                rows[way].append((*figures[:2], of_rare, *figures[2:]))
                each = ", ".join(f"{taken[name]}: {recalls[name]:.2f}" for name in rare)
                print(f"seed {seed}  {way:10}" + shown(rows[way][-1]) + f"   {each}", flush=True)
    print(f"\n{len(options.seeds)} seeds   " + "".join(f"{name:>12}" for name in COLUMNS))
    for way, figures in rows.items():
        print(f"{way:10}" + shown([statistics.mean(column) for column in zip(*figures, strict=True)]))


def shown(row: Sequence[float]) -> str:
    return "".join(f"{value:12.3f}" for value in row[:3]) + "".join(f"{value:12.0f}" for value in row[3:])


if __name__ == "__main__":
    main()
