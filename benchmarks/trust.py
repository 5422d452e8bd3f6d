"""How much a temperature improves the calibration of a model: the tables of docs/trust.md.

    python benchmarks/trust.py FLOWERS TRASH --weights mobilenetv2_100=FILE --seeds 0 1 2 --epochs 0
    python benchmarks/trust.py HYMENOPTERA --weights mobilenetv2_100=FILE --epochs 90

Each data set is trained with each network and seed, and measured on its test split before and after: the logits before
are those of the model file times its temperature. A data set without a test split has its `val` taken for one.
`--few` fits temperatures to only so many of the validation images, 20 times each, and measures these on the test split;
once more with logits times 2.5, as a network would have them that is too sure.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otx import Engine
from otx.data.dataset import ImageSet, Split
from otx.evaluation.metrics import Answers, measure
from otx.events import SilentReporter
from otx.inference.classify import classify
from otx.inference.predictor import load_predictor
from otx.model.calibration import calibrate, fit_temperature
from otx.model.trained import TrainedModel

DRAWS = 20
TOO_SURE = 2.5
Logits = NDArray[np.float32]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_roots", nargs="+", type=Path, metavar="DATA_ROOT")
    parser.add_argument("--weights", nargs="+", required=True, metavar="NETWORK=FILE")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--epochs", type=int, default=0)
    parser.add_argument("--few", nargs="*", type=int, default=[])
    parser.add_argument("--int8", action="store_true", help="also measure the INT8 file")
    parser.add_argument("--output", type=Path, help="also append the figures to this file, a line of JSON each")
    given = parser.parse_args()
    for root in given.data_roots:
        for network, weights in (each.split("=") for each in given.weights):
            for seed in given.seeds:
                with tempfile.TemporaryDirectory() as folder:
                    rows = measured(with_test(root, Path(folder)), network, weights, seed, given, Path(folder))
                for row in rows:
                    line = json.dumps({"data": root.name, "network": network, "seed": seed, **row})
                    print(line, flush=True)
                    if given.output:
                        with given.output.open("a", encoding="utf-8") as file:
                            file.write(line + "\n")


def with_test(root: Path, folder: Path) -> Path:
    """The data set; of `train` and `val` alone, `val` becomes `test`, and otx takes validation images from `train`."""
    if not (root / "val").is_dir() or (root / "test").is_dir():
        return root
    made = folder / root.name
    made.mkdir()
    (made / "train").symlink_to(root / "train", target_is_directory=True)
    (made / "test").symlink_to(root / "val", target_is_directory=True)
    return made


def measured(root: Path, network: str, weights: str, seed: int, given: Any, folder: Path) -> list[dict[str, Any]]:
    settings = {"model.weights": weights, "seed": seed, "max_epochs": given.epochs, "report": False}
    engine = Engine(
        root, model=f"timm/{network}", work_dir=folder / "ws", overrides=settings, reporter=SilentReporter()
    )
    path = engine.train().model_path
    model = TrainedModel.open(path)
    dataset = model.dataset(model.own_data(100_000_000))
    assert dataset.test != dataset.val, f"{root} has no test split"
    sets = [ImageSet(dataset.root, part, Split.TEST, 100_000_000) for part in (dataset.test, dataset.val)]
    test, val = (logits_of(path, images) for images in sets)
    temperature = model.card.temperature
    assert temperature is not None
    rows = [{"kind": "FP32", "epochs": given.epochs, "num_val": len(val[1]), **both(test, temperature, model)}]
    raw_val, raw_test = (val[0] * temperature, val[1]), (test[0] * temperature, test[1])
    for factor in (1.0, TOO_SURE) if given.few else ():
        more = [(logits * np.float32(factor), labels) for logits, labels in (raw_val, raw_test)]
        rows += [{"kind": f"{n} of val", "factor": factor, **few(more[0], more[1], n, model)} for n in given.few]
    if given.int8:
        small = engine.optimize().path
        answers, card = logits_of(small, sets[0]), TrainedModel.open(small).card
        assert card.temperature is not None
        own = card.temperature / temperature
        rows.append({"kind": "INT8", "num_val": len(val[1]), **both(answers, own, model)})
    return rows


def logits_of(path: Path, images: ImageSet) -> tuple[Logits, NDArray[np.int64]]:
    """Logits (N, C) and labels (N,)."""
    rows = classify(load_predictor(path, "cpu"), images.files(), batch_size=32, max_pixels=images.max_pixels)
    kept = [(logits, label) for (_, logits, _), (_, label) in zip(rows, images.items(), strict=True)]
    return np.stack([logits for logits, _ in kept if logits is not None]), np.asarray(
        [label for logits, label in kept if logits is not None]
    )


def figures(logits: Logits, labels: NDArray[np.int64], classes: Sequence[str]) -> tuple[float, float, float]:
    """Calibration error, loss and accuracy."""
    found = measure(Answers.of(logits, labels), tuple(classes))
    return found.calibration_error, found.loss, found.top1


def both(test: tuple[Logits, NDArray[np.int64]], temperature: float, model: TrainedModel) -> dict[str, Any]:
    logits, labels = test
    before = figures(logits * np.float32(temperature), labels, model.card.classes)
    after = figures(logits, labels, model.card.classes)
    return {
        "num_test": len(labels),
        "temperature": round(temperature, 3),
        "top1": [round(before[2], 4), round(after[2], 4)],
        "ece": [round(before[0], 4), round(after[0], 4)],
        "loss": [round(before[1], 4), round(after[1], 4)],
    }


def few(
    val: tuple[Logits, NDArray[np.int64]], test: tuple[Logits, NDArray[np.int64]], count: int, model: TrainedModel
) -> dict[str, Any]:
    """Mean and worst calibration error, and mean loss: uncalibrated, fitted, and fitted where cross-fitting helps."""
    if count > len(val[1]):
        return {}
    rng, found = np.random.default_rng(0), []
    for _ in range(DRAWS):
        drawn = rng.permutation(len(val[1]))[:count]
        fitted = [
            1.0,
            fit_temperature(val[0][drawn], val[1][drawn]),
            calibrate(val[0][drawn], val[1][drawn]).temperature,
        ]
        found.append([figures(test[0] / np.float32(t), test[1], model.card.classes)[:2] for t in fitted])
    ece, loss = np.moveaxis(np.asarray(found), 2, 0)
    names = ("at 1", "fitted", "crossed")
    return {
        "ece": dict(zip(names, ece.mean(axis=0).round(4).tolist(), strict=True)),
        "worst ece": dict(zip(names, ece.max(axis=0).round(4).tolist(), strict=True)),
        "loss": dict(zip(names, loss.mean(axis=0).round(4).tolist(), strict=True)),
    }


if __name__ == "__main__":
    main()
