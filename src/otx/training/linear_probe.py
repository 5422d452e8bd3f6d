"""Linear probe: fit the classifier by logistic regression on the features of a pretrained network.

Features are computed once, so it costs less than an epoch. The training of the whole network then starts with a good
classifier, and its first steps do not distort the pretrained features.

Source: Kumar et al., Fine-Tuning can Distort Pretrained Features and Underperform Out-of-Distribution, ICLR 2022,
arXiv 2202.10054.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils.data import DataLoader

from otx.data.dataset import pick_numbers
from otx.data.loader import ImageSubset
from otx.data.transport import Batch
from otx.errors import TrainingError
from otx.events import Progress, Reporter, heartbeat
from otx.limits import limited_blas
from otx.model.regression import fit_regression
from otx.networks.head import classifier_input
from otx.recipe import Recipe
from otx.results import BEFORE_TRAINING, EpochResult
from otx.training.batch_size import in_memory
from otx.training.budget import MAX_FEATURES, PROBE_SHARE, Budget
from otx.training.devices import Compute
from otx.training.inputs import Inputs, plain_batches, to_network_input
from otx.training.mirrored import hold_out, warn_of_mirrored
from otx.training.starting_point import StartingPoint
from otx.training.usable_images import mirrored_names

PENALTIES = (1.0, 10.0, 100.0)

Features = tuple[NDArray[np.float32], NDArray[np.int64]]


def probe(
    start: StartingPoint, inputs: Inputs, recipe: Recipe, compute: Compute, budget: Budget, reporter: Reporter
) -> tuple[EpochResult, Features]:
    """Fit the classifier before the first epoch, to as many images as the budget allows.

    Returns:
        Its loss and accuracy on the validation images, or on MAX_FEATURES of them; and the features of the training
        images that it was fitted to.

    Raises:
        TrainingError: out of memory.
    """
    return in_memory(
        lambda: _probe(start, inputs, recipe, compute, budget, reporter), lambda _: _no_room_for_features(recipe)
    )


def _probe(
    start: StartingPoint, inputs: Inputs, recipe: Recipe, compute: Compute, budget: Budget, reporter: Reporter
) -> tuple[EpochResult, Features]:
    network = start.network.to(compute.place, memory_format=torch.channels_last)  # type: ignore[call-overload]
    measured = pick_numbers(inputs.val.subset, MAX_FEATURES, recipe.seed)
    num_val = len(measured)
    convert = to_network_input(start.preprocessing, compute.place)

    def features(part: ImageSubset, numbers: Sequence[int], done: Progress, *, flipped: bool = False) -> Features:
        return compute_features(
            network,
            plain_batches(part, numbers, recipe),
            lambda images: convert(images.flip(-1) if flipped else images),
            device=compute.place,
            half=compute.is_half,
            on_progress=lambda n: reporter.progress(replace(done, done=done.done + n)),
        )

    began = budget.clock()
    val = features(inputs.val, measured, Progress("features", 0, num_val + min(MAX_FEATURES, len(inputs.train))))
    most = _affordable(budget, (budget.clock() - began) / num_val, inputs)
    fitted = pick_numbers(inputs.train.subset, max(most, len(start.classes)), recipe.seed)
    num_train = len(fitted)
    train = features(inputs.train, fitted, Progress("features", num_val, num_val + num_train))
    with heartbeat(reporter, "fitting the classifier"):
        before = fit_linear_probe(network, train, val, len(start.classes), by_class=start.num_old > 0)
    reporter.note(
        f"The classifier alone, fitted to features of {num_train} images: {before.val_accuracy:.4f} on "
        f"{num_val} validation images."
    )
    # with an image that cannot be decoded it is not known which row is whose
    is_asked = _may_mirror(recipe, start.classes) and len(train[1]) == num_train
    if held := hold_out(train[1], recipe.seed) if is_asked else []:
        numbers, progress = [fitted[row] for row in held], Progress("features of flipped images", 0, len(held))
        flipped = features(inputs.train, numbers, progress, flipped=True)[0]
        warn_of_mirrored(train, held, flipped, start.classes, reporter)
    return before, train


def _affordable(budget: Budget, seconds: float, inputs: Inputs) -> int:
    """How many training images the classifier is fitted to, if the features of one image take so many seconds."""
    if budget.limit is None:
        return MAX_FEATURES
    budget.expect(seconds, len(inputs.train), len(inputs.val))
    return min(MAX_FEATURES, int(PROBE_SHARE * budget.limit / max(seconds, 1e-9)))


def mean_recall(answers: NDArray[np.int64], labels: NDArray[np.int64]) -> float:
    """The share of right answers (N,) for each class of the labels (N,), as the mean over the classes."""
    return float(np.mean([(answers[labels == each] == each).mean() for each in np.unique(labels)]))


def _may_mirror(recipe: Recipe, classes: Sequence[str]) -> bool:
    """Whether images will be flipped at random, and the names of the classes have not given a warning of it yet."""
    flips = recipe.data.train_subset.augmentation.flip > 0 and recipe.max_epochs > 0
    return flips and mirrored_names(classes) is None


def _no_room_for_features(recipe: Recipe) -> TrainingError:
    count = recipe.data.val_subset.batch_size
    return TrainingError(
        f"memory does not suffice to compute the features of {count} images at a time",
        fix=f"--data.val_subset.batch_size {max(1, count // 2)}, or --training.head_first false",
    )


def has_linear_head(network: Any) -> bool:
    """Whether the classifier is one linear layer, so that a regression can replace it."""
    return isinstance(network.get_classifier(), nn.Linear)


@torch.no_grad()
def compute_features(
    network: Any,
    loader: DataLoader[Batch],
    make_input: Callable[[torch.Tensor], torch.Tensor],
    *,
    device: str,
    half: bool,
    on_progress: Callable[[int], None],
) -> Features:
    """The classifier's input (N, D) and the labels (N,) of the images of a loader.

    Args:
        make_input: converts images (N, 3, H, W) uint8 to the network's input.
        half: compute in bf16.
        on_progress: called with the number of images done.

    Raises:
        TrainingError: none of the images can be decoded.
    """
    rows: list[NDArray[np.float32]] = []
    labels: list[NDArray[np.int64]] = []
    network.eval()
    with classifier_input(network) as entered:
        for batch in loader:
            if len(batch.labels) == 0:
                continue
            with torch.autocast(device, torch.bfloat16, enabled=half):
                network(make_input(batch.images.to(device)))
            rows.append(entered.pop().float().cpu().numpy())
            labels.append(batch.labels.numpy())
            on_progress(sum(map(len, labels)))
    network.train()
    if not rows:
        raise TrainingError("none of its images can be decoded any more")
    return np.concatenate(rows), np.concatenate(labels)


def fit_linear_probe(
    network: Any, train: Features, val: Features, num_classes: int, *, by_class: bool = False
) -> EpochResult:
    """Replace the classifier by a logistic regression: of several penalties, the one with the lowest validation loss.

    Every class of `train` has the same weight. The result is that of the epoch BEFORE_TRAINING.

    Args:
        by_class: the accuracy is the mean over the classes that have validation images.
    """
    started = time.perf_counter()
    width = train[0].shape[1]
    fits = [fit_regression(*train, num_classes, penalty=penalty / width, balanced=True) for penalty in PENALTIES]
    with limited_blas():
        best = min(fits, key=lambda fit: fit.measure(*val)[0])
        train_loss, _ = best.measure(*train)
        val_loss, val_accuracy = best.measure(*val)
        probability = best.mean_probability(*val)
        if by_class:
            val_accuracy = mean_recall(best.logits(val[0]).argmax(axis=1), val[1])
    head = network.get_classifier()
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(best.weight))
        head.bias.copy_(torch.from_numpy(best.bias))
    return EpochResult(
        epoch=BEFORE_TRAINING,
        train_loss=train_loss,
        val_loss=val_loss,
        val_accuracy=val_accuracy,
        lr=0.0,
        images_per_second=0.0,
        seconds=time.perf_counter() - started,
        is_best=True,
        val_probability=probability,
    )
