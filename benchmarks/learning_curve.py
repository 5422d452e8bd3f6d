"""Does the learning curve of half of the training photos foretell what all of them reach? The table of docs/trust.md.

    python benchmarks/learning_curve.py FLOWERS TRASH --weights FILE [FILE ...] --features FOLDER --seeds 0 1 2

A WEIGHTS file (timm's names, without a classifier) is called NETWORK.anything; FOLDER keeps the features (see
features.py) and what was reached. Each data set is split as a training with that seed splits it. From a half and from a
quarter of the training photos, drawn anew, it forecasts what twice as many add. The truth is the difference of the test
accuracies of the classifiers that `otx train --max_epochs 0` fits to these photos and to twice as many (the same
features, regression, penalties and validation photos). The truth of one seed is as uncertain as its few test photos, so
the forecasts of all seeds are also compared with the mean truth. A line of JSON for each run, then a table.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from features import Features, compute, open_network
from numpy.typing import NDArray

from otx.data.dataset import Subset
from otx.data.load import load_dataset
from otx.model.regression import fit_regression
from otx.training.learning_curve import learning_curve
from otx.training.linear_probe import PENALTIES

SHARES = (0.25, 0.5)
Labelled = tuple[Features, NDArray[np.int64]]


def rows_of(part: Subset, found: dict[str, Features]) -> Labelled:
    kept = [(found[path], label) for path, label in zip(part.paths, part.labels, strict=True) if path in found]
    return np.stack([row for row, _ in kept]), np.asarray([label for _, label in kept])


def drawn(images: Labelled, share: float, rng: np.random.Generator) -> Labelled:
    """A share of the images of each class."""
    labels = images[1]
    own = [rng.permutation(np.flatnonzero(labels == label)) for label in np.unique(labels)]
    numbers = np.concatenate([each[: round(share * len(each))] for each in own])
    return images[0][numbers], labels[numbers]


def accuracy(train: Labelled, val: Labelled, test: Labelled, num_classes: int) -> float:
    """On the test photos, of the classifier that a training fits to these features."""
    width = train[0].shape[1]
    fits = (fit_regression(*train, num_classes, penalty=penalty / width, balanced=True) for penalty in PENALTIES)
    return min(fits, key=lambda fit: fit.measure(*val)[0]).measure(*test)[1]


def measure(root: Path, found: dict[str, Features], seed: int, kept: Path) -> list[dict[str, Any]]:
    """A line for each share: what was forecast from it, and what twice as many photos reached."""
    dataset = load_dataset(root, seed=seed)
    train, val, test = (rows_of(part, found) for part in dataset.parts.values())
    rng, num_classes = np.random.default_rng(seed), len(dataset.classes)
    smaller = {1.0: train} | {share: drawn(train, share, rng) for share in SHARES}
    if kept.is_file():
        reached = json.loads(kept.read_text())
    else:
        reached = {str(share): accuracy(images, val, test, num_classes) for share, images in smaller.items()}
        kept.write_text(json.dumps(reached))
    lines = []
    for share in SHARES:
        images, began = smaller[share], time.process_time()
        curve = learning_curve(*images, dataset.classes, len(images[1]), seed)
        if curve.gain is None:
            print(f"{root.name}, seed {seed}, {share}: {curve.sentence}")
            continue
        before, after = reached[str(share)], reached[str(2 * share)]
        lines.append(
            {
                "from": len(images[1]),
                "reached": [round(before, 4), round(after, 4)],
                "truth": round(after - before, 4),
                "forecast": [round(each, 4) for each in (curve.gain, curve.gain_low or 0, curve.gain_high or 0)],
                "points": [(point.num_images, round(point.accuracy, 4)) for point in curve.points],
                "best": curve.helps_most,
                "seconds": round(time.process_time() - began, 2),
                "share": share,
            }
        )
    return lines


def show(cells: dict[tuple[str, str, float], list[dict[str, Any]]]) -> None:
    total = []
    print("\n| data, network | photos | truth | forecast | interval | covers the mean truth | covers its own truth |")
    for (data, network, _), lines in cells.items():
        truth = np.asarray([line["truth"] for line in lines])
        gain, low, high = np.asarray([line["forecast"] for line in lines], float).T
        covers = (low <= truth.mean()) & (truth.mean() <= high)
        own = (low <= truth) & (truth <= high)
        total += [*zip(covers, own, strict=True)]
        error = truth.std(ddof=1) / np.sqrt(len(truth)) if len(truth) > 1 else np.nan
        print(
            f"| {data}, {network} | {lines[0]['from']} to {2 * lines[0]['from']} | {100 * truth.mean():.1f} "
            f"±{100 * error:.1f} | {100 * gain.mean():.1f} ±{100 * gain.std():.1f} | {100 * low.mean():.1f} to "
            f"{100 * high.mean():.1f} | {covers.sum()} of {len(covers)} | {own.sum()} |"
        )
    print(f"all: covers the mean truth {sum(a for a, _ in total)} of {len(total)}, its own {sum(b for _, b in total)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_roots", nargs="+", type=Path, metavar="DATA_ROOT")
    parser.add_argument("--weights", nargs="+", type=Path, required=True)
    parser.add_argument("--features", type=Path)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    given = parser.parse_args()
    cells = defaultdict(list)
    with tempfile.TemporaryDirectory() as scratch:
        for root in given.data_roots:
            for weights in given.weights:
                network = weights.name.split(".")[0]
                folder = (given.features or Path(scratch)) / network
                found = compute(open_network(weights, root, Path(scratch)), root, folder, "none")
                for seed in given.seeds:
                    for line in measure(root, found, seed, folder / root.name / f"reached_{seed}.json"):
                        cells[root.name, network, line["share"]].append(line)
                        print(json.dumps({"data": root.name, "network": network, "seed": seed, **line}), flush=True)
    show(cells)


if __name__ == "__main__":
    main()
