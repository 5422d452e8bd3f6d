"""How many labels it takes, chosen or at random: python benchmarks/active.py FOLDER --weights WEIGHTS [--seeds 3]

FOLDER holds class folders of photos. A fifth of them is the test set. Of the others labels are given in rounds: those
that `otx.active.next_to_label` asks for, or random ones; after each a logistic regression on features of the network
(WEIGHTS: timm's names, without a classifier) is measured. Prints the labels it takes to reach 85 % of the accuracy with
all labels, and the accuracy by number of labels. Features are computed once and kept in --cache.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from planted import untrained

from otx.active import UNLABELLED, fit, next_to_label, scaled
from otx.data.load import load_dataset
from otx.inference.classify import run_over
from otx.inference.predictor import load_predictor

SHARE = 0.85
ROUND = 5
LOOKED_AT = (10, 15, 20, 25, 30, 40, 50, 75, 100, 150, 200)

Features = NDArray[np.float32]
Labels = NDArray[np.int64]
Choose = Callable[[Features, Labels, int, int], list[int]]


def features_of(folder: Path, network: str, weights: Path, cache: Path) -> tuple[Features, Labels]:
    """The features and labels of all photos of a folder, from the cache if they are there."""
    file = cache / f"{folder.resolve().name}-{network}.npz"
    if not file.is_file():
        dataset = load_dataset(folder)
        items = [(path, label) for part in dataset.parts.values() for path, label in zip(part.paths, part.labels)]  # noqa: B905
        with tempfile.TemporaryDirectory() as scratch:
            model = untrained(network, weights, dataset.classes, folder, Path(scratch, "model.safetensors"))
            predictor = load_predictor(model)
            reading = predictor.card.preprocessing.reading(100_000_000)
            rows = list(run_over(predictor.features, [dataset.root / path for path, _ in items], reading))
        kept = [(row, label) for (_, row, _), (_, label) in zip(rows, items, strict=True) if row is not None]
        cache.mkdir(parents=True, exist_ok=True)
        np.savez(file, features=np.stack([row for row, _ in kept]), labels=np.array([label for _, label in kept]))
    found = np.load(file)
    return found["features"], found["labels"]


def at_random(features: Features, labels: Labels, count: int, seed: int) -> list[int]:
    left = np.flatnonzero(labels == UNLABELLED)
    chosen = np.random.default_rng(seed).permutation(left)[:count]
    return [int(each) for each in chosen]


def chosen(features: Features, labels: Labels, count: int, seed: int) -> list[int]:
    return next_to_label(features, labels, count, seed=seed)


def accuracy(train: tuple[Features, Labels], test: tuple[Features, Labels], num_classes: int) -> float:
    known = train[1] != UNLABELLED
    fitted = fit(scaled(train[0][known]), train[1][known], num_classes)
    return float((fitted.logits(scaled(test[0])).argmax(axis=1) == test[1]).mean())


def curve(choose: Choose, train: tuple[Features, Labels], test: tuple[Features, Labels], seed: int) -> dict[int, float]:
    """Accuracy by number of labels."""
    num_classes, known, found = int(test[1].max()) + 1, np.full(len(train[1]), UNLABELLED), {}
    while (done := int((known != UNLABELLED).sum())) < max(LOOKED_AT):
        places = choose(train[0], known, ROUND, seed + done)
        known[places] = train[1][places]
        found[done + len(places)] = accuracy((train[0], known), test, num_classes)
    return found


def needed(found: dict[int, float], target: float) -> int:
    return next((count for count, reached in found.items() if reached >= target), max(found) + 1)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--network", default="mobilenetv2_100")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir(), "otx-active"))
    options = parser.parse_args()
    features, labels = features_of(options.folder, options.network, options.weights, options.cache)
    ways: dict[str, Choose] = {"chosen": chosen, "random": at_random}
    taken: dict[str, list[int]] = {name: [] for name in ways}
    curves: dict[str, list[dict[int, float]]] = {name: [] for name in ways}
    for seed in range(options.seeds):
        order = np.random.default_rng(seed).permutation(len(labels))
        held, rest = order[: len(order) // 5], order[len(order) // 5 :]
        train, test = (features[rest], labels[rest]), (features[held], labels[held])
        final = accuracy(train, test, int(labels.max()) + 1)
        for name, choose in ways.items():
            curves[name].append(curve(choose, train, test, 1000 * seed))
            taken[name].append(needed(curves[name][-1], SHARE * final))
        print(f"seed {seed}: all {len(rest)} labels {final:.3f}; labels for 85 % of it: "
              + ", ".join(f"{name} {taken[name][-1]}" for name in ways), flush=True)  # fmt: skip
    print("labels  " + "  ".join(f"{name:>15}" for name in ways))
    for count in LOOKED_AT:
        cells = []
        for name in ways:
            values = [found[count] for found in curves[name]]
            cells.append(f"{statistics.mean(values):.3f} +-{statistics.pstdev(values):.3f}")
        print(f"{count:>6}  " + "  ".join(f"{cell:>15}" for cell in cells))
    means = {name: statistics.mean(counts) for name, counts in taken.items()}
    print(f"chosen/random: {means['chosen'] / means['random']:.2f} of the labels")


if __name__ == "__main__":
    main()
