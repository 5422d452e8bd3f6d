"""Which score tells pictures of something else from photos of the classes that a model knows?

    python benchmarks/unknown.py DATA --weights WEIGHTS [WEIGHTS ...] [--features FOLDER] [--seeds 3]
    python benchmarks/unknown.py DATA --model MODEL [--features FOLDER]

DATA holds `flowers/` (five class folders) and `trash/` (class folders); a WEIGHTS file (timm's names, without a
classifier) is called NETWORK.anything. For each network the features of all images, the classifier's input, are
computed once and kept in FOLDER; a run that was stopped goes on where it was.

For each flower the classifier is fitted to the other four, as `otx train --max_epochs 0` does: 72 % of their images are
for training, 8 % for validation, 20 % for testing; the seeds of this split take turns. Unknown are the fifth flower,
trash, digits, noise, a black and a white picture. Prints for each score and group the AUROC against the known test
images (0.5: a coin, 1: perfect), its mean and deviation over the runs, and the share of known test images lost at the
threshold that keeps 95 % of the validation images.

MODEL is a model file that otx trained on four of the flowers, whose run folder says which images were for what.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from planted import untrained
from sklearn.metrics import roc_auc_score
from unknown_scores import SCORES, Known

from otx.data.decode import decode_image
from otx.data.digits import resolve_data_root
from otx.data.split_file import read_split
from otx.errors import ImageError
from otx.inference.predictor import Predictor, load_predictor
from otx.model.regression import Regression, fit_regression
from otx.model.unknown import limit_of

Features = NDArray[np.float32]
Pixels = NDArray[np.uint8]
FLOWERS = ("daisy", "dandelion", "roses", "sunflowers", "tulips")
GROUPS = ("fifth flower", "trash", "digits", "noise", "black", "white")
PENALTIES = (1.0, 10.0, 100.0)
NUM_DIGITS = 300
NUM_NOISE = 100
KEPT = 0.95
BATCH = 32


def photos(data: Path) -> dict[str, list[Path]]:
    """The image files of each flower and of each other group."""
    found = {name: sorted((data / "flowers" / name).iterdir()) for name in FLOWERS}
    found["trash"] = sorted(path for path in (data / "trash").rglob("*") if path.is_file())
    digits = sorted(resolve_data_root("digits").rglob("*.png"))
    return found | {"digits": digits[:: len(digits) // NUM_DIGITS]}


def pictures() -> dict[str, list[Pixels]]:
    """Pictures that are made here: noise of several sizes and grains, one black, one white."""
    rng = np.random.default_rng(0)
    noise = []
    for number in range(NUM_NOISE):
        grain, side = 1 + number % 4 * 3, 224 + 8 * (number % 10)
        small = rng.integers(0, 256, (side // grain, side // grain, 3), dtype=np.uint8)
        noise.append(small.repeat(grain, 0).repeat(grain, 1))
    plain = {name: [np.full((224, 224, 3), value, np.uint8)] for name, value in (("black", 0), ("white", 255))}
    return {"noise": noise} | plain


def compute(predictor: Predictor, data: Path, folder: Path) -> dict[str, dict[str, Features]]:
    """The features (D,) of each image of each group by its path, computed or read back."""
    folder.mkdir(parents=True, exist_ok=True)
    groups: dict[str, dict[str, Path | Pixels]] = {}
    for name, paths in photos(data).items():
        groups[name] = {f"{path.parent.name}/{path.name}": path for path in paths}
    for name, made in pictures().items():
        groups[name] = {str(number): pixels for number, pixels in enumerate(made)}
    found = {}
    for name, images in groups.items():
        file = folder / f"{name}.npz"
        if not file.is_file():
            np.savez(file, **dict(_features(predictor, images)))
            print(f"{folder.name}: {name}, {len(images)} images", flush=True)
        found[name] = dict(np.load(file))
    return found


def _features(predictor: Predictor, images: dict[str, Path | Pixels]) -> Iterator[tuple[str, Features]]:
    """The features (D,) of each image that can be decoded."""
    reading = predictor.card.preprocessing.reading(10**8)
    names, batch = [], []
    for number, (name, image) in enumerate(images.items(), start=1):
        try:
            batch.append(decode_image(image, reading) if isinstance(image, Path) else image)
            names.append(name)
        except ImageError:
            print(f"left out: {image}")
        if len(batch) == BATCH or (number == len(images) and batch):
            yield from zip(names, predictor.features(batch), strict=True)
            names, batch = [], []


@dataclass(frozen=True)
class Trial:
    """One classifier of four flowers: what it was fitted to; the features (N, D) of test images and of unknown ones."""

    known: Known
    test: Features
    unknown: dict[str, Features]


def trials(found: dict[str, dict[str, Features]], seeds: int) -> Iterator[Trial]:
    """For each flower, a classifier fitted to the other four; the seeds of the split take turns."""
    for number, fifth in enumerate(FLOWERS):
        parts: list[list[Features]] = [[], [], []]
        for name in FLOWERS:
            if name == fifth:
                continue
            rows = np.stack(list(found[name].values()))
            rows = rows[np.random.default_rng(number % seeds).permutation(len(rows))]
            ends = (round(0.72 * len(rows)), round(0.8 * len(rows)))
            for part, each in zip(parts, np.split(rows, ends), strict=True):
                part.append(each)
        train, val, test = (np.concatenate(part) for part in parts)
        labels = [np.repeat(np.arange(4), [len(each) for each in part]) for part in parts]
        fitted = fit_classifier((train, labels[0]), (val, labels[1]))
        yield Trial(Known(train, labels[0], fitted.weight, fitted.bias, val), test, others(found, fifth))


def others(found: dict[str, dict[str, Features]], fifth: str) -> dict[str, Features]:
    """The features of each group of unknown images."""
    return {name: np.stack(list(found[fifth if name == GROUPS[0] else name].values())) for name in GROUPS}


def fit_classifier(train: tuple[Features, NDArray[np.int64]], val: tuple[Features, NDArray[np.int64]]) -> Regression:
    """The regression that the linear probe of a training chooses."""
    width = train[0].shape[1]
    fits = [fit_regression(*train, 4, penalty=penalty / width, balanced=True) for penalty in PENALTIES]
    return min(fits, key=lambda fit: fit.measure(*val)[0])


def measure(trial: Trial) -> dict[str, list[float]]:
    """For each score, the AUROC of each group and the share of known test images lost."""
    rows = {}
    for name, fit in SCORES.items():
        score = fit(trial.known)
        known = score(trial.test)
        limit = limit_of(score(trial.known.val), KEPT)
        rows[name] = [auroc(known, score(trial.unknown[group])) for group in GROUPS]
        rows[name].append(float(np.mean(known > limit)))
        rows[name].append(float(np.mean(score(trial.unknown["trash"]) <= limit)))
    return rows


def auroc(known: NDArray[np.float64], unknown: NDArray[np.float64]) -> float:
    truth = np.repeat([0, 1], [len(known), len(unknown)])
    return float(roc_auc_score(truth, np.concatenate([known, unknown])))


def show(title: str, measured: Sequence[dict[str, list[float]]]) -> None:
    columns = (*GROUPS, "known lost", "trash let in")
    print(f"\n{title}, {len(measured)} runs\n{'':24}" + "".join(f"{name:>15}" for name in columns))
    for name in SCORES:
        figures = zip(*(rows[name] for rows in measured), strict=True)
        cells = (f"{statistics.mean(each):.3f} ±{statistics.pstdev(each):.3f}" for each in figures)
        print(f"{name:24}" + "".join(f"{cell:>15}" for cell in cells), flush=True)


def trained_trial(found: dict[str, dict[str, Features]], model: Path) -> Trial:
    """The network of a model file with its own classifier and split; the features are those of this network."""
    predictor = load_predictor(model, "cpu")
    head = predictor._network.get_classifier()  # type: ignore[attr-defined]
    classes = predictor.card.classes
    parts: dict[str, tuple[list[Features], list[int]]] = {name: ([], []) for name in ("train", "val", "test")}
    for _, path, label, subset in read_split(model.parent / "split.csv"):
        if path in found[label]:
            parts[subset][0].append(found[label][path])
            parts[subset][1].append(classes.index(label))
    rows = {name: np.stack(features) for name, (features, _) in parts.items()}
    weight, bias = (each.detach().numpy() for each in (head.weight, head.bias))
    known = Known(rows["train"], np.asarray(parts["train"][1]), weight, bias, rows["val"])
    (fifth,) = set(FLOWERS) - set(classes)
    return Trial(known, rows["test"], others(found, fifth))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("--weights", type=Path, nargs="+", default=[])
    parser.add_argument("--model", type=Path)
    parser.add_argument("--features", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    measured: list[dict[str, list[float]]] = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.features or Path(scratch)
        print(f"{os.cpu_count()} cores, {options.seeds} seeds", flush=True)
        for weights in options.weights:
            network = weights.name.split(".")[0]
            model = untrained(network, weights, FLOWERS, options.data, Path(scratch, f"{network}.safetensors"))
            found = compute(load_predictor(model, "cpu"), options.data, folder / network)
            own = [measure(trial) for trial in trials(found, options.seeds)]
            show(network, own)
            measured += own
        if options.model is not None:
            predictor = load_predictor(options.model, "cpu")
            found = compute(predictor, options.data, folder / options.model.resolve().parent.name)
            show(f"{predictor.card.network}, trained", [measure(trained_trial(found, options.model))])
        if len(options.weights) > 1:
            show("all networks", measured)


if __name__ == "__main__":
    main()
