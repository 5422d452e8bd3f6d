"""What another patience and other ways to choose the epoch would have reached in trainings of `levers.py --curves`.

    python benchmarks/levers.py ... --out RESULTS.jsonl --curves ema1
        --variants default,training.early_stopping.patience=9
    python benchmarks/lever_curves.py RESULTS.jsonl [--series ema1] [--patience 3 6 9]

A training with a smaller patience has the same epochs, and ends earlier. For each patience: `highest`, the epoch with
the highest mean probability of the true class on the validation images, which is the default for few of them; `latest
N`, the latest whose probability is at most N standard errors (of the difference, image by image) below that; `last`;
`accuracy`; `loss`; and `best`, the highest accuracy on the test images, which nobody can know. Prints the gain over
`highest` with the first patience in points of top-1 on the test images, its standard error over trainings, in how many
of them it is worse, the epochs trained, and the mean of each folder and network.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from cells import read
from numpy.typing import NDArray

Truths = NDArray[np.float64]
Curve = list[dict[str, Any]]


def ended(truths: Truths, patience: int) -> int:
    """How many rows (the start and each epoch) early stopping leaves."""
    best, waited = -np.inf, 0
    # as in training, the start does not count
    for number, score in enumerate(truths.mean(1)[1:], 2):
        best, waited = (score, 0) if score > best else (best, waited + 1)
        if waited >= patience:
            return number
    return len(truths)


def highest(curve: Curve, truths: Truths) -> int:
    return int(truths.mean(1).argmax())


def latest(errors: float) -> Callable[[Curve, Truths], int]:
    def choose(curve: Curve, truths: Truths) -> int:
        less = truths[highest(curve, truths)] - truths
        allowed = errors * less.std(1, ddof=1) / truths.shape[1] ** 0.5
        return int(np.flatnonzero(less.mean(1) <= allowed)[-1])

    return choose


CHOICES: dict[str, Callable[[Curve, Truths], int]] = {
    "highest": highest,
    "latest 0.5": latest(0.5),
    "latest 1": latest(1),
    "latest 2": latest(2),
    "last": lambda curve, truths: len(curve) - 1,
    "accuracy": lambda curve, truths: max(range(len(curve)), key=lambda n: (curve[n]["val"][0], -curve[n]["val"][1])),
    "loss": lambda curve, truths: min(range(len(curve)), key=lambda n: curve[n]["val"][1]),
    "best": lambda curve, truths: max(range(len(curve)), key=lambda n: curve[n]["test"][0]),
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("results", type=Path)
    parser.add_argument("--series", default="ema1")
    parser.add_argument("--patience", type=int, nargs="+", default=[3, 6, 9])
    options = parser.parse_args()
    rows = [row for row in read(options.results) if options.series in row.get("curves", {})]
    columns = sorted({(row["folder"], row["model"]) for row in rows})
    print("patience | choice | gain, points | error | worse | epochs |", " | ".join(f"{a} {b}" for a, b in columns))
    before: list[float] = []
    for patience in options.patience:
        for name, choose in CHOICES.items():
            reached, epochs = [], []
            for row in rows:
                curve = row["curves"][options.series]
                truths = np.array([each["truths"] for each in curve])
                count = ended(truths, patience)
                place = choose(curve[:count], truths[:count])
                reached.append(100 * curve[place]["test"][0])
                epochs.append(count - 1)
            before = before or reached
            gains = [now - then for now, then in zip(reached, before, strict=True)]
            error = statistics.stdev(gains) / len(gains) ** 0.5
            means = [
                statistics.mean(value for row, value in zip(rows, reached, strict=True) if place_of(row) == column)
                for column in columns
            ]
            figures = f"{statistics.mean(gains):+.2f} | {error:.2f} | {sum(gain < 0 for gain in gains)} of {len(gains)}"
            shown = " | ".join(f"{mean:.1f}" for mean in means)
            print(f"{patience} | {name} | {figures} | {statistics.mean(epochs):.1f} | {shown}")


def place_of(row: dict[str, Any]) -> tuple[str, str]:
    return row["folder"], row["model"]


if __name__ == "__main__":
    main()
