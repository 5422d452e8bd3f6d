"""Lightning, set up: whole checkpoints, ranks that otx has found out, no words and no signal handlers of its own."""

from __future__ import annotations

import contextlib
import io
import logging
import threading
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins.io import TorchCheckpointIO

from otx.files import atomic
from otx.recipe import Recipe
from otx.training.compute import Launcher, Shard, meeting_place
from otx.training.devices import Compute
from otx.workspace import RunFolder

PRECISIONS = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}


class AtomicCheckpoints(TorchCheckpointIO):
    """Checkpoints that are there whole or not at all.

    Lightning writes them into the system's temporary folder and moves them: from another disk, that is a copy.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        with atomic(Path(path), "wb") as file:
            file.write(buffer.getbuffer())


def make_trainer(recipe: Recipe, run: RunFolder, compute: Compute, callbacks: list[L.Callback]) -> L.Trainer:
    """Lightning's trainer, which leaves signals, ranks and words to otx."""
    is_alone = compute.shard.launcher is Launcher.OTX
    processes = LightningEnvironment() if is_alone else _Started(compute.shard, recipe.engine.num_devices)
    trainer = L.Trainer(
        accelerator=compute.device,
        devices=recipe.engine.num_devices,
        num_nodes=recipe.engine.num_nodes,
        strategy="auto" if recipe.engine.num_devices * recipe.engine.num_nodes == 1 else "ddp",
        precision=PRECISIONS[compute.precision],  # type: ignore[arg-type]
        max_epochs=recipe.max_epochs,
        deterministic=recipe.deterministic,
        callbacks=[*callbacks, _checkpoints(run)],
        plugins=[AtomicCheckpoints(), processes],
        logger=_logger(run),
        default_root_dir=str(run.path),
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=10,
    )
    # Lightning's own would let processes wait for each other inside a signal handler, and put a job into SLURM's queue
    # again; it cannot be asked to leave SIGTERM alone
    trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
    return trainer


def _logger(run: RunFolder) -> TensorBoardLogger | bool:
    """Writes what TensorBoard shows, where it is installed."""
    is_there = find_spec("tensorboard") is not None
    return is_there and TensorBoardLogger(str(run.path), name="tensorboard", version="")


def _checkpoints(run: RunFolder) -> ModelCheckpoint:
    """Keeps `last.ckpt`, written at the end of every epoch; the journal keeps the best."""
    return ModelCheckpoint(dirpath=run.checkpoints, filename="last", save_top_k=1, enable_version_counter=False)


class _Started(ClusterEnvironment):
    """Tells Lightning which of the processes that another program started this one is, so that it need not guess."""

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
    """Lightning's own messages are for programmers; what matters is told by the journal."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric", "lightning")]
    levels = [logger.level for logger in loggers]
    hook = threading.excepthook
    # what the thread that writes TensorBoard's log stumbles over is raised in this one, too
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
