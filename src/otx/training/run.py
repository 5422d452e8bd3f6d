"""One training from recipe to run folder: check everything, make the folder, train, say how it ended."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from otx.data.cache import room_for_images
from otx.data.check import survey, suspect, write_suspicions
from otx.data.dataset import Dataset, load_dataset, pick_evenly, pick_numbers, refuse_if_too_many_bad, write_split
from otx.data.digits import resolve_data_root
from otx.data.folder import some
from otx.data.loader import (
    Augmentation,
    Growth,
    ImageSubset,
    count_workers,
    loader_note,
    normalise,
    train_loader,
    val_loader,
)
from otx.data.preprocessing import Preprocessing
from otx.data.transport import workers_in_words
from otx.deploy.card import ModelCard
from otx.deploy.modelfile import load_model, read_card, save_model
from otx.errors import ModelError, StoppedError, TrainingError, UsageError
from otx.events import Progress, Reporter, SilentReporter, heartbeat
from otx.limits import limit_torch
from otx.memory import keep_freed_memory
from otx.models.build import build_network, check_network, model_info
from otx.models.table import ModelInfo
from otx.models.weights import Start, start_network
from otx.recipe import AUTO, BATCH_SIZE, Recipe, dump_yaml, load_recipe
from otx.results import CopyPair, EpochResult, StopReason, Suspicions, TrainResult
from otx.signals import name_of, signal_of
from otx.training.batch_size import as_decided, find_batch_size, in_memory, is_measured, out_of_memory, with_batch_size
from otx.training.callbacks import count_epochs
from otx.training.class_mapping import Merge, merge_classes
from otx.training.compute import Shard, check_processes, find_shard, share
from otx.training.fit import Outcome, fit, pick_device, pick_precision
from otx.training.folded import fold_norms
from otx.training.frozen import freeze_stages
from otx.training.head import MAX_IMAGES, Features, features_of, fit_head, has_linear_head
from otx.training.incremental import Past, carry_over
from otx.training.losses import make_loss
from otx.training.module import Classifier
from otx.training.processor import pool_by_products, speed_up_depthwise
from otx.training.threads import KeptThreads, ThreadWatch, may_choose_threads
from otx.workspace import (
    RunFolder,
    clear_leftovers,
    new_folder,
    run_of,
    set_latest,
    stamp,
    write_csv,
    write_json,
    write_text,
)

MAX_COMPARED = 10_000
LIBRARIES = ("otx", "torch", "timm", "lightning", "torchvision")


@KeptThreads()
def train(
    recipe: Recipe,
    reporter: Reporter,
    *,
    checkpoint: Path | None = None,
    renames: Mapping[str, str] | None = None,
    run: RunFolder | None = None,
) -> TrainResult:
    """Train as the recipe says.

    Args:
        checkpoint: begin from this model; classes of the data that it does not know are added to it.
        renames: new names of the model's classes.
        run: go on with this run from its last checkpoint, instead of starting a new one.

    Raises:
        DataError, ModelError, UsageError: something given cannot be used; nothing was started.
        TrainingError: the training failed.
        StoppedError: a signal ended it before there was a model; one that comes before the first step is let through.
    """
    try:
        return _train(recipe, reporter, checkpoint=checkpoint, renames=renames, run=run)
    except KeyboardInterrupt:
        if find_shard(recipe.engine).is_main:
            reporter.note("The training had not begun yet: the same command starts it again.")
        raise


def _train(
    recipe: Recipe,
    reporter: Reporter,
    *,
    checkpoint: Path | None,
    renames: Mapping[str, str] | None,
    run: RunFolder | None,
) -> TrainResult:
    shard = find_shard(recipe.engine)
    if not shard.is_main:
        reporter = SilentReporter()
    began, started = time.time(), time.perf_counter()
    check_processes(shard, recipe.engine)
    device = pick_device(recipe.engine.device)
    limit_torch(recipe.engine.num_devices)
    watch = ThreadWatch(reporter, is_on=may_choose_threads(recipe, device))
    if device == "cpu":
        keep_freed_memory()
    precision, why = pick_precision(recipe.precision, device)
    if run is not None:
        recipe = as_decided(recipe, load_recipe(run.config))
    elif not is_measured(device):
        recipe = as_decided(recipe, recipe.override({"data.train_subset.batch_size": BATCH_SIZE}))
    info = model_info(recipe.model.name)
    check_network(info.network)
    base = _base(info, checkpoint, run)
    dataset = _dataset(recipe, run, reporter, min_classes=1 if base else 2)
    _check_shares(recipe, dataset)
    merge = _merge(base, dataset, renames, run)
    if run is not None:
        dataset = dataset.with_classes(read_card(run.last_checkpoint).classes)
    elif merge is not None:
        dataset = dataset.with_classes(merge.classes)
    preprocessing = make_preprocessing(recipe, info)
    with heartbeat(reporter, "loading the network"):
        start = _start(recipe, info, dataset, preprocessing, base, run)
    found = None
    if recipe.data.check_images:
        # last of what is checked, since it takes longest
        dataset, found = _usable_images(recipe, dataset, reporter)
        _check_shares(recipe, dataset)
    reporter.note(f"Network {info.network} from {start.origin}; training in {why}, on {device}.")
    if start.warning:
        reporter.warn(start.warning)
    lesson = _lesson(recipe, dataset, base, merge, reporter)
    size = (preprocessing.height, preprocessing.width)
    _check_growth(recipe, start.network, info.network, size)
    freeze_stages(start.network, recipe.training.freeze_stages)
    if recipe.training.freeze_stages and not start.pretrained and base is None and run is None:
        reporter.warn("--training.freeze_stages keeps random weights: there are no pretrained ones here.")
    fold_norms(start.network, size)
    watch.begin()
    if device == "cpu":
        pool_by_products(start.network)
        speed_up_depthwise(start.network, size, half=precision == "bf16", timed=not recipe.deterministic)
    images = _images(recipe, dataset, preprocessing)
    before = None
    is_fitted = recipe.training.head_first and start.pretrained and has_linear_head(start.network)
    if is_fitted and shard.is_main:
        before = in_memory(
            lambda: _fit_head(recipe, images, start, device, precision, reporter, len(dataset.classes)),
            lambda _: _no_room_for_features(recipe),
        )
    if recipe.max_epochs == 0 and before is None and shard.is_main:
        raise UsageError(
            "--max_epochs 0 fits the classifier alone, to features of a pretrained network; there are none here",
            fix="give --model.weights FILE, or a larger --max_epochs",
        )
    if recipe.data.train_subset.batch_size == AUTO and shard.is_main:
        trial = _classifier(recipe, start, lesson, _card(recipe, info, dataset, preprocessing, start), is_fitted)
        recipe = _fill_memory(recipe, trial, len(dataset.train), device, precision, reporter)
    card = replace(_card(recipe, info, dataset, preprocessing, start), num_old=lesson.num_old)
    folder = run or _new_run(recipe, dataset, found, device, shard)
    if not shard.is_main:
        recipe = as_decided(recipe, load_recipe(folder.config))
    origin = _asked(checkpoint, renames, run)
    if lesson.num_old and base is not None and run is None and shard.is_main:
        save_model(folder.base, base.network.state_dict(), base.card)
    if run is not None and shard.is_main:
        clear_leftovers(run.path)
        if load_recipe(run.config) != recipe:
            # what is asked for now holds for the next --resume as well
            write_text(run.config, dump_yaml(recipe))
    reporter.note(f"Run folder: {folder.path}")
    data, processes = recipe.data, recipe.engine.num_devices
    if note := loader_note(images.train, int(data.train_subset.batch_size), data.num_workers, processes):
        reporter.note(note)
    try:
        outcome = _fit(
            recipe,
            images,
            start,
            lesson,
            card,
            folder,
            device,
            precision,
            reporter,
            shard=shard,
            watch=watch,
            before=before,
            is_fitted=is_fitted,
            resume=run is not None,
        )
    finally:
        # the trainer and all it refers to stay until Python looks for cycles
        images.train.cache.close()
        images.val.cache.close()
    result = _result(folder, outcome, start, precision)
    if shard.is_main:
        more = {
            **origin,
            "max_epochs": recipe.max_epochs,
            "patience": recipe.training.early_stopping.patience,
            "started": stamp(began),
            "ended": stamp(time.time()),
            "seconds": time.perf_counter() - started,
            "versions": card.versions,
            "hardware": _hardware(device),
        }
        _write_summary(folder, {**result.to_dict(), **more})
    return result


def _write_summary(run: RunFolder, summary: Mapping[str, Any]) -> None:
    try:
        write_json(run.summary, summary)
    except KeyboardInterrupt as stop:
        number = signal_of(stop)
        what = f"{name_of(number)} came before it was written down how the training ended"
        raise StoppedError(number, what, fix=run.resume_command) from stop


def _asked(checkpoint: Path | None, renames: Mapping[str, str] | None, run: RunFolder | None) -> dict[str, Any]:
    """What the recipe does not hold of what was asked for; of a resumed run, what it was begun with."""
    if run is not None and run.summary.is_file():
        before = json.loads(run.summary.read_text(encoding="utf-8"))
        return {name: before[name] for name in ("checkpoint", "renames") if name in before}
    return {"checkpoint": None if checkpoint is None else str(checkpoint.resolve()), "renames": dict(renames or {})}


def _hardware(device: str) -> dict[str, Any]:
    gpu = {"gpu": torch.cuda.get_device_name()} if device == "gpu" else {}
    return {
        "device": device,
        **gpu,
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def resume_run(checkpoint: Path) -> RunFolder:
    """The run that a `last.ckpt` or any file of a run folder belongs to.

    Raises:
        UsageError: it lies in no run folder, or the run has no checkpoint, or nothing is left to do.
    """
    run = run_of(checkpoint)
    if run is None:
        raise UsageError(
            f"{checkpoint} lies in no run folder, so there is nothing to resume",
            fix="give RUN/checkpoints/last.ckpt, or leave --resume out to begin a new run from these weights",
        )
    if not run.last_checkpoint.is_file():
        raise UsageError(
            f"{run.path} has no checkpoints/last.ckpt to resume from: it had not begun to train",
            fix="start the run again",
        )
    return run


def resumed_recipe(run: RunFolder, asked: Recipe, changes: Mapping[str, Any]) -> Recipe:
    """The recipe to go on with: that of the run, with what was asked for now.

    Raises:
        UsageError: another network was asked for, or no epoch is left to train.
    """
    recipe = load_recipe(run.config).override(changes)
    own = load_recipe(run.config).model.name
    is_asked = "model.name" in changes or asked.model.name != Recipe().model.name
    if is_asked and asked.model.name != own:
        raise UsageError(f"{run.path} trains {own}, {asked.model.name} was asked for", fix="leave --model out")
    check_resumable(run, recipe)
    return recipe


def check_resumable(run: RunFolder, recipe: Recipe) -> None:
    """Raise UsageError where nothing of a run is left to do."""
    if not run.has_ended(with_report=recipe.report):
        return
    summary = json.loads(run.summary.read_text(encoding="utf-8"))
    done, stop = count_epochs(run.metrics) if run.metrics.is_file() else 0, StopReason.of(summary)
    more = f"{run.resume_command} --max_epochs {max(done, recipe.max_epochs) + 10}"
    if done >= recipe.max_epochs:
        raise UsageError(
            f"{run.path} has already trained {done} of {recipe.max_epochs} epochs", fix=f"give a larger number: {more}"
        )
    if stop is StopReason.EARLY_STOPPING and not _asks_for_more(recipe, load_recipe(run.config), summary):
        patience = recipe.training.early_stopping.patience or 0
        raise UsageError(
            f"{run.path} is complete: early stopping ended it after {done} of {recipe.max_epochs} epochs",
            fix=f"ask for more: {more}, or with --training.early_stopping.patience {patience + 3}",
        )


def _asks_for_more(recipe: Recipe, own: Recipe, summary: Mapping[str, Any]) -> bool:
    """Whether a recipe lets a run go on for longer than it was allowed before; older runs kept that in their recipe."""
    epochs = summary.get("max_epochs", own.max_epochs)
    before = summary.get("patience", own.training.early_stopping.patience)
    patience = recipe.training.early_stopping.patience
    return recipe.max_epochs > epochs or (before is not None and (patience is None or patience > before))


def make_preprocessing(recipe: Recipe, info: ModelInfo) -> Preprocessing:
    """The recipe's input size and statistics; what it leaves open is what the weights were trained with."""
    height, width = recipe.data.input_size
    mean, std = recipe.data.mean or info.mean, recipe.data.std or info.std
    return Preprocessing(
        height, width, (mean[0] * 255, mean[1] * 255, mean[2] * 255), (std[0] * 255, std[1] * 255, std[2] * 255)
    )


def _dataset(recipe: Recipe, run: RunFolder | None, reporter: Reporter, *, min_classes: int) -> Dataset:
    root = resolve_data_root(recipe.data_root)
    split_file = run.split if run else (Path(recipe.data.split_file) if recipe.data.split_file else None)
    data = recipe.data
    with heartbeat(reporter, "reading the folder"):
        dataset = load_dataset(
            root,
            seed=recipe.seed,
            test_share=data.test_share,
            val_share=data.val_share,
            split_file=split_file,
            min_classes=min_classes,
        )
    reporter.note(
        f"{root}: {len(dataset.classes)} classes, {len(dataset.train)} images to train, {len(dataset.val)} to validate,"
        f" {len(dataset.test)} to test ({dataset.layout})."
    )
    for note in dataset.notes:
        reporter.note(note)
    return dataset


def _usable_images(recipe: Recipe, dataset: Dataset, reporter: Reporter) -> tuple[Dataset, Suspicions]:
    """Decode every image once; those that cannot be are left out and named."""
    paths = sorted({*dataset.train.paths, *dataset.val.paths, *dataset.test.paths})
    compared = frozenset(_compared(dataset, recipe.seed))
    seen = survey(
        dataset.root,
        paths,
        closely=compared,
        max_pixels=recipe.data.max_image_pixels,
        on_progress=lambda done: reporter.progress(Progress("checking images", done, len(paths))),
    )
    for image in seen.bad:
        reporter.warn(f"left out, cannot be decoded: {image.path}: {image.reason}")
    refuse_if_too_many_bad(dataset, seen.bad)
    with heartbeat(reporter, "comparing images"):
        found = suspect(dataset, seen)
    _warn_of_leaks(found.leaks, reporter)
    if len(compared) < len(paths):
        left_out = len(paths) - len(compared)
        reporter.note(f"{left_out} images were not compared with each other; `otx check` compares all of them.")
    return dataset.without([image.path for image in seen.bad]), found


def _compared(dataset: Dataset, seed: int) -> list[str]:
    """The images to compare with each other: all of them, or of many about as many to evaluate as to train on."""
    others = [part for name, part in dataset.parts.items() if name != "train"]
    room = max(MAX_COMPARED // 2, MAX_COMPARED - len(dataset.train)) // len(others)
    chosen = [path for part in others for path in pick_evenly(part, room, seed).paths]
    return [*chosen, *pick_evenly(dataset.train, MAX_COMPARED - len(chosen), seed).paths]


def _warn_of_leaks(leaks: Sequence[CopyPair], reporter: Reporter) -> None:
    """Name validation and test images that are training images as well: figures on them say nothing."""
    if leaks:
        pairs = some(f"{leak.second.path} ({leak.second.subset}) is {leak.first.path}" for leak in leaks)
        reporter.warn(f"{len(leaks)} of the images to validate and to test are in train as well: {pairs}")


@dataclass(frozen=True)
class Base:
    """The model that a training begins from."""

    network: nn.Module
    card: ModelCard
    path: Path


@dataclass(frozen=True)
class Lesson:
    """What is minimised: a loss, and the answers of an older network where one has to be kept."""

    loss: nn.Module
    past: Past | None
    num_old: int


def _base(info: ModelInfo, checkpoint: Path | None, run: RunFolder | None) -> Base | None:
    path = checkpoint if run is None else run.base
    if path is None or (run is not None and not path.is_file()):
        return None
    network, card = load_model(path)
    if card.network != info.network:
        raise ModelError(
            f"{path} holds a {card.network}, the recipe asks for a {info.network}",
            fix=f"--model timm/{card.network}, or leave --checkpoint out",
        )
    return Base(network, card, path)


def _merge(
    base: Base | None, dataset: Dataset, renames: Mapping[str, str] | None, run: RunFolder | None
) -> Merge | None:
    """The classes of the base and of the data together."""
    if run is not None and base is not None:
        known = read_card(run.last_checkpoint)
        return merge_classes(known.classes[: known.num_old], dataset.classes)
    if base is None:
        if renames and run is None:
            raise UsageError("--rename renames classes of a model", fix="give --checkpoint MODEL")
        return None
    return merge_classes(base.card.classes, dataset.classes, renames)


def _lesson(recipe: Recipe, dataset: Dataset, base: Base | None, merge: Merge | None, reporter: Reporter) -> Lesson:
    """Choose the loss, and say what happens to the classes of a model that is trained further."""
    settings, num_old, absent = recipe.training, 0, False
    if merge is not None and base is not None:
        num_old = len(base.card.classes)
        absent = bool(set(merge.classes[:num_old]) - {dataset.classes[label] for label in set(dataset.train.labels)})
        for note in merge.notes:
            reporter.note(note)
        for warning in merge.warnings:
            reporter.warn(warning)
    grown = len(dataset.classes) > num_old > 0
    name = settings.loss
    if name == "auto":
        name = "influence_balanced" if grown and not absent else "cross_entropy"
        if name == "influence_balanced":
            reporter.note(f"Influence-balanced loss from epoch {settings.start_epoch + 1} on (--training.loss).")
    if grown or absent:
        reporter.note(
            "val/accuracy is the mean over the classes here, so that rare old ones count as much as new ones."
        )
    keeps = absent if settings.distillation is None else settings.distillation and base is not None
    if keeps:
        reporter.note(
            "Learning without forgetting: the old model's answers keep the classes that have no images here "
            "(--training.distillation false turns it off)."
        )
    elif absent:
        reporter.warn("Classes without images will be forgotten: --training.distillation is off.")
    counts = np.bincount(dataset.train.labels, minlength=len(dataset.classes))
    past = None
    if keeps and base is not None:
        past = Past(base.network, np.flatnonzero(counts).tolist(), settings.distillation_weight)
        counts = counts[counts > 0]
    if recipe.data.train_subset.sampler == "balanced":
        # what an epoch draws, not what is there: a rare class is not to be made up for twice
        counts = np.ones_like(counts)
    loss = make_loss(
        name,
        counts.tolist(),
        alpha=settings.alpha,
        start_epoch=settings.start_epoch,
        label_smoothing=settings.label_smoothing,
    )
    return Lesson(loss, past, num_old if grown or absent else 0)


def _start(
    recipe: Recipe,
    info: ModelInfo,
    dataset: Dataset,
    preprocessing: Preprocessing,
    base: Base | None,
    run: RunFolder | None,
) -> Start:
    torch.manual_seed(recipe.seed)
    size = (preprocessing.height, preprocessing.width)
    if run is not None:
        # a resumed run takes its weights from the checkpoint; the hub is not asked again
        start = start_network(info.network, len(dataset.classes), *size, pretrained=False, weights=None)
        return replace(start, origin=read_card(run.last_checkpoint).origin)
    if base is None:
        pretrained, weights = recipe.model.pretrained, recipe.model.weights
        return start_network(info.network, len(dataset.classes), *size, pretrained=pretrained, weights=weights)
    network = build_network(info.network, len(dataset.classes), *size)
    carry_over(network, base.network)
    return Start(network.train(), f"the model {base.path}")


def _card(recipe: Recipe, info: ModelInfo, dataset: Dataset, preprocessing: Preprocessing, start: Start) -> ModelCard:
    plain = recipe.to_dict()
    plain["data_root"] = str(dataset.root.resolve())
    return ModelCard(
        network=info.network,
        classes=dataset.classes,
        preprocessing=preprocessing,
        origin=start.origin,
        recipe=plain,
        versions={name: version(name) for name in LIBRARIES},
    )


def _new_run(recipe: Recipe, dataset: Dataset, found: Suspicions | None, device: str, shard: Shard) -> RunFolder:
    """Make the run folder, which the main process does, and let the other processes know it."""
    if not shard.is_main:
        return RunFolder(Path(share("", shard, device)))
    work_dir = Path(recipe.work_dir)
    run = RunFolder(new_folder(work_dir))
    write_text(run.config, dump_yaml(recipe))
    bad = [] if found is None else sorted((*found.broken, *found.empty), key=lambda image: image.path)
    write_csv(run.bad_images, ("path", "reason"), ((image.path, image.reason) for image in bad))
    if found is not None:
        write_suspicions(found, run.suspicions)
    write_split(dataset, run.split)
    set_latest(work_dir, "train", run.path)
    share(str(run.path.resolve()), shard, device)
    return run


def _check_shares(recipe: Recipe, dataset: Dataset) -> None:
    """Raise UsageError where a process would have no image: the others would wait for it."""
    processes = recipe.engine.num_devices * recipe.engine.num_nodes
    for subset, what in ((dataset.train, "train"), (dataset.val, "validate")):
        if len(subset) < processes:
            raise UsageError(
                f"{processes} processes were asked for, and there are {len(subset)} images to {what}",
                fix="fewer processes (--engine.num_devices, --engine.num_nodes), or more images",
            )


def _growth(recipe: Recipe) -> Growth:
    return Growth(recipe.training.start_size, recipe.training.growing_epochs)


def _check_growth(recipe: Recipe, network: nn.Module, name: str, size: tuple[int, int]) -> None:
    """Raise UsageError where a network cannot take the sizes that its images grow through."""
    growth = _growth(recipe)
    for smaller in {growth.size(size, epoch) for epoch in range(growth.epochs)} - {size}:
        try:
            with torch.no_grad():
                network.eval()(torch.zeros(1, 3, *smaller))
        except (AssertionError, RuntimeError, ValueError) as error:
            raise UsageError(
                f"--training.growing_epochs {growth.epochs}: {name} cannot take images of {smaller[0]}x{smaller[1]}",
                fix="leave it out, or choose a network that takes images of any size",
            ) from error
        finally:
            network.train()


@dataclass(frozen=True)
class Images:
    """The images of a training, as its data loaders get them."""

    train: ImageSubset
    val: ImageSubset


def _images(recipe: Recipe, dataset: Dataset, preprocessing: Preprocessing) -> Images:
    data, subset = recipe.data, recipe.data.train_subset
    room = room_for_images(data.cache_mb, recipe.engine.num_devices)
    # images to validate on are kept as the network gets them, so that few bytes hold them all
    room_to_validate = min(room // 4, len(dataset.val) * 3 * preprocessing.height * preprocessing.width)
    return Images(
        ImageSubset(
            dataset.root,
            dataset.train,
            preprocessing,
            max_pixels=data.max_image_pixels,
            augmentation=Augmentation(subset.augmentation.scale, subset.augmentation.ratio, subset.augmentation.flip),
            reduces=subset.reduce_large,
            cache=room - room_to_validate,
        ),
        ImageSubset(dataset.root, dataset.val, preprocessing, max_pixels=data.max_image_pixels, cache=room_to_validate),
    )


def _fit_head(
    recipe: Recipe,
    images: Images,
    start: Start,
    device: str,
    precision: str,
    reporter: Reporter,
    num_classes: int,
) -> EpochResult | None:
    """Begin with a fitted classifier; its figures, where all validation images were looked at."""
    place = "cuda" if device == "gpu" else "cpu"
    network = start.network.to(place, memory_format=torch.channels_last)  # type: ignore[call-overload]
    preprocessing = images.train.preprocessing
    mean, std = (torch.tensor(v, device=place) for v in (preprocessing.mean, preprocessing.std))
    parts = [(part, pick_numbers(part.subset, MAX_IMAGES, recipe.seed)) for part in (images.train, images.val)]
    total = sum(len(numbers) for _, numbers in parts)
    features: list[Features] = []
    for part, numbers in parts:
        done = sum(len(labels) for _, labels in features)
        loader = val_loader(
            part,
            numbers=numbers,
            batch_size=recipe.data.val_subset.batch_size,
            rank=0,
            world_size=1,
            num_workers=recipe.data.num_workers,
            pin_memory=False,
        )
        features.append(
            features_of(
                network,
                loader,
                lambda images: normalise(images, mean, std),
                device=place,
                half=precision == "bf16",
                on_progress=lambda n, done=done: reporter.progress(Progress("features", done + n, total)),  # type: ignore[misc]
            )
        )
    with heartbeat(reporter, "fitting the classifier"):
        before = fit_head(network, features[0], features[1], num_classes)
    num_train, num_val = (len(numbers) for _, numbers in parts)
    reporter.note(
        f"The classifier alone, fitted to features of {num_train} images: {before.val_accuracy:.4f} on "
        f"{num_val} validation images."
    )
    return before if num_val == len(images.val) else None


def _fit(
    recipe: Recipe,
    images: Images,
    start: Start,
    lesson: Lesson,
    card: ModelCard,
    run: RunFolder,
    device: str,
    precision: str,
    reporter: Reporter,
    *,
    shard: Shard,
    watch: ThreadWatch,
    before: EpochResult | None,
    is_fitted: bool,
    resume: bool,
) -> Outcome:
    data, subset = recipe.data, recipe.data.train_subset
    module = _classifier(recipe, start, lesson, card, is_fitted)
    train = train_loader(
        images.train,
        batch_size=int(subset.batch_size),
        balanced=subset.sampler == "balanced",
        efficient=subset.efficient,
        seed=recipe.seed,
        rank=shard.rank,
        world_size=shard.world_size,
        num_workers=count_workers(data.num_workers, images.train, recipe.engine.num_devices),
        pin_memory=device == "gpu",
        growth=_growth(recipe),
    )
    val = val_loader(
        images.val,
        batch_size=data.val_subset.batch_size,
        rank=shard.rank,
        world_size=shard.world_size,
        num_workers=count_workers(data.num_workers, images.val, recipe.engine.num_devices),
        pin_memory=device == "gpu",
    )
    after = f"otx train --resume --checkpoint {run.last_checkpoint} goes on with this run"
    with workers_in_words(after):
        return in_memory(
            lambda: fit(
                module,
                train,
                val,
                recipe=recipe,
                run=run,
                card=card,
                device=device,
                precision=precision,
                shard=shard,
                reporter=reporter,
                watch=watch,
                resume_from=run.last_checkpoint if resume else None,
                before=before,
            ),
            lambda is_gpu: out_of_memory(
                module,
                recipe,
                recipe.data.input_size,
                device=device,
                precision=precision,
                is_gpu=is_gpu,
                after=after,
            ),
        )


def _classifier(recipe: Recipe, start: Start, lesson: Lesson, card: ModelCard, is_fitted: bool) -> Classifier:
    return Classifier(
        start.network,
        num_classes=len(card.classes),
        preprocessing=card.preprocessing,
        optimizer=recipe.optimizer,
        scheduler=recipe.scheduler,
        loss=lesson.loss,
        past=lesson.past,
        balanced=lesson.num_old > 0,
        is_fitted=is_fitted,
        freezes=recipe.training.freeze_statistics,
        seed=recipe.seed,
        card=card.to_json(),
    )


def _fill_memory(
    recipe: Recipe, trial: Classifier, num_images: int, device: str, precision: str, reporter: Reporter
) -> Recipe:
    """The recipe with the largest batch that the GPU's memory holds."""
    share = max(1, num_images // (recipe.engine.num_devices * recipe.engine.num_nodes))
    with heartbeat(reporter, "looking for the largest batch"):
        found = find_batch_size(trial, recipe.data.input_size, share, device=device, precision=precision)
    filled = with_batch_size(recipe, found)
    reporter.note(
        f"--data.train_subset.batch_size auto: {found} images a step; learning rate {recipe.optimizer.lr:g} -> "
        f"{filled.optimizer.lr:g}, times the root of {found}/{BATCH_SIZE}."
    )
    return filled


def _no_room_for_features(recipe: Recipe) -> TrainingError:
    count = recipe.data.val_subset.batch_size
    return TrainingError(
        f"memory does not suffice to compute the features of {count} images at a time",
        fix=f"--data.val_subset.batch_size {max(1, count // 2)}, or --training.head_first false",
    )


def _result(run: RunFolder, outcome: Outcome, start: Start, precision: str) -> TrainResult:
    return TrainResult(
        run_dir=run.path,
        model_path=run.model,
        best_epoch=outcome.best.epoch,
        best_accuracy=outcome.best.val_accuracy,
        epochs=outcome.epochs,
        stop_reason=outcome.stop_reason,
        origin=start.origin,
        precision=precision,
        interrupted=outcome.stop.interrupted,
        stop=outcome.stop,
    )
