"""Which loss and sampler are best when five classes are added to a model of five others, whose images are now few?

    python benchmarks/incremental.py cifar10.tar.xz [--seeds 3] [--old 40] [--new 400] [--epochs 12]

CIFAR-10 (an archive with cifar10/train/CLASS/*.jpg and cifar10/test/CLASS/*.jpg). For each seed a network is trained on
NEW images of each of the first five classes, then on OLD images of each of these and NEW of each of the others, once
for each method; all start from the same model and train on the same images for the same number of epochs. Prints top-1
on the test images of the old classes, of the new ones, and the mean over all classes, each with its deviation.
"""

from __future__ import annotations

import argparse
import statistics
import tarfile
import tempfile
from pathlib import Path

from otx import Engine
from otx.results import TestResult

METHODS = {
    "cross-entropy, random sampler": ("cross_entropy", "random"),
    "cross-entropy, balanced sampler": ("cross_entropy", "balanced"),
    "influence-balanced, balanced sampler": ("influence_balanced", "balanced"),
}
SETTINGS = {
    "model.pretrained": False,
    "data.input_size": 32,
    "data.num_workers": 0,
    "data.check_images": False,
    "data.train_subset.augmentation.scale": (0.4, 1.0),
    "data.train_subset.batch_size": 64,
    "training.early_stopping.patience": None,
    "optimizer.lr": 0.05,
    "scheduler.patience": 2,
    "precision": "32",
}


def lay_out(source: Path, root: Path, counts: dict[str, int], seed: int) -> Path:
    """Link the chosen images: `counts` of each class in train/, 100 others in val/, 200 in test/."""
    for name, count in counts.items():
        train, test = (sorted((source / split / name).iterdir()) for split in ("train", "test"))
        first = seed * 600
        chosen = {"train": train[first : first + count], "val": train[-100:], "test": test[:200]}
        for split, images in chosen.items():
            (root / split / name).mkdir(parents=True)
            for image in images:
                (root / split / name / image.name).symlink_to(image)
    return root


def measure(result: TestResult) -> tuple[float, float, float]:
    recalls = [item.recall for item in result.classes]
    old = result.old_and_new
    assert old is not None
    return old.old_after or 0.0, old.new_after or 0.0, statistics.mean(recalls)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("archive", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--old", type=int, default=40)
    parser.add_argument("--new", type=int, default=400)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--lr", type=float, default=0.02)
    parser.add_argument("--model", default="timm/resnet10t")
    options = parser.parse_args()
    rows: dict[str, list[tuple[float, float, float]]] = {name: [] for name in METHODS}
    with tempfile.TemporaryDirectory() as scratch:
        with tarfile.open(options.archive) as archive:
            archive.extractall(scratch, filter="data")
        source = Path(scratch, "cifar10").resolve()
        names = sorted(path.name for path in (source / "train").iterdir())
        for seed in range(options.seeds):
            here = Path(scratch, f"seed{seed}")
            before = lay_out(source, here / "before", dict.fromkeys(names[:5], options.new), seed)
            after = {name: options.old if name in names[:5] else options.new for name in names}
            more = lay_out(source, here / "after", after, seed)
            base = Engine(before, model=options.model, work_dir=here, overrides=SETTINGS).train(
                seed=seed, max_epochs=options.epochs
            )
            for name, (loss, sampler) in METHODS.items():
                changes = {
                    **SETTINGS,
                    "optimizer.lr": options.lr,
                    "training.loss": loss,
                    "data.train_subset.sampler": sampler,
                }
                engine = Engine(more, model=options.model, work_dir=here, overrides=changes)
                engine.train(checkpoint=base.model_path, seed=seed, max_epochs=options.epochs)
                rows[name].append(measure(engine.test()))
                print(f"seed {seed}  {name:38}" + "".join(f"{value:8.3f}" for value in rows[name][-1]), flush=True)
    print(f"\n{options.seeds} seeds{'':33}{'old':>14}{'new':>15}{'balanced':>15}")
    for name, figures in rows.items():
        columns = zip(*figures, strict=True)
        print(f"{name:40}" + "".join(f"{statistics.mean(c):9.3f} ±{statistics.pstdev(c):.3f}" for c in columns))


if __name__ == "__main__":
    main()
