"""One training from recipe to run folder: check everything, make the folder, train, say how it ended."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from otx.data.dataset import Dataset, load_dataset, refuse_if_too_many_bad, write_split
from otx.data.decode import check_images
from otx.data.digits import resolve_data_root
from otx.data.loader import Augmentation, ImageSubset, train_loader, val_loader
from otx.data.preprocessing import Preprocessing
from otx.deploy.card import ModelCard
from otx.deploy.modelfile import load_model, read_card
from otx.errors import ModelError, UsageError
from otx.events import Progress, Reporter, SilentReporter
from otx.models.build import check_network, model_info
from otx.models.table import ModelInfo
from otx.models.weights import Start, start_network
from otx.recipe import Recipe, dump_yaml, load_recipe
from otx.results import BadImage, TrainResult
from otx.training.callbacks import read_metrics
from otx.training.fit import Outcome, fit, pick_device, pick_precision
from otx.training.mixed import keep_depthwise_in_float32
from otx.training.module import Classifier
from otx.workspace import RunFolder, new_folder, run_of, set_latest, write_csv, write_json, write_text

RUN_VARIABLE = "OTX_RUN_DIR"
LIBRARIES = ("otx", "torch", "timm", "lightning", "torchvision")


def train(
    recipe: Recipe, reporter: Reporter, *, checkpoint: Path | None = None, run: RunFolder | None = None
) -> TrainResult:
    """Train as the recipe says.

    Args:
        checkpoint: begin from this model's weights; its classes must be those of the data.
        run: go on with this run from its last checkpoint, instead of starting a new one.

    Raises:
        DataError, ModelError, UsageError: something given cannot be used; nothing was started.
        TrainingError: the training failed.
    """
    if not is_main():
        reporter = SilentReporter()
    started = time.perf_counter()
    device = pick_device(recipe.engine.device)
    precision, why = pick_precision(recipe.precision, device)
    info = model_info(recipe.model.name)
    check_network(info.network)
    dataset, bad = _usable_images(recipe, run, reporter)
    preprocessing = make_preprocessing(recipe, info)
    start = _start(recipe, info, dataset, preprocessing, checkpoint, run)
    reporter.note(f"Network {info.network} from {start.origin}; training in {why}, on {device}.")
    if start.warning:
        reporter.warn(start.warning)
    card = _card(recipe, info, dataset, preprocessing, start)
    folder = run or _new_run(recipe, dataset, bad)
    reporter.note(f"Run folder: {folder.path}")
    outcome = _fit(
        recipe, dataset, preprocessing, start, card, folder, device, precision, reporter, resume=run is not None
    )
    result = _result(folder, outcome, start, precision)
    if is_main():
        hardware = {"device": device, "processor": platform.processor(), "torch_threads": torch.get_num_threads()}
        write_json(
            folder.summary,
            {
                **result.to_dict(),
                "seconds": time.perf_counter() - started,
                "versions": card.versions,
                "hardware": hardware,
            },
        )
    return result


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
        raise UsageError(f"{run.path} has no checkpoints/last.ckpt to resume from", fix="start the run again")
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
    """Raise UsageError where a run has no epoch left to train."""
    done = len(read_metrics(run.metrics)) if run.metrics.is_file() else 0
    if done >= recipe.max_epochs:
        raise UsageError(
            f"{run.path} has already trained {done} of {recipe.max_epochs} epochs",
            fix=f"give a larger number: --max_epochs {done + 10}",
        )


def make_preprocessing(recipe: Recipe, info: ModelInfo) -> Preprocessing:
    """The recipe's input size and statistics; what it leaves open is what the weights were trained with."""
    height, width = recipe.data.input_size
    mean, std = recipe.data.mean or info.mean, recipe.data.std or info.std
    return Preprocessing(
        height, width, (mean[0] * 255, mean[1] * 255, mean[2] * 255), (std[0] * 255, std[1] * 255, std[2] * 255)
    )


def _rank(devices_a_node: int) -> int:
    """The number of this process among all; torchrun and Lightning's own launcher leave it in the environment."""
    if "RANK" in os.environ:
        return int(os.environ["RANK"])
    return int(os.environ.get("NODE_RANK", "0")) * devices_a_node + int(os.environ.get("LOCAL_RANK", "0"))


def is_main() -> bool:
    """Whether this is the process that writes and speaks, among those of a training."""
    return _rank(devices_a_node=1) == 0


def _usable_images(recipe: Recipe, run: RunFolder | None, reporter: Reporter) -> tuple[Dataset, tuple[BadImage, ...]]:
    root = resolve_data_root(recipe.data_root)
    split_file = run.split if run else (Path(recipe.data.split_file) if recipe.data.split_file else None)
    data = recipe.data
    dataset = load_dataset(
        root, seed=recipe.seed, test_share=data.test_share, val_share=data.val_share, split_file=split_file
    )
    reporter.note(
        f"{root}: {len(dataset.classes)} classes, {len(dataset.train)} images to train, {len(dataset.val)} to validate,"
        f" {len(dataset.test)} to test ({dataset.layout})."
    )
    for note in dataset.notes:
        reporter.note(note)
    if not data.check_images:
        return dataset, ()
    paths = sorted({*dataset.train.paths, *dataset.val.paths, *dataset.test.paths})
    bad = check_images(
        root,
        paths,
        max_pixels=data.max_image_pixels,
        on_progress=lambda done: reporter.progress(Progress("checking images", done, len(paths))),
    )
    for image in bad:
        reporter.warn(f"left out, cannot be decoded: {image.path}: {image.reason}")
    refuse_if_too_many_bad(dataset, bad)
    return dataset.without([image.path for image in bad]), bad


def _start(
    recipe: Recipe,
    info: ModelInfo,
    dataset: Dataset,
    preprocessing: Preprocessing,
    checkpoint: Path | None,
    run: RunFolder | None,
) -> Start:
    torch.manual_seed(recipe.seed)
    size = (preprocessing.height, preprocessing.width)
    if checkpoint is None or run is not None:
        # a resumed run takes its weights from the checkpoint; the hub is not asked again
        pretrained, weights = (False, None) if run else (recipe.model.pretrained, recipe.model.weights)
        start = start_network(info.network, len(dataset.classes), *size, pretrained=pretrained, weights=weights)
        return replace(start, origin=read_card(run.last_checkpoint).origin) if run else start
    network, card = load_model(checkpoint)
    if card.network != info.network:
        raise ModelError(
            f"{checkpoint} holds a {card.network}, the recipe asks for a {info.network}",
            fix=f"--model timm/{card.network}, or leave --checkpoint out",
        )
    if card.classes != dataset.classes:
        raise ModelError(
            f"{checkpoint} knows the classes {', '.join(card.classes)}; the data has {', '.join(dataset.classes)}",
            fix="give data with the same class folders, or leave --checkpoint out",
        )
    return Start(network.train(), f"the model {checkpoint}")


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


def _new_run(recipe: Recipe, dataset: Dataset, bad: tuple[BadImage, ...]) -> RunFolder:
    """Make the run folder; the helper processes of a training on several devices find it in their environment."""
    if not is_main():
        return RunFolder(Path(os.environ[RUN_VARIABLE]))
    work_dir = Path(recipe.work_dir)
    run = RunFolder(new_folder(work_dir))
    os.environ[RUN_VARIABLE] = str(run.path.resolve())
    write_text(run.config, dump_yaml(recipe))
    write_csv(run.bad_images, ("path", "reason"), ((image.path, image.reason) for image in bad))
    write_split(dataset, run.split)
    set_latest(work_dir, "train", run.path)
    return run


def _fit(
    recipe: Recipe,
    dataset: Dataset,
    preprocessing: Preprocessing,
    start: Start,
    card: ModelCard,
    run: RunFolder,
    device: str,
    precision: str,
    reporter: Reporter,
    *,
    resume: bool,
) -> Outcome:
    data, subset = recipe.data, recipe.data.train_subset
    rank = _rank(recipe.engine.num_devices)
    world = recipe.engine.num_devices * recipe.engine.num_nodes
    augmentation = Augmentation(subset.augmentation.scale, subset.augmentation.ratio, subset.augmentation.flip)
    train_images = ImageSubset(
        dataset.root, dataset.train, preprocessing, max_pixels=data.max_image_pixels, augmentation=augmentation
    )
    val_images = ImageSubset(dataset.root, dataset.val, preprocessing, max_pixels=data.max_image_pixels)
    if device == "cpu" and precision == "bf16":
        keep_depthwise_in_float32(start.network)
    module = Classifier(
        start.network,
        num_classes=len(dataset.classes),
        preprocessing=preprocessing,
        optimizer=recipe.optimizer,
        scheduler=recipe.scheduler,
        seed=recipe.seed,
        card=card.to_json(),
    )
    return fit(
        module,
        train_loader(
            train_images,
            batch_size=subset.batch_size,
            balanced=subset.sampler == "balanced",
            efficient=subset.efficient,
            seed=recipe.seed,
            rank=rank,
            world_size=world,
            num_workers=data.num_workers,
            pin_memory=device == "gpu",
        ),
        val_loader(
            val_images,
            batch_size=data.val_subset.batch_size,
            rank=rank,
            world_size=world,
            num_workers=data.num_workers,
            pin_memory=device == "gpu",
        ),
        recipe=recipe,
        run=run,
        card=card,
        device=device,
        precision=precision,
        reporter=reporter,
        resume_from=run.last_checkpoint if resume else None,
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
        interrupted=outcome.interrupted,
    )
