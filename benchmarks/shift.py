"""Does `otx check NEW --checkpoint MODEL` notice that photos look different? The table of docs/trust.md.

    python benchmarks/shift.py DATA_ROOT --weights FILE [FILE ...] --features FOLDER [--seeds 10] [--draws 4]

A WEIGHTS file (timm's names, without a classifier) is called NETWORK.anything; FOLDER keeps the features, see
features.py. A model is summarised as a training with --max_epochs 0 does it: training photos make the summary,
validation photos are what is compared with. New photos are 20, 50, 100 or 200 of the test split: as they are, changed
in looks, only those of half of the classes, or those of another data set (--others). Prints the share of draws that are
called different in looks, and different in their mix of classes. Unchanged photos are drawn for each seed, changed ones
(of the test split of seed 0) for seed 0, five times as often.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from features import CHANGES, Features, compute, open_network
from learning_curve import rows_of
from numpy.typing import NDArray

from otx.data.load import load_dataset
from otx.evaluation.shift import LEVEL, look_p_value, mix_p_value
from otx.limits import one_blas_thread
from otx.model.unknown import KnownClasses, draw_sample, summarise

COUNTS = (20, 50, 100, 200)
TIMES = 5
Alarms = tuple[bool, bool]


def alarms(known: KnownClasses, sample: Features, new: Features, rng: np.random.Generator) -> Alarms:
    """Whether photos are called different in looks and in their mix, as `compare` does it."""
    rows = np.concatenate([known.whitened(new), sample])
    is_new = np.arange(len(rows)) < len(new)
    classes = known.nearest(rows)
    return look_p_value(rows, is_new, classes, rng) <= LEVEL, mix_p_value(classes, is_new, rng) <= LEVEL


def trials(
    root: Path, kinds: dict[str, dict[str, Features]], others: dict[str, Features], seeds: int, draws: int
) -> Iterator[tuple[str, int, Alarms]]:
    """(kind, number of new photos, what is called different) of each draw."""
    for seed in range(seeds):
        dataset, rng = load_dataset(root, seed=seed), np.random.default_rng(seed)
        train, val = (rows_of(part, kinds["none"]) for part in (dataset.train, dataset.val))
        known = summarise(*train, len(dataset.classes))
        sample = draw_sample(known.whitened(val[0]), seed).astype(np.float32)
        rows, labels = rows_of(dataset.test, kinds["none"])
        new: dict[str, tuple[Features, int]] = {"none": (rows, draws)}
        new["half of the classes"] = (rows[labels < len(dataset.classes) // 2], draws)
        if seed == 0:
            more = {name: rows_of(dataset.test, found)[0] for name, found in kinds.items() if name != "none"}
            if others:
                more["of another kind"] = np.stack(list(others.values()))
            new |= {name: (found, draws * TIMES) for name, found in more.items()}
        for name, (found, times) in new.items():
            for count in COUNTS:
                for _ in range(times if count <= len(found) else 0):
                    drawn: NDArray[np.int64] = rng.permutation(len(found))[:count]
                    yield name, count, alarms(known, sample, found[drawn], rng)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_root", type=Path)
    parser.add_argument("--weights", nargs="+", type=Path, required=True)
    parser.add_argument("--features", type=Path)
    parser.add_argument("--others", type=Path, help="a folder of class folders of photos of other things")
    parser.add_argument("--changes", nargs="*", default=[name for name in CHANGES if name != "none"], choices=CHANGES)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--draws", type=int, default=4)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        for weights in given.weights:
            network = weights.name.split(".")[0]
            folder = (given.features or Path(scratch)) / network
            predictor = open_network(weights, given.data_root, Path(scratch))
            kinds = {name: compute(predictor, given.data_root, folder, name) for name in ("none", *given.changes)}
            others = compute(predictor, given.others, folder, "none") if given.others else {}
            found: dict[tuple[str, int], list[Alarms]] = {}
            with one_blas_thread():
                for name, count, alarm in trials(given.data_root, kinds, others, given.seeds, given.draws):
                    found.setdefault((name, count), []).append(alarm)
            show(f"{given.data_root.name}, {network}", found)


def show(title: str, found: dict[tuple[str, int], list[Alarms]]) -> None:
    print(f"\n{title}: called different in looks / in mix\n| photos | " + " | ".join(map(str, COUNTS)) + " |")
    for name in dict.fromkeys(name for name, _ in found):
        shares = [np.mean(found.get((name, count), [(np.nan, np.nan)]), axis=0) for count in COUNTS]
        print(f"| {name} | " + " | ".join(f"{look:.2f} / {mix:.2f}" for look, mix in shares) + " |")
    draws = {count: len(found.get(("none", count), ())) for count in COUNTS}
    print(f"draws of unchanged photos: {draws}", flush=True)


if __name__ == "__main__":
    main()
