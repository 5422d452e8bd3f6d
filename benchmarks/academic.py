"""The table of published accuracies, and ours beside it.

    python benchmarks/academic.py --out RESULTS.jsonl [--data cifar10=FOLDER_OR_ARCHIVE cars=FOLDER ...]
        [--weights NETWORK=FILE ...] [--only cifar10/mobilenet_v3_large ...] [--seeds 0] [--device gpu]
        [--set KEY=VALUE ...] [--cache FOLDER]
    python benchmarks/academic.py --out RESULTS.jsonl --show

A cell is a data set and a recipe. Where there is a network, CIFAR-10 and CIFAR-100 are downloaded by torchvision,
flowers from TensorFlow's address and weights from the Hugging Face hub. `--data` gives a folder (class folders, or
train/ and test/ with class folders) or a tar archive of one, `--weights` a file. The cars of Stanford have no address
any more: they need `--data`. `--only cifar10/efficientnet_b0=timm/tf_efficientnet_lite0` puts another network into
the place of a recipe's. Finished cells are lines of RESULTS.jsonl and are left out the next time, so that the same
command goes on where it stopped; a training that was cut off is resumed. A folder without a split is split 80/20, as
the published figures are. Trains with today's defaults but for `--set`.

Published: OTX 2.0, ImageNet weights, one RTX 3090.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tarfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from cells import read

from otx import Engine
from otx.errors import OtxError

PUBLISHED = {
    "mobilenet_v3_large": {"cifar10": 93.36, "cifar100": 83.01, "flowers": 96.45, "cars": 83.24},
    "efficientnet_b0": {"cifar10": 94.86, "cifar100": 84.73, "flowers": 96.86, "cars": 85.70},
    "efficientnet_v2": {"cifar10": 96.13, "cifar100": 90.36, "flowers": 97.68, "cars": 86.74},
}
FLOWERS = "https://storage.googleapis.com/download.tensorflow.org/example_images/flower_photos.tgz"


class Cell(NamedTuple):
    data: str
    recipe: str
    network: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.data}/{self.recipe}" + ("" if self.network == self.recipe else f"={self.network}")


def cells(only: list[str], seeds: list[int]) -> Iterator[Cell]:
    """The cells asked for, or all of the table; the first seed of each comes first."""
    wanted = only or [f"{data}/{recipe}" for recipe, row in PUBLISHED.items() for data in row]
    for seed in seeds:
        for text in wanted:
            data, _, rest = text.partition("/")
            recipe, _, network = rest.partition("=")
            if data not in PUBLISHED.get(recipe, {}):
                raise SystemExit(f"{text}: no such cell; a data set of {list(PUBLISHED['efficientnet_b0'])} / a recipe")
            yield Cell(data, recipe, network or recipe, seed)


def folder_of(data: str, given: dict[str, str], cache: Path) -> Path:
    """The folder of a data set: the one given, unpacked, or downloaded once."""
    if data in given and Path(given[data]).is_dir():
        return Path(given[data])
    place = cache / data
    if not place.exists():
        cache.mkdir(parents=True, exist_ok=True)
        if data in given:
            unpack(Path(given[data]), place)
        elif data == "flowers":
            archive, _ = urllib.request.urlretrieve(FLOWERS)
            unpack(Path(archive), place)
        elif data in ("cifar10", "cifar100"):
            write_cifar(data, place)
        else:
            raise SystemExit(f"{data} cannot be downloaded: give --data {data}=FOLDER")
    # an archive may hold one folder around all
    inner = [path for path in place.iterdir() if path.is_dir()]
    return inner[0] if len(inner) == 1 else place


def unpack(archive: Path, place: Path) -> None:
    """Unpack into a folder that is there whole or not at all."""
    with tarfile.open(archive) as file:
        file.extractall(place.with_suffix(".part"), filter="data")
    place.with_suffix(".part").rename(place)


def write_cifar(data: str, place: Path) -> None:
    """Download CIFAR with torchvision, and write it as PNG files in class folders."""
    from torchvision import datasets

    kind = datasets.CIFAR10 if data == "cifar10" else datasets.CIFAR100
    part = place.with_suffix(".part")
    for split in ("train", "test"):
        images = kind(place.parent / "downloads", train=split == "train", download=True)
        for name in images.classes:
            (part / split / name).mkdir(parents=True, exist_ok=True)
        for number, (image, label) in enumerate(images):
            image.save(part / split / images.classes[label] / f"{number:05}.png")
    part.rename(place)


def measure(cell: Cell, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Train and test one cell, going on with a training that was cut off."""
    work = options.cache / "runs" / cell.name.replace("/", "_") / str(cell.seed)
    overrides = {
        **dict(options.settings),
        "seed": cell.seed,
        "engine.device": options.device,
        "report": False,
        "data.check_images": False,
    }
    if cell.network.removeprefix("timm/") in options.weights:
        overrides["model.weights"] = options.weights[cell.network.removeprefix("timm/")]
    started = time.perf_counter()
    engine = Engine(folder, model=cell.network, work_dir=work, overrides=overrides)
    is_begun = any(work.glob("*/checkpoints/last.ckpt"))
    result = engine.train(resume=True) if is_begun else engine.train()
    if result.interrupted:
        raise SystemExit(f"{cell.name}, seed {cell.seed}: {result.stop_reason}; the same command goes on")
    seconds = time.perf_counter() - started
    test = engine.test(checkpoint=result.model_path)
    return {
        **cell._asdict(),
        "top1": test.top1,
        "images": test.num_images,
        "epochs": len(result.epochs),
        "seconds": seconds,
        "settings": dict(options.settings),
    }


def show(rows: list[dict[str, Any]]) -> None:
    """Print the table: published, and the mean and the range over seeds of what was measured."""
    names = {(row["data"], row["recipe"], row["network"]): [] for row in rows}
    for row in rows:
        names[row["data"], row["recipe"], row["network"]].append(100 * row["top1"])
    print("data | published recipe | published | network | top-1 | from .. to | seeds")
    for (data, recipe, network), found in names.items():
        figures = f"{statistics.mean(found):.2f} | {min(found):.2f} .. {max(found):.2f} | {len(found)}"
        print(f"{data} | {recipe} | {PUBLISHED[recipe][data]} | {network} | {figures}")


def pairs(texts: list[str]) -> dict[str, str]:
    return dict(text.split("=", 1) for text in texts)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", nargs="+", default=[])
    parser.add_argument("--weights", nargs="+", default=[])
    parser.add_argument("--only", nargs="+", default=[])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--set", nargs="+", default=[], dest="settings")
    parser.add_argument("--cache", type=Path, default=Path("academic"))
    parser.add_argument("--show", action="store_true")
    options = parser.parse_args()
    options.weights = pairs(options.weights)
    options.settings = [(key, yaml.safe_load(value)) for key, value in pairs(options.settings).items()]
    done = [(row["data"], row["recipe"], row["network"], row["seed"]) for row in read(options.out)]
    for cell in [] if options.show else cells(options.only, options.seeds):
        if tuple(cell) in done:
            continue
        try:
            row = measure(cell, folder_of(cell.data, pairs(options.data), options.cache), options)
        except (OtxError, OSError) as error:
            print(f"{cell.name}, seed {cell.seed}: {error}", flush=True)
            continue
        with options.out.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(f"{cell.name}, seed {cell.seed}: {100 * row['top1']:.2f} in {row['seconds']:.0f} s", flush=True)
    show(read(options.out))


if __name__ == "__main__":
    main()
