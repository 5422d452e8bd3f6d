"""Set up Fabric: devices, precision, and processes with the ranks that `compute.py` found."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from lightning.fabric import Fabric
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment

from otx.recipe import Recipe
from otx.training.compute import Launcher, Shard, meeting_place
from otx.training.devices import Compute

PRECISIONS = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}


def make_fabric(recipe: Recipe, compute: Compute) -> Fabric:
    """Fabric, which starts the processes, places the network and averages gradients."""
    torch.use_deterministic_algorithms(recipe.deterministic)
    if recipe.deterministic:
        torch.backends.cudnn.benchmark = False
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    is_alone = compute.shard.launcher is Launcher.OTX
    processes = LightningEnvironment() if is_alone else _Started(compute.shard, recipe.engine.num_devices)
    return Fabric(
        accelerator=compute.device,
        devices=recipe.engine.num_devices,
        num_nodes=recipe.engine.num_nodes,
        strategy="auto" if recipe.engine.num_devices * recipe.engine.num_nodes == 1 else "ddp",
        precision=PRECISIONS[compute.precision],  # type: ignore[arg-type]
        plugins=[processes],
    )


class _Started(ClusterEnvironment):
    """Tells Fabric the rank of this process when torchrun or srun started it."""

    def __init__(self, shard: Shard, num_devices: int) -> None:
        super().__init__()
        self.shard, self.num_devices = shard, num_devices

    @property
    def creates_processes_externally(self) -> bool:
        return True

    @property
    def main_address(self) -> str:
        return meeting_place()[0]

    @property
    def main_port(self) -> int:
        return int(meeting_place()[1])

    @staticmethod
    def detect() -> bool:
        return False

    def world_size(self) -> int:
        return self.shard.world_size

    def set_world_size(self, size: int) -> None: ...

    def global_rank(self) -> int:
        return self.shard.rank

    def set_global_rank(self, rank: int) -> None: ...

    def local_rank(self) -> int:
        return self.shard.local_rank

    def node_rank(self) -> int:
        return self.shard.rank // self.num_devices


@contextlib.contextmanager
def quiet() -> Iterator[Any]:
    """Silence Fabric's own messages, which are for programmers."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric", "lightning")]
    levels = [logger.level for logger in loggers]
    hook = threading.excepthook
    # errors of the thread that writes the TensorBoard log are raised in this one, too
    threading.excepthook = lambda _: None
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning.*")
        warnings.filterwarnings("ignore", category=UserWarning, module="torch.optim.lr_scheduler")
        try:
            yield
        finally:
            threading.excepthook = hook
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
