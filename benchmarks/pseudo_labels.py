"""Do photos without labels help?

    python benchmarks/pseudo_labels.py FOLDER --weights WEIGHTS [--seeds 3]
    python benchmarks/pseudo_labels.py FOLDER --weights WEIGHTS --out RESULTS.jsonl --epochs 0 [--size 96] [--most N]

FOLDER holds class folders of photos, WEIGHTS (timm's names, without a classifier) give the features. A fifth of the
photos is the test set; of the others 5, 10 and 25 of each class keep their labels. A logistic regression on these is
compared with one that also gets the photos without labels whose class it is sure of, by the rule of
`--training.unlabelled` (`otx.training.pseudo_labels`). Features are kept in --cache.

With --epochs, whole trainings are compared, with `--training.unlabelled true` and without, of so many epochs at most
(0: the fitted classifier alone), on a folder whose labels.csv gives only these labels; a tenth of them validates.
Finished trainings are lines of RESULTS.jsonl and are left out the next time; none is begun after --minutes.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from active import Features, Labels, features_of
from cells import read

from otx import Engine
from otx.data.journal import JOURNAL, Row, write_journal
from otx.model.regression import Regression, fit_regression
from otx.training.pseudo_labels import answers_of, choose_limit

LABELS_A_CLASS = (5, 10, 25)


def compare(rows: Features, labels: Labels, count: int, seed: int) -> tuple[float, float, int, int]:
    """Test accuracy without and with pseudo-labels, how many there were, and how many of them were right."""
    num_classes = int(labels.max()) + 1
    order = np.random.default_rng(seed).permutation(len(labels))
    test, train = order[: len(order) // 5], order[len(order) // 5 :]
    known = np.concatenate([train[labels[train] == each][:count] for each in range(num_classes)])
    rest = np.setdiff1d(train, known)
    penalty, limit = choose_limit(rows[known], labels[known], num_classes)

    def fitted(inputs: Features, targets: Labels) -> Regression:
        return fit_regression(inputs, targets, num_classes, penalty=penalty, balanced=True)

    plain = fitted(rows[known], labels[known])
    guessed, sure = answers_of(plain, rows[rest])
    joins = sure >= (2 if limit is None else limit)
    helped = fitted(np.concatenate([rows[known], rows[rest[joins]]]), np.concatenate([labels[known], guessed[joins]]))
    without, with_them = (
        float((each.logits(rows[test]).argmax(axis=1) == labels[test]).mean()) for each in (plain, helped)
    )
    return without, with_them, int(joins.sum()), int((guessed == labels[rest])[joins].sum())


def laid_out(folder: Path, root: Path, count: int, seed: int, most: int) -> Path:
    """Links to `most` photos of each class, and a table with labels of a fifth to test and of `count` of each class."""
    classes = sorted(folder.iterdir())
    paths = [path.relative_to(folder) for each in classes for path in sorted(each.iterdir())[:most]]
    order = [paths[place] for place in np.random.default_rng(seed).permutation(len(paths))]
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).symlink_to(folder.resolve() / path)
    test, rest = order[: len(order) // 5], order[len(order) // 5 :]
    train = [path for name in sorted({path.parts[0] for path in paths})
             for path in [each for each in rest if each.parts[0] == name][:count]]  # fmt: skip
    rows = {
        path.as_posix(): Row(path.parts[0], name) for name, part in (("test", test), ("train", train)) for path in part
    }
    write_journal(root / JOURNAL, rows)
    return root


def trained(cell: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """The test accuracy of one training, and how many pseudo-labels it had, right ones and all."""
    with tempfile.TemporaryDirectory() as scratch:
        root = laid_out(options.folder, Path(scratch, "photos"), cell["labels"], cell["seed"], options.most)
        settings = {
            "model.weights": str(options.weights),
            "data.input_size": options.size,
            "max_epochs": cell["epochs"],
            "seed": cell["seed"],
            "training.unlabelled": cell["unlabelled"],
            "report": False,
        }
        engine = Engine(root, model=f"timm/{options.network}", work_dir=Path(scratch, "ws"), overrides=settings)
        run = engine.train().run_dir
        pairs: list[bool] = []
        if (run / "pseudo_labels.csv").is_file():
            with (run / "pseudo_labels.csv").open() as file:
                pairs = [row["path"].startswith(f"{row['class']}/") for row in csv.DictReader(file)]
        return {**cell, "accuracy": engine.test().top1, "joined": len(pairs), "right": sum(pairs)}


def train_all(options: argparse.Namespace) -> None:
    began, rows = time.monotonic(), read(options.out)
    done = [{key: row[key] for key in ("folder", "labels", "epochs", "seed", "unlabelled")} for row in rows]
    for count, seed, unlabelled in itertools.product(LABELS_A_CLASS, range(options.seeds), (False, True)):
        cell = {"folder": options.folder.name, "labels": count, "epochs": options.epochs, "seed": seed}
        cell["unlabelled"] = unlabelled
        if cell in done or time.monotonic() - began > 60 * options.minutes:
            continue
        rows.append(trained(cell, options))
        with options.out.open("a") as file:
            file.write(json.dumps(rows[-1]) + "\n")
    for count in LABELS_A_CLASS:
        own = [row for row in rows if (row["folder"], row["labels"], row["epochs"])
               == (options.folder.name, count, options.epochs)]  # fmt: skip
        by = {(row["seed"], row["unlabelled"]): row for row in own}
        pairs = [(by[seed, False], by[seed, True]) for seed, is_on in by if is_on and (seed, False) in by]
        if len(pairs) > 1:
            gains = [b["accuracy"] - a["accuracy"] for a, b in pairs]
            print(
                f"{options.folder.name}, {options.epochs} epochs, {count:>3} labels a class: without "
                f"{statistics.mean(a['accuracy'] for a, _ in pairs):.3f}, gain {statistics.mean(gains):+.3f} "
                f"+-{statistics.stdev(gains):.3f}; right pseudo-labels "
                + ", ".join(f"{b['right']} of {b['joined']}" for _, b in pairs)
            )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--network", default="mobilenetv2_100")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir(), "otx-active"))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--most", type=int, default=10_000, help="photos of each class")
    options = parser.parse_args()
    if options.epochs is not None:
        train_all(options)
        return
    features, labels = features_of(options.folder, options.network, options.weights, options.cache)
    for count in LABELS_A_CLASS:
        found = [compare(features, labels, count, seed) for seed in range(options.seeds)]
        without, helped, used, right = (list(each) for each in zip(*found, strict=True))
        gains = [b - a for a, b in zip(without, helped, strict=True)]
        print(
            f"{count:>3} labels a class: without {statistics.mean(without):.3f}, with {statistics.mean(helped):.3f}, "
            f"gain {statistics.mean(gains):+.3f} +-{statistics.stdev(gains):.3f}; right pseudo-labels "
            + ", ".join(f"{good} of {count}" for good, count in zip(right, used, strict=True)),
            flush=True,
        )


if __name__ == "__main__":
    main()
