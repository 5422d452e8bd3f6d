"""Plant faults in a folder of photos, and measure the recall and the precision of `otx check`.

    python benchmarks/planted.py FOLDER --weights WEIGHTS [--network mobilenetv2_100] [--flip 0.05] [--copies 10]

FOLDER holds class folders of photos, or is a .tar archive of them. They are copied to a temporary folder and split into
train, val and test as for a training. A share FLIP of the labels is changed, and COPIES training images are copied into
test under other names, in other sizes and JPEG qualities. WEIGHTS (timm's names, without a classifier) give the
features.

Leaks and copies are searched for without a model, before and after planting: those that the photos already had are
counted separately, since listing them is right. Prints for each list the precision, the recall and the number listed;
for mislabelled images also the precision of the first ones.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import tarfile
import tempfile
import time
from collections.abc import Collection
from pathlib import Path

from PIL import Image

from otx import Engine
from otx.catalogue import with_model
from otx.data.load import load_dataset
from otx.findings import CheckResult
from otx.model.card import ModelCard
from otx.model.modelfile import save_model
from otx.networks.build import model_info
from otx.networks.weights import initial_model
from otx.recipe import Recipe
from otx.training.starting_point import make_preprocessing

SIZES = (0.4, 2.0)
QUALITIES = (30, 50, 70, 90)


def lay_out(source: Path, root: Path) -> None:
    """Copy class folders into train/, val/ and test/, split as a training would."""
    dataset = load_dataset(source)
    for name, subset in dataset.parts.items():
        for path in subset.paths:
            (root / name / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(dataset.root / path, root / name / path)


def plant_labels(root: Path, share: float, rng: random.Random) -> dict[str, str]:
    """Move some images into the folder of another class; returns the true class of each by its new path."""
    images = sorted(root.glob("*/*/*"))
    classes = sorted({image.parent.name for image in images})
    planted = {}
    for image in rng.sample(images, round(share * len(images))):
        true = image.parent.name
        wrong = image.parents[1] / rng.choice([name for name in classes if name != true]) / image.name
        image.rename(wrong)
        planted[wrong.relative_to(root).as_posix()] = true
    return planted


def plant_copies(root: Path, count: int, rng: random.Random) -> dict[str, str]:
    """Copy training images into test in another size and quality; returns the original of each by the copy's path."""
    planted = {}
    for number, image in enumerate(rng.sample(sorted((root / "train").glob("*/*")), count)):
        copy = root / "test" / image.parent.name / f"copy {number}.jpg"
        with Image.open(image) as photo:
            scale = rng.uniform(*SIZES)
            size = (round(photo.width * scale), round(photo.height * scale))
            photo.convert("RGB").resize(size).save(copy, quality=rng.choice(QUALITIES))
        planted[copy.relative_to(root).as_posix()] = image.relative_to(root).as_posix()
    return planted


def untrained(network: str, weights: Path, classes: tuple[str, ...], root: Path, path: Path) -> Path:
    """A model file with pretrained features and an untrained classifier."""
    recipe = with_model(Recipe(), f"timm/{network}").override({"data_root": str(root)})
    preprocessing = make_preprocessing(recipe, model_info(f"timm/{network}"))
    size = (preprocessing.height, preprocessing.width)
    start = initial_model(network, len(classes), *size, pretrained=True, weights=str(weights))
    card = ModelCard(network, classes, preprocessing, start.origin, recipe.to_dict())
    save_model(path, start.network.state_dict(), card)
    return path


def leaks_of(found: CheckResult) -> set[tuple[str, str]]:
    return {(pair.second.path, pair.first.path) for pair in found.leaks}


def show(what: str, listed: Collection[object], planted: Collection[object]) -> None:
    hits = len(set(listed) & set(planted))
    print(
        f"{what:34} precision {hits / max(1, len(listed)):.3f}  recall {hits / max(1, len(planted)):.3f}  "
        f"listed {len(listed)}, planted {len(planted)}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--network", default="mobilenetv2_100")
    parser.add_argument("--flip", type=float, default=0.05)
    parser.add_argument("--copies", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as scratch:
        source, root = options.folder, Path(scratch, "planted")
        if source.is_file():
            with tarfile.open(source) as archive:
                archive.extractall(Path(scratch, "archive"), filter="data")
            source = Path(scratch, "archive")
        lay_out(source, root)
        before = Engine(root).check()
        labels = plant_labels(root, options.flip, rng)
        copies = plant_copies(root, options.copies, rng)
        started = time.perf_counter()
        found = Engine(root).check()
        seconds = time.perf_counter() - started
        own = {frozenset(Path(path).name for path in pair) for pair in leaks_of(before)}
        leaks = [pair for pair in leaks_of(found) if frozenset(Path(path).name for path in pair) not in own]
        print(
            f"{found.num_images} images, seed {options.seed}, {os.cpu_count()} cores; without a model {seconds:.1f} s"
        )
        print(f"of the photos' own: {len(before.leaks)} leaks, {len(before.copies)} groups of copies")
        show("leaks", leaks, copies.items())
        groups = {frozenset(Path(place.path).name for place in group.images) for group in before.copies}
        show(
            "copies",
            [
                frozenset(place.path for place in group.images)
                for group in found.copies
                if frozenset(Path(place.path).name for place in group.images) not in groups
            ],
            [frozenset(pair) for pair in copies.items()],
        )
        classes = tuple(item.name for item in found.classes)
        model = untrained(options.network, options.weights, classes, root, Path(scratch, "model.safetensors"))
        started = time.perf_counter()
        doubts = Engine(root, checkpoint=model).check().mislabelled or ()
        print(f"with a model {time.perf_counter() - started:.1f} s")
        paths = [doubt.path for doubt in doubts]
        show("mislabelled", paths, labels)
        for count in (20, 50, 100):
            show(f"mislabelled, the first {count}", paths[:count], labels)
        right = sum(labels.get(doubt.path) == doubt.suggested for doubt in doubts)
        print(f"of the planted ones that are listed, the suggested class is the true one in {right}")


if __name__ == "__main__":
    main()
