"""What makes a training more accurate? Many ways to choose the weights of one training, and other settings.

    python benchmarks/levers.py FOLDER[:TRAIN[:TEST[:SIZE]]]... --out RESULTS.jsonl --weights NAME=FILE.safetensors...
        [--seeds 0 1 2] [--size 128] [--epochs 90] [--minutes 11] [--device cpu] [--jobs 1] [--workers N] [--threads 2]
        [--series raw ema1] [--curves ema1] [--variants plain default KEY=VALUE,KEY=VALUE try.NAME=VALUE]
    python benchmarks/levers.py --out RESULTS.jsonl [--against VARIANT:LEVER]

FOLDER holds class folders, or train/ and test/ (or val/) with class folders. TRAIN random images of each class are
trained on (at most two thirds of a class), TEST others or all the rest are tested; without these numbers the folder is
taken as it is. Every cell (folder, network, seed, variant) is one training with the settings of `BEFORE` (the first
default) and the variant's; `default`, or `default,KEY=VALUE`, is one with all of today's defaults; `try.NAME` are
levers that otx does not have (`lever_trials.py`). The weights of each epoch, and moving averages of the weights of each
step, are kept, and afterwards measured on the validation images, which choose, and on the test images, which nothing
chooses by: all levers of a cell come from the same training. Finished cells are lines of RESULTS.jsonl and are left out
the next time; no new one is begun after `--minutes`. `--jobs` trains so many cells side by side. Prints top-1 of every
lever, the gain in points over a lever of another variant, `--against` (the choice `raw` of `plain`), its standard error
over cells, in how many cells it is worse, and the images that were trained on in proportion to that variant.

Levers: `kept`: the model file; `probe`: the fitted classifier, before the first epoch; `refit`: with `try.refit=true`,
a training on training and validation images afterwards; SERIES: best epoch by accuracy, then by loss; `SERIES:loss`: by
loss; `SERIES:wise`: that, blended with the weights of the start, the share by validation loss; `SERIES:wise_half`: half
of each; `SERIES:proven`: the smallest share whose validation loss is at most a standard error (of the difference, image
by image) above the lowest; `SERIES:proven_half`: the same of half and all; `SERIES:soft`: epoch by the mean probability
of the true class; `SERIES:calibrated`: by the loss with the best temperature; `SERIES:error`: epoch by loss, of those
whose accuracy is at most a standard error below the best; `SERIES:latest`: the latest epoch whose mean probability of
the true class is at most a standard error (of the difference, image by image) below the highest; `SERIES:last`: the
last epoch. A SERIES is `raw`, the weights after each epoch, `emaN`, their moving average over N epochs, or `topN`, the
mean of the best N epochs by loss; `soft3` is the mean of those three of `ema1` with the highest probability of the true
class, `tail` the mean of `ema1` from the highest on; `--series` measures only some of them. `--curves ema1`
also keeps what every epoch of a series reaches.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import random
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from multiprocessing import set_start_method
from pathlib import Path
from typing import Any, NamedTuple

import torch
from cells import computed, read
from defaults import settings_of
from lever_refit import refitted
from lever_trials import drop_paths, sharpness_aware_step, tried
from torch.nn import functional

from otx import Engine
from otx.data.dataset import Dataset, ImageSet, Split
from otx.data.loader import ImageSubset
from otx.model.modelfile import load_model
from otx.training import fit as fit_module
from otx.training import run as run_module
from otx.training.inputs import plain_batches
from otx.training.loop import Loop

EMA_EPOCHS = (1, 3)
SHARES = (0.25, 0.5, 0.75)
# the default that everything is compared with
BEFORE = {
    "training.best_by": "accuracy",
    "training.monitor": "accuracy",
    "training.average_epochs": 0.0,
    "optimizer.name": "sgd",
    "data.train_subset.batch_size": 64,
    "data.train_subset.augmentation.scale": [0.08, 1.0],
}
Weights = dict[str, torch.Tensor]
Figures = tuple[float, float, float, float]
TEMPERATURES = [2 ** (power / 8) for power in range(-16, 25)]


class Watched(Loop):
    """The training loop; it also keeps the weights of every epoch, and their moving averages over steps."""

    seen: Watched
    trials: dict[str, Any] = {}  # noqa: RUF012
    series_only: tuple[str, ...] = ()
    curves: tuple[str, ...] = ()

    def begin(self) -> None:
        super().begin()
        Watched.seen = self
        if "drop_path" in self.trials:
            drop_paths(self.module.network, self.trials["drop_path"])
        self.start = copied(self.module.network.state_dict())
        self.averages = {f"ema{epochs:g}": copied(self.start) for epochs in EMA_EPOCHS}
        self.series: dict[str, list[Weights]] = {name: [] for name in ("raw", *self.averages)}

    def _step(self, batch: Any, number: int) -> torch.Tensor:
        if "sam" in self.trials:
            loss = sharpness_aware_step(self, batch, number, self.trials["sam"])
        else:
            loss = super()._step(batch, number)
        now = self.module.network.state_dict()
        for average, epochs in zip(self.averages.values(), EMA_EPOCHS, strict=True):
            blend_into(average, now, 1 / max(1, epochs * len(self.batches)))
        return loss

    def tell(self, result: Any) -> None:
        super().tell(result)
        for name, weights in (("raw", self.module.network.state_dict()), *self.averages.items()):
            self.series[name].append(copied(weights))


def copied(weights: Weights) -> Weights:
    return {name: value.detach().clone() for name, value in weights.items()}


def blend_into(weights: Weights, other: Weights, share: float) -> Weights:
    """Move weights towards others, in place: share 1 gives the others."""
    names = [name for name, value in weights.items() if value.is_floating_point()]
    torch._foreach_lerp_([weights[name] for name in names], [other[name] for name in names], share)
    return weights


class Ruler:
    """Measures weights of one network on the validation and the test images; each blend of an epoch once."""

    def __init__(self, loop: Watched, test: ImageSubset) -> None:
        self.loop, self.module = loop, loop.module
        val = loop.job.inputs.val
        self.batches = {
            name: [loop._moved(batch) for batch in plain_batches(part, range(len(part)), loop.recipe)]
            for name, part in (("val", val), ("test", test))
        }
        self.known: dict[tuple[str, int, float, str], Figures] = {}
        self.losses: dict[tuple[str, int, float, str], torch.Tensor] = {}
        self.truths: dict[tuple[str, int, float, str], torch.Tensor] = {}

    def __call__(self, series: str, epoch: int, share: float, part: str = "val") -> Figures:
        """What a share of an epoch's weights and the rest of the start's reach; epoch -1: the start."""
        key = self.place(series, epoch, share, part)
        series, epoch, share, _ = key
        if key not in self.known:
            weights = copied(self.loop.start)
            if epoch >= 0:
                blend_into(weights, self.loop.series[series][epoch], share)
            self.known[key] = self.measure(weights, part)
            self.losses[key], self.truths[key] = self.each, self.truth
        return self.known[key]

    @staticmethod
    def place(series: str, epoch: int, share: float, part: str) -> tuple[str, int, float, str]:
        return ("start", -1, 0.0, part) if epoch < 0 or share == 0 else (series, epoch, share, part)

    def latest(self, series: str, count: int) -> int:
        """The latest epoch whose probability of the true class is at most a standard error of the difference lower."""
        truths = []
        for epoch in range(-1, count):
            self(series, epoch, 1)
            truths.append(self.truths[self.place(series, epoch, 1, "val")])
        best = max(truths, key=lambda each: float(each.mean()))
        for epoch in reversed(range(-1, count)):
            less = best - truths[epoch + 1]
            if float(less.mean()) <= float(less.std()) / len(less) ** 0.5:
                return epoch
        raise AssertionError("the best one is no worse than itself")

    def least_proven(self, series: str, epoch: int, shares: tuple[float, ...]) -> float:
        """The smallest share whose loss is at most one standard error of the difference above the lowest."""
        losses = {}
        for share in shares:
            self(series, epoch, share)
            losses[share] = self.losses[self.place(series, epoch, share, "val")]
        best = min(losses.values(), key=lambda each: float(each.mean()))
        for share in sorted(shares):
            more = losses[share] - best
            if float(more.mean()) <= float(more.std()) / len(more) ** 0.5:
                return share
        return max(shares)

    @torch.no_grad()
    def measure(self, weights: Weights, part: str) -> Figures:
        """Accuracy, loss (nats), mean probability of the true class, and the loss with the best temperature."""
        self.module.network.load_state_dict(weights)
        self.module.eval()
        hits = images = 0.0
        losses, answers, truths = [], [], []
        for batch in self.batches[part]:
            with self.loop.fabric.autocast():
                logits = self.module(batch.images)
            hits += (logits.argmax(1) == batch.labels).sum().item()
            losses.append(functional.cross_entropy(logits, batch.labels, reduction="none").float().cpu())
            truths.append(logits.float().softmax(1).gather(1, batch.labels[:, None])[:, 0].cpu())
            images += len(batch.labels)
            answers.append((logits.float().cpu(), batch.labels.cpu()))
        self.each, self.truth = torch.cat(losses), torch.cat(truths)
        logits, labels = (torch.cat(parts) for parts in zip(*answers, strict=True))
        calibrated = min(float(functional.cross_entropy(logits / each, labels)) for each in TEMPERATURES)
        return hits / images, float(self.each.mean()), float(self.truth.mean()), calibrated


def by_accuracy(figures: Figures) -> tuple[float, float]:
    return figures[0], -figures[1]


def choose(loop: Watched, ruler: Ruler) -> dict[str, tuple[str, int, float]]:
    """Series, epoch and share of each lever, by the validation images alone."""
    count = len(loop.series["raw"])
    by_loss = sorted(range(count), key=lambda epoch: ruler("raw", epoch, 1)[1])
    for size in (3, 5) if count else ():
        loop.series[f"top{size}"] = [mean([loop.series["raw"][epoch] for epoch in by_loss[:size]])]
    if averaged := loop.series["ema1"]:
        by_truth = sorted(range(count), key=lambda epoch: -ruler("ema1", epoch, 1)[2])
        loop.series["soft3"] = [mean([averaged[epoch] for epoch in by_truth[:3]])]
        loop.series["tail"] = [mean(averaged[by_truth[0] :])]
    levers = {"probe": ("raw", -1, 0.0)}
    for name, states in loop.series.items():
        if loop.series_only and name not in loop.series_only:
            continue
        epochs = range(-1, len(states))
        levers[name] = (name, max(epochs, key=lambda epoch: by_accuracy(ruler(name, epoch, 1))), 1.0)
        best = min(epochs, key=lambda epoch: ruler(name, epoch, 1)[1])
        levers[f"{name}:loss"] = (name, best, 1.0)
        share = min((0.0, *SHARES, 1.0), key=lambda share: ruler(name, best, share)[1])
        levers[f"{name}:wise"] = (name, best, share)
        levers[f"{name}:wise_half"] = (name, best, 0.5)
        levers[f"{name}:proven"] = (name, best, ruler.least_proven(name, best, (0.0, *SHARES, 1.0)))
        levers[f"{name}:proven_half"] = (name, best, ruler.least_proven(name, best, (0.5, 1.0)))
        levers[f"{name}:soft"] = (name, max(epochs, key=lambda epoch: ruler(name, epoch, 1)[2]), 1.0)
        levers[f"{name}:calibrated"] = (name, min(epochs, key=lambda epoch: ruler(name, epoch, 1)[3]), 1.0)
        levers[f"{name}:error"] = (name, within_error(loop, [ruler(name, epoch, 1) for epoch in epochs]) - 1, 1.0)
        levers[f"{name}:latest"] = (name, ruler.latest(name, len(states)), 1.0)
        levers[f"{name}:last"] = (name, len(states) - 1, 1.0)
    return levers


def within_error(loop: Watched, figures: list[Figures]) -> int:
    """Of those whose accuracy is at most its standard error below the highest, the place of the lowest loss."""
    top = max(accuracy for accuracy, *_ in figures)
    least = top - (top * (1 - top) / len(loop.job.inputs.val)) ** 0.5
    return min((loss, place) for place, (accuracy, loss, *_) in enumerate(figures) if accuracy >= least)[1]


def mean(states: list[Weights]) -> Weights:
    result = copied(states[0])
    for number, state in enumerate(states[1:], 2):
        blend_into(result, state, 1 / number)
    return result


@contextlib.contextmanager
def watched(seen: dict[str, Any]) -> Iterator[None]:
    """Within the block a training keeps its weights, and `seen` becomes what they reach on its images."""
    open_inputs = run_module.open_inputs

    @contextlib.contextmanager
    def with_measures(dataset: Dataset, preprocessing: Any, recipe: Any) -> Iterator[Any]:
        with open_inputs(dataset, preprocessing, recipe) as inputs:
            yield inputs
            seen["trained"] = time.perf_counter()
            seen["trained_on"] = Watched.seen.state.steps * int(recipe.data.train_subset.batch_size)
            images = ImageSet(dataset.root, dataset.test, Split.TEST, recipe.data.max_image_pixels)
            seen.update(measured(Watched.seen, ImageSubset(images, preprocessing)))

    fit_module.Loop, run_module.open_inputs = Watched, with_measures  # type: ignore[misc]
    try:
        yield
    finally:
        fit_module.Loop, run_module.open_inputs = Loop, open_inputs  # type: ignore[misc]


def measured(loop: Watched, test: ImageSubset) -> dict[str, Any]:
    ruler = Ruler(loop, test)
    levers = {}
    for name, (series, epoch, share) in choose(loop, ruler).items():
        val, held_out = ruler(series, epoch, share), ruler(series, epoch, share, "test")
        levers[name] = {"epoch": epoch, "share": share, "val": val, "top1": held_out[0], "loss": held_out[1]}
    best, kept = loop.recorder.best, load_model(loop.run.model)[0].state_dict()
    assert best is not None
    (top1, loss, *_), val = ruler.measure(kept, "test"), ruler.measure(kept, "val")
    levers["kept"] = {"epoch": best.epoch, "share": 1.0, "val": val, "top1": top1, "loss": loss}
    counts = {"epochs": len(loop.series["raw"]), "steps": loop.state.steps}
    if "refit" in loop.trials:
        top1, loss, *_ = ruler.measure(refitted(loop), "test")
        levers["refit"] = {"epoch": best.epoch, "share": 1.0, "val": None, "top1": top1, "loss": loss}
    curves = {name: curve(loop, ruler, name) for name in loop.curves}
    return {
        "levers": levers,
        "curves": curves,
        "reported": best.val_accuracy,
        **counts,
        "images": {"train": len(loop.job.inputs.train), "val": len(loop.job.inputs.val), "test": len(test)},
    }


def curve(loop: Watched, ruler: Ruler, series: str) -> list[dict[str, Any]]:
    """What the start and each epoch reach, and the probability of the true class of each validation image."""
    rows = []
    for epoch in range(-1, len(loop.series[series])):
        val, held_out = ruler(series, epoch, 1), ruler(series, epoch, 1, "test")
        truths = ruler.truths[ruler.place(series, epoch, 1, "val")]
        rows.append({"val": val, "test": held_out, "truths": [round(each, 4) for each in truths.tolist()]})
    return rows


class Source(NamedTuple):
    """A folder, and how many images of each class to train on and to test on, at which size in pixels."""

    folder: Path
    train: int | None
    test: int | None
    size: int

    @classmethod
    def parse(cls, text: str, size: int) -> Source:
        folder, *numbers = text.split(":")
        counts = [int(number) if number else None for number in numbers] + [None] * 3
        return cls(Path(folder), counts[0], counts[1], counts[2] or size)


def take(source: Source, place: Path, seed: int) -> Path:
    """Link random images of each class to train on and to test on; a folder that needs neither is taken as it is."""
    folder = source.folder
    held_out = next((folder / name for name in ("test", "val") if (folder / name).is_dir()), None)
    if source.train is None and held_out is None:
        return folder
    rng = random.Random(seed)
    for own in sorted((folder if held_out is None else folder / "train").iterdir()):
        train = rng.sample(sorted(own.iterdir()), len(list(own.iterdir())))
        if held_out is None:
            count = min(source.train or 0, 2 * len(train) // 3)
            train, test = train[:count], train[count:]
        else:
            test = sorted((held_out / own.name).iterdir())
        if source.test is not None:
            test = rng.sample(test, min(len(test), source.test))
        for split, images in (("train", train[: source.train]), ("test", test)):
            (place / split / own.name).mkdir(parents=True)
            for image in images:
                (place / split / own.name / image.name).symlink_to(image.resolve())
    return place


def train(source: Source, weights: Path, options: argparse.Namespace, cell: dict[str, Any]) -> dict[str, Any]:
    """Train once; what each lever chose and what it reaches."""
    variant, seed = cell["variant"], cell["seed"]
    settings = settings_of(weights, options, seed, variant, {} if variant.split(",")[0] == "default" else BEFORE)
    trials = {key.removeprefix("try."): settings.pop(key) for key in list(settings) if key.startswith("try.")}
    settings = {"data.input_size": source.size, **settings}
    seen: dict[str, Any] = {}
    Watched.trials, Watched.series_only, Watched.curves = trials, tuple(options.series), tuple(options.curves)
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        data = take(source, scratch / "data", seed)
        if name := trials.get("teacher"):
            own = {**settings, "model.weights": dict(pair.split("=", 1) for pair in options.weights)[name]}
            teacher = Engine(data, model=f"timm/{name}", work_dir=scratch / "teacher", overrides=own).train()
            trials["teacher"] = teacher.model_path
        with watched(seen), tried(trials):
            started = time.perf_counter()
            Engine(data, model=f"timm/{cell['model']}", work_dir=scratch / "work", overrides=settings).train()
    return {"seconds": seen.pop("trained") - started, **seen}


def cells(options: argparse.Namespace) -> Iterator[tuple[dict[str, Any], Source, Path]]:
    for seed, variant, text, pair in itertools.product(
        options.seeds, options.variants, options.folders, options.weights
    ):
        source, (model, _, weights) = Source.parse(text, options.size), pair.partition("=")
        cell = {"folder": source.folder.name, "model": model, "size": source.size, "seed": seed}
        yield {**cell, "per_class": source.train, "variant": variant}, source, Path(weights)


def finish(
    cell: dict[str, Any], source: Source, weights: Path, options: argparse.Namespace, until: float
) -> dict[str, Any] | None:
    """Train one cell, unless it is too late; runs in a process of its own with `--jobs`."""
    if time.time() > until:
        return None
    torch.set_num_threads(options.threads)
    # the pool's way of starting processes; data workers are forked, as in a process of one's own
    set_start_method("fork", force=True)
    return {**cell, **train(source, weights, options, cell)}


def table(rows: list[dict[str, Any]], against: str) -> None:
    """Print top-1 of each lever in each folder, and over all cells the gain over the lever `against`, VARIANT:LEVER."""
    # a lever may have a colon in its name, a variant has none
    base, _, lever_of_base = against.partition(":")
    bases = {place_of(row): row for row in rows if row["variant"] == base and lever_of_base in row["levers"]}
    if rows and not bases:
        print(f"--against {against}: no finished cell has this variant and lever")
    columns = sorted({(row["folder"], row["model"]) for row in rows})
    found: dict[tuple[str, str], list[Compared]] = defaultdict(list)
    for row in rows:
        before = bases.get(place_of(row))
        for name, lever in row["levers"].items() if before else ():
            found[row["variant"], name].append(Compared.of(row, lever, before, before["levers"][lever_of_base]))
    print(
        "variant | lever | gain, points | error | worse in | loss | images | cells |",
        " | ".join(f"{a} {b}" for a, b in columns),
    )
    for (variant, name), each in sorted(found.items(), key=lambda item: -statistics.mean(row.gain for row in item[1])):
        gains = [row.gain for row in each]
        error = statistics.stdev(gains) / len(gains) ** 0.5 if len(gains) > 1 else float("nan")
        tops = {column: [row.top1 for row in each if row.column == column] for column in columns}
        shown = " | ".join(f"{100 * statistics.mean(top):.2f}" if top else "-" for top in tops.values())
        loss, images = statistics.mean(row.loss for row in each), statistics.mean(row.images for row in each)
        worse = sum(gain < 0 for gain in gains)
        figures = f"{statistics.mean(gains):+.2f} | {error:.2f} | {worse} | {loss:+.4f} | {images:.2f} | {len(gains)}"
        print(f"{variant} | {name} | {figures} | {shown}")


class Compared(NamedTuple):
    """A lever in a cell: the gain in points, its test loss less that of the other, the images trained on per other."""

    column: tuple[str, str]
    top1: float
    gain: float
    loss: float
    images: float

    @classmethod
    def of(cls, row: dict[str, Any], lever: dict[str, Any], base: dict[str, Any], other: dict[str, Any]) -> Compared:
        gain, images = 100 * (lever["top1"] - other["top1"]), row["trained_on"] / max(1, base["trained_on"])
        return cls((row["folder"], row["model"]), lever["top1"], gain, lever["loss"] - other["loss"], images)


def place_of(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in ("folder", "model", "size", "seed", "per_class"))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folders", nargs="*")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--weights", nargs="+", default=[])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--device", default="cpu", choices=("cpu", "gpu"))
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--workers", type=int)
    parser.add_argument("--epochs", type=int, default=90)
    parser.add_argument("--minutes", type=float, default=11)
    parser.add_argument("--variants", nargs="+", default=["plain", "default"])
    parser.add_argument("--series", nargs="*", default=[])
    parser.add_argument("--curves", nargs="*", default=[])
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--against", default="plain:raw")
    options = parser.parse_args()
    done = [{key: row[key] for key in (*PLACE, "variant")} for row in read(options.out)]
    until = time.time() + 60 * options.minutes
    left = [(*each, options, until) for each in cells(options) if each[0] not in done]
    for row in computed(finish, left, options.jobs):
        if row is not None:
            with options.out.open("a") as file:
                file.write(json.dumps(row) + "\n")
            tell(row)
    table(read(options.out), options.against)


def tell(row: dict[str, Any]) -> None:
    levers = row["levers"]
    shown = ", ".join(
        f"{name} {levers[name]['top1']:.4f}"
        for name in ("probe", "kept", "raw", "raw:loss", "ema1:loss")
        if name in levers
    )
    place = [row[key] for key in (*PLACE, "variant")]
    print(*place, f"{row['seconds']:.0f} s, {row['epochs']} epochs: {shown}", flush=True)


PLACE = ("folder", "model", "size", "seed", "per_class")


if __name__ == "__main__":
    main()
