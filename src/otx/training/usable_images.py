"""Load the images of a training, leave out those that cannot be decoded, and warn of copies across splits."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from otx.data.archive import is_archive
from otx.data.check import scan_images, suspect
from otx.data.dataset import Dataset, pick_evenly
from otx.data.digits import resolve_data_root
from otx.data.folder import shorten
from otx.data.load import load_dataset, refuse_if_too_many_bad, split_options
from otx.data.preprocessing import Preprocessing
from otx.errors import UsageError
from otx.events import Progress, Reporter, heartbeat
from otx.findings import CheckResult, CopyPair
from otx.recipe import Recipe
from otx.training.budget import CHECK_SHARE, Budget
from otx.training.compute import CHECK_VARIABLE, find_shard, share
from otx.training.devices import pick_device
from otx.workspace import RunFolder

MAX_COMPARED = 10_000
TIMED = 64


def load_images(recipe: Recipe, run: RunFolder | None, reporter: Reporter, *, min_classes: int) -> Dataset:
    """Read the data folder, split it, and report what was found.

    Args:
        run: the run to resume, whose split is used again.

    Raises:
        DataError: the folder cannot be used.
        UsageError: there are fewer training or validation images than processes.
    """
    options = split_options(recipe) | ({"split_file": run.split} if run else {})
    root = resolve_data_root(recipe.data_root)
    if is_archive(Path(str(recipe.data_root))):
        reporter.note(f"{recipe.data_root} is unpacked in {root}.")
    with heartbeat(reporter, "reading the folder"):
        dataset = load_dataset(root, **options, min_classes=min_classes)
    reporter.note(
        f"{dataset.root}: {len(dataset.classes)} classes, {len(dataset.train)} images to train, "
        f"{len(dataset.val)} to validate, {len(dataset.test)} to test ({dataset.layout})."
    )
    for note in dataset.notes:
        reporter.note(note)
    if (pair := mirrored_names(dataset.classes)) and recipe.data.train_subset.augmentation.flip > 0:
        reporter.warn(
            f"{pair[0]!r} and {pair[1]!r} may be mirror images of each other, and training images are flipped at "
            "random: --data.train_subset.augmentation.flip 0 stops that."
        )
    check_shares(recipe, dataset)
    return dataset


def mirrored_names(classes: Sequence[str]) -> tuple[str, str] | None:
    """The first two classes whose names differ only in left and right; None if there are none."""
    others = {re.sub("right", "left", name.lower()): name for name in classes if "right" in name.lower()}
    pairs = ((name, others[name.lower()]) for name in classes if "left" in name.lower() and name.lower() in others)
    return next(pairs, None)


def leave_out_unreadable(
    dataset: Dataset, size: Preprocessing, recipe: Recipe, reporter: Reporter, budget: Budget
) -> tuple[Dataset, CheckResult | None]:
    """Decode every image once, leave out those that cannot be decoded, and warn of each.

    Returns:
        The usable images, and the findings; None if the recipe turns the check off, or the budget does not allow it.

    Raises:
        DataError: too many images of a class cannot be decoded.
        UsageError: fewer training or validation images are left than there are processes.
    """
    if not recipe.data.check_images or not _is_to_check(dataset, size, recipe, reporter, budget):
        return dataset, None
    found = _check(dataset, size, recipe, reporter)
    usable = dataset.without([image.path for image in (*found.broken, *found.empty)])
    check_shares(recipe, usable)
    return usable, found


def _is_to_check(dataset: Dataset, size: Preprocessing, recipe: Recipe, reporter: Reporter, budget: Budget) -> bool:
    """Whether the budget allows a check; the main process says so, as all have to train the same images."""
    if budget.limit is None:
        return True
    shard = find_shard(recipe.engine)
    answer = "yes" if shard.is_main and _affords_check(dataset, size, recipe, reporter, budget) else "no"
    return share(answer, shard, pick_device(recipe.engine.device), CHECK_VARIABLE) == "yes"


def _affords_check(dataset: Dataset, size: Preprocessing, recipe: Recipe, reporter: Reporter, budget: Budget) -> bool:
    """Whether checking the images is a small part of the budget, from the time that some of them take."""
    some = pick_evenly(dataset.train, TIMED, recipe.seed).paths
    started = budget.clock()
    scan_images(dataset.root, some, reading=size.reading(recipe.data.max_image_pixels))
    count = sum(map(len, dataset.parts.values()))
    seconds = (budget.clock() - started) / len(some) * count
    if budget.affords(seconds, CHECK_SHARE):
        return True
    reporter.note(f"--max_time: {count} images are not checked beforehand, which would take about {seconds:.0f} s.")
    return False


def check_shares(recipe: Recipe, dataset: Dataset) -> None:
    """Raise UsageError if a process would get no images: the others would wait for it."""
    processes = recipe.engine.num_devices * recipe.engine.num_nodes
    for subset, what in ((dataset.train, "train"), (dataset.val, "validate")):
        if len(subset) < processes:
            raise UsageError(
                f"{processes} processes were asked for, and there are {len(subset)} images to {what}",
                fix="fewer processes (--engine.num_devices, --engine.num_nodes), or more images",
            )


def _check(dataset: Dataset, size: Preprocessing, recipe: Recipe, reporter: Reporter) -> CheckResult:
    paths = sorted({*dataset.train.paths, *dataset.val.paths, *dataset.test.paths})
    compared = frozenset(_compared(dataset, recipe.seed))
    seen = scan_images(
        dataset.root,
        paths,
        closely=compared,
        reading=size.reading(recipe.data.max_image_pixels),
        on_progress=lambda done: reporter.progress(Progress("checking images", done, len(paths))),
    )
    for image in seen.bad:
        reporter.warn(f"left out, cannot be decoded: {image.path}: {image.reason}")
    refuse_if_too_many_bad(dataset, seen.bad)
    with heartbeat(reporter, "comparing images"):
        found = suspect(dataset, seen, size)
    _warn_of_leaks(found.leaks, reporter)
    if len(compared) < len(paths):
        left_out = len(paths) - len(compared)
        reporter.note(f"{left_out} images were not compared with each other; `otx check` compares all of them.")
    return found


def _compared(dataset: Dataset, seed: int) -> list[str]:
    """At most MAX_COMPARED images to compare with each other; if all splits are large, half of them are from train."""
    others = [part for name, part in dataset.parts.items() if name != "train"]
    budget = max(MAX_COMPARED // 2, MAX_COMPARED - len(dataset.train)) // len(others)
    chosen = [path for part in others for path in pick_evenly(part, budget, seed).paths]
    return [*chosen, *pick_evenly(dataset.train, MAX_COMPARED - len(chosen), seed).paths]


def _warn_of_leaks(leaks: Sequence[CopyPair], reporter: Reporter) -> None:
    """Warn of validation and test images that are training images too: accuracy on them means nothing."""
    if leaks:
        pairs = shorten(f"{leak.second.path} ({leak.second.subset}) is {leak.first.path}" for leak in leaks)
        reporter.warn(f"{len(leaks)} of the images to validate and to test are in train as well: {pairs}")
