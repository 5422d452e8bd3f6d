"""Does the influence-balanced loss help, from ImageNet weights? Against cross-entropy, each with both samplers.

    python benchmarks/influence.py FOLDER:FIRST[:OLD]... --weights NAME=FILE.safetensors... --out RESULTS.jsonl
        [--seeds 0 1 2] [--size 224] [--epochs 12] [--start 5] [--device cpu] [--jobs 1] [--workers N] [--minutes 60]
    python benchmarks/influence.py CIFAR10 --long_tail 100 [--head N] --weights ... --epochs 40 --start 20 --size 64 ...
    python benchmarks/influence.py --out RESULTS.jsonl

FOLDER holds class folders. A network is trained on its FIRST classes, then on OLD (default 20) images of each of these
and all of the others, once for each loss and sampler; all start from the same model and train on the same images for
the same number of epochs. Three of ten images of each class are held out for the test, one of ten for validation.

`--long_tail 100`: one training on CIFAR10, a folder with train/ and test/, whose classes have from all their images (of
CIFAR-10 5,000; at most `--head`) down to a hundredth of that, in equal ratios. Prints top-1 of old and new classes and
the mean over all classes, with the deviation over seeds.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from multiprocessing import set_start_method
from pathlib import Path
from typing import Any

import torch
from cells import computed, read
from defaults import settings_of

from otx import Engine

METHODS = list(itertools.product(("cross_entropy", "influence_balanced"), ("random", "balanced")))
Counts = dict[str, int | None]


def link(source: Path, root: Path, split: str, name: str, images: list[Path]) -> None:
    (root / split / name).mkdir(parents=True)
    for image in images:
        (root / split / name / image.name).symlink_to(image.resolve())


def lay_out(folder: Path, root: Path, counts: Counts, seed: int) -> Path:
    """Link the images: three tenths of each class in test/, one in val/, `counts` of the rest (None: all) in train/."""
    for name, count in counts.items():
        images = sorted((folder / name).iterdir())
        random.Random(seed).shuffle(images)
        test, val = 3 * len(images) // 10, 4 * len(images) // 10
        link(folder, root, "test", name, images[:test])
        link(folder, root, "val", name, images[test:val])
        link(folder, root, "train", name, images[val:][:count])
    return root


def lay_out_tail(folder: Path, root: Path, cell: dict[str, Any]) -> Path:
    """Link CIFAR-10 with a long tail: the classes have from all images down to all / ratio; test/ is whole."""
    names = sorted(path.name for path in (folder / "train").iterdir())
    for number, name in enumerate(names):
        images = sorted((folder / "train" / name).iterdir())
        random.Random(cell["seed"]).shuffle(images)
        most = min(len(images), cell["head"] or len(images))
        count = round(most * cell["long_tail"] ** (-number / (len(names) - 1)))
        val = max(1, count // 10)
        link(folder, root, "test", name, sorted((folder / "test" / name).iterdir()))
        link(folder, root, "val", name, images[:val])
        link(folder, root, "train", name, images[val:count])
    return root


def settings(cell: dict[str, Any], weights: Path, options: argparse.Namespace) -> dict[str, Any]:
    return {
        **settings_of(weights, options, cell["seed"], "", {}),
        "training.loss": cell["loss"],
        "data.train_subset.sampler": cell["sampler"],
        "training.start_epoch": options.start,
        "training.early_stopping.patience": None,
    }


def add_classes(cell: dict[str, Any], folder: Path, weights: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Train on the first classes, then with the others by each method."""
    names, first, model = sorted(path.name for path in folder.iterdir()), cell["first"], f"timm/{cell['model']}"
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        before = lay_out(folder, place / "before", dict.fromkeys(names[:first]), cell["seed"])
        counts: Counts = {name: cell["old"] if name in names[:first] else None for name in names}
        after = lay_out(folder, place / "after", counts, cell["seed"])
        plain = {**cell, "loss": "cross_entropy", "sampler": "balanced"}
        base = Engine(before, model=model, work_dir=place / "base", overrides=settings(plain, weights, options)).train()
        rows = []
        for loss, sampler in METHODS:
            row = {**cell, "loss": loss, "sampler": sampler}
            overrides = {**settings(row, weights, options), "model.weights": None}
            engine = Engine(after, model=model, work_dir=place / f"{loss}_{sampler}", overrides=overrides)
            recalls = [item.recall for item in tested(engine, engine.train(checkpoint=base.model_path).model_path)]
            old, new = statistics.mean(recalls[:first]), statistics.mean(recalls[first:])
            rows.append({**row, "old": old, "new": new, "balanced": statistics.mean(recalls)})
    return rows


def long_tail(cell: dict[str, Any], folder: Path, weights: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Train once; the classes with more than half of the logarithmic range of images count as old."""
    with tempfile.TemporaryDirectory() as scratch:
        data = lay_out_tail(folder, Path(scratch) / "data", cell)
        overrides = settings(cell, weights, options)
        engine = Engine(data, model=f"timm/{cell['model']}", work_dir=Path(scratch) / "work", overrides=overrides)
        recalls = [item.recall for item in tested(engine, engine.train().model_path)]
        half = len(recalls) // 2
        old, new = statistics.mean(recalls[:half]), statistics.mean(recalls[half:])
        return [{**cell, "old": old, "new": new, "balanced": statistics.mean(recalls)}]


def tested(engine: Engine, model: Path) -> Any:
    return engine.test(checkpoint=model).classes


def cells(options: argparse.Namespace) -> Iterator[tuple[dict[str, Any], Path, Path]]:
    for seed, text, pair in itertools.product(options.seeds, options.folders, options.weights):
        path, *numbers = text.split(":")
        model, _, weights = pair.partition("=")
        cell = {"folder": Path(path).name, "model": model, "seed": seed, "epochs": options.epochs, "size": options.size}
        if options.long_tail:
            for loss, sampler in METHODS:
                tail = {"long_tail": options.long_tail, "head": options.head, "loss": loss, "sampler": sampler}
                yield {**cell, **tail}, Path(path), Path(weights)
        else:
            first, old = int(numbers[0]), int(numbers[1]) if len(numbers) > 1 else 20
            yield {**cell, "first": first, "old": old}, Path(path), Path(weights)


def finish(
    cell: dict[str, Any], folder: Path, weights: Path, options: argparse.Namespace, until: float
) -> list[dict[str, Any]]:
    if time.time() > until:
        return []
    torch.set_num_threads(options.threads)
    # the pool's way of starting processes; data workers are forked, as in a process of one's own
    set_start_method("fork", force=True)
    return (long_tail if "long_tail" in cell else add_classes)(cell, folder, weights, options)


def table(rows: list[dict[str, Any]]) -> None:
    found = defaultdict(list)
    for row in rows:
        tail = "long_tail" in row
        scenario = f"1:{row['long_tail']:g} of {row.get('head') or 'all'}" if tail else f"{row['first']} + others"
        found[row["folder"], scenario, row["model"], row["loss"], row["sampler"]].append(row)
    print("data | classes | network | loss | sampler | old | new | mean over classes | seeds")
    for key, own in sorted(found.items()):
        columns = [[100 * row[name] for row in own] for name in ("old", "new", "balanced")]
        shown = [f"{statistics.mean(column):.1f} +-{statistics.pstdev(column):.1f}" for column in columns]
        print(" | ".join((*key, *shown, str(len(own)))))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folders", nargs="*")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--weights", nargs="+", default=[])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--start", type=int, default=5)
    parser.add_argument("--long_tail", type=float)
    parser.add_argument("--head", type=int, help="images of the class with most")
    parser.add_argument("--device", default="cpu", choices=("cpu", "gpu"))
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--workers", type=int)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--minutes", type=float, default=60)
    options = parser.parse_args()
    keys = ("folder", "model", "seed", "epochs", "size", "first", "old", "long_tail", "head", "loss", "sampler")
    done = [{key: row[key] for key in keys if key in row} for row in read(options.out)]
    left = [each for each in cells(options) if not any(each[0].items() <= row.items() for row in done)]
    until = time.time() + 60 * options.minutes
    for rows in computed(finish, [(*each, options, until) for each in left], options.jobs):
        with options.out.open("a") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
        for row in rows:
            print(*row.values(), flush=True)
    table(read(options.out))


if __name__ == "__main__":
    main()
