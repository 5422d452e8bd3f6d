"""Prepare a network for training: freeze stages and make the training step faster."""

from __future__ import annotations

import torch
from torch import nn

from otx.errors import UsageError
from otx.events import Reporter
from otx.limits import limit_torch
from otx.memory import keep_freed_memory
from otx.recipe import Recipe
from otx.training.acceleration.cpu_kernels import speed_up_depthwise
from otx.training.acceleration.fold_batchnorm import fold_norms
from otx.training.acceleration.pooling import pool_by_products
from otx.training.acceleration.threads import ThreadWatch, may_choose_threads
from otx.training.devices import Compute
from otx.training.frozen import freeze_stages
from otx.training.inputs import progressive_resize
from otx.training.starting_point import StartingPoint


def prepare_process(recipe: Recipe, compute: Compute, reporter: Reporter) -> ThreadWatch:
    """Set up threads and memory of this process; return the callback that adapts the threads from here on."""
    limit_torch(recipe.engine.num_devices)
    if not compute.is_gpu:
        keep_freed_memory()
    return ThreadWatch(reporter, is_on=may_choose_threads(recipe, compute.device))


def prepare_network(
    start: StartingPoint, recipe: Recipe, compute: Compute, watch: ThreadWatch, reporter: Reporter
) -> None:
    """Freeze the recipe's number of stages, and choose faster ways to compute the layers.

    Raises:
        UsageError: the stages cannot be frozen, or the network cannot take the image sizes of progressive resizing.
    """
    network, size = start.network, start.size
    _check_growth(recipe, network, start.info.network, size)
    freeze_stages(network, recipe.training.freeze_stages)
    if recipe.training.freeze_stages and start.has_random_weights:
        reporter.warn("--training.freeze_stages keeps random weights: there are no pretrained ones here.")
    fold_norms(network, size)
    watch.begin()
    if not compute.is_gpu:
        pool_by_products(network)
        speed_up_depthwise(network, size, half=compute.is_half, timed=not recipe.deterministic)


def _check_growth(recipe: Recipe, network: nn.Module, name: str, size: tuple[int, int]) -> None:
    """Raise UsageError if a network cannot take the image sizes of progressive resizing."""
    growth = progressive_resize(recipe)
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
