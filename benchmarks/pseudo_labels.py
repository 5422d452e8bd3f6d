"""Do photos without labels help? python benchmarks/pseudo_labels.py FOLDER --weights WEIGHTS [--seeds 3]

FOLDER holds class folders of photos, WEIGHTS (timm's names, without a classifier) give the features. A fifth of the
photos is the test set; of the others 5, 10 and 25 of each class keep their labels. A logistic regression on these is
compared with one that also gets the photos without labels whose suggested class it is sure of: above the confidence at
which 95 % of the suggestions were right, by cross-validation on the labelled photos. Features are kept in --cache.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

import numpy as np
from active import Features, Labels, features_of

from otx.active import fit_few, probabilities_of, scaled

LABELS_A_CLASS = (5, 10, 25)
FOLDS = 5
RIGHT = 0.95


def limit_of(rows: Features, labels: Labels, num_classes: int) -> float:
    """The confidence from which on 95 % of the suggestions are right, by cross-validation; 2 if there is none."""
    fold, answers = np.arange(len(labels)) % FOLDS, np.zeros((len(labels), num_classes))
    for number in range(FOLDS):
        fitted = fit_few(rows[fold != number], labels[fold != number], num_classes)
        answers[fold == number] = probabilities_of(fitted.logits(rows[fold == number]))
    order = np.argsort(-answers.max(axis=1))
    shares = np.cumsum(answers.argmax(axis=1)[order] == labels[order]) / np.arange(1, len(order) + 1)
    enough = np.flatnonzero(shares >= RIGHT)
    return float(answers.max(axis=1)[order][enough[-1]]) if len(enough) else 2.0


def compare(rows: Features, labels: Labels, count: int, seed: int) -> tuple[float, float, int]:
    """Test accuracy without and with pseudo-labels, and how many there were."""
    num_classes = int(labels.max()) + 1
    order = np.random.default_rng(seed).permutation(len(labels))
    test, train = order[: len(order) // 5], order[len(order) // 5 :]
    # class after class, so that the folds have equally many of each
    known = np.concatenate([train[labels[train] == each][:count] for each in range(num_classes)])
    rest = np.setdiff1d(train, known)
    plain = fit_few(rows[known], labels[known], num_classes)
    answers = probabilities_of(plain.logits(rows[rest]))
    sure = answers.max(axis=1) >= limit_of(rows[known], labels[known], num_classes)
    more = np.concatenate([rows[known], rows[rest[sure]]]), np.concatenate([labels[known], answers.argmax(1)[sure]])
    helped = fit_few(*more, num_classes)
    right = [float((each.logits(rows[test]).argmax(axis=1) == labels[test]).mean()) for each in (plain, helped)]
    return right[0], right[1], int(sure.sum())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--network", default="mobilenetv2_100")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir(), "otx-active"))
    options = parser.parse_args()
    features, labels = features_of(options.folder, options.network, options.weights, options.cache)
    for count in LABELS_A_CLASS:
        found = [compare(scaled(features), labels, count, seed) for seed in range(options.seeds)]
        without, helped, used = (list(each) for each in zip(*found, strict=True))
        gains = [b - a for a, b in zip(without, helped, strict=True)]
        print(
            f"{count:>3} labels a class: without {statistics.mean(without):.3f}, with {statistics.mean(helped):.3f}, "
            f"gain {statistics.mean(gains):+.3f} +-{statistics.stdev(gains):.3f} ({used} pseudo-labels)",
            flush=True,
        )


if __name__ == "__main__":
    main()
