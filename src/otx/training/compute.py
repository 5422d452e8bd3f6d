"""The rank of this process in a training, and what started the processes. The training reads ranks only here."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from otx.errors import UsageError
from otx.recipe import EngineSettings

RUN_VARIABLE, NETWORK_VARIABLE, CHECK_VARIABLE = "OTX_RUN_DIR", "OTX_NETWORK", "OTX_CHECK_IMAGES"
INTERACTIVE = ("bash", "interactive")
FIRST_PORT, PORTS = 15000, 10000


class Launcher(StrEnum):
    """What starts the processes: OTX itself (with Lightning's launcher), or a program that runs OTX in each of them."""

    OTX = "otx"
    TORCHRUN = "torchrun"
    SRUN = "srun"


@dataclass(frozen=True)
class Shard:
    """The rank of this process in a training; ranks count from 0.

    Args:
        rank, world_size: its rank among all processes, and how many there are.
        local_rank, local_size: the same for the processes on its machine.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_size: int = 1
    launcher: Launcher = Launcher.OTX

    @property
    def is_main(self) -> bool:
        """Whether this is the process (rank 0) that writes files and reports."""
        return self.rank == 0


def find_shard(asked: EngineSettings | None = None, environment: Mapping[str, str] = os.environ) -> Shard:
    """Read the rank of this process from the environment variables of torchrun, srun or Lightning's launcher.

    Args:
        asked: the recipe's devices and machines, which give the number of processes if OTX starts them itself.

    Raises:
        UsageError: one of these variables is not a whole number.
    """
    asked = asked or EngineSettings()
    if "RANK" in environment and "WORLD_SIZE" in environment:
        rank, local = (_number(environment, name, 0) for name in ("RANK", "LOCAL_RANK"))
        world, here = (_number(environment, name, 1) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"))
        return Shard(rank, world, local, here, Launcher.TORCHRUN)
    if (world := _tasks_of_srun(environment)) > 1:
        rank, local = (_number(environment, name, 0) for name in ("SLURM_PROCID", "SLURM_LOCALID"))
        return Shard(rank, world, local, _tasks_here(environment, world), Launcher.SRUN)
    local = _number(environment, "LOCAL_RANK", 0)
    return Shard(local, asked.num_devices * asked.num_nodes, local, asked.num_devices)


def _number(environment: Mapping[str, str], name: str, default: int) -> int:
    text = environment.get(name) or str(default)
    if not text.isdecimal():
        raise UsageError(f"the environment says {name}={text}: must be a whole number", fix=f"unset {name}")
    return int(text)


def _tasks_of_srun(environment: Mapping[str, str]) -> int:
    """The number of tasks in this process's srun step; 1 if srun did not start it.

    SLURM sets its variables in batch scripts and interactive jobs too, though these run as a single process.
    Source: "OUTPUT ENVIRONMENT VARIABLES" in the manuals of srun and sbatch.
    """
    is_batch = environment.get("ENVIRONMENT") == "BATCH" and "SLURM_STEP_ID" not in environment
    is_interactive = environment.get("SLURM_JOB_NAME") in INTERACTIVE
    if "SLURM_PROCID" not in environment or is_batch or is_interactive:
        return 1
    return _number(environment, "SLURM_STEP_NUM_TASKS", _number(environment, "SLURM_NTASKS", 1))


def _tasks_here(environment: Mapping[str, str], world: int) -> int:
    """How many tasks of the step run on this machine; SLURM writes 2,2,2,1 as `2(x3),1`."""
    node = _number(environment, "SLURM_NODEID", 0)
    told = environment.get("SLURM_STEP_TASKS_PER_NODE") or environment.get("SLURM_NTASKS_PER_NODE") or str(world)
    counts = []
    for count, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", told):
        counts += [int(count)] * int(times or 1)
    return counts[min(node, len(counts) - 1)] if counts else world


def check_processes(shard: Shard, asked: EngineSettings) -> None:
    """Raise UsageError if the processes that were started do not match the recipe: they would wait for each other."""
    world, here = shard.world_size, shard.local_size
    processes = asked.num_devices * asked.num_nodes
    if shard.launcher is Launcher.OTX:
        if asked.num_nodes > 1:
            raise UsageError(
                f"--engine.num_nodes {asked.num_nodes}: nothing has started otx on the other machines",
                fix="start it by torchrun on each of them, or by srun: see examples/slurm.sh",
            )
        return
    if world != processes or (world > 1 and here != asked.num_devices):
        wanted = f"{processes}" if world != processes else f"{asked.num_devices} on each of {asked.num_nodes} machines"
        raise UsageError(
            f"{shard.launcher} started {world} processes, {here} of them here; the recipe asks for {wanted}",
            fix=f"--engine.num_devices {here} --engine.num_nodes {max(1, world // here)}",
        )


def share(text: str, shard: Shard, device: str, variable: str = RUN_VARIABLE) -> str:
    """Share the main process's text with all processes and return it; the text of the others is ignored.

    Processes that Lightning starts later read it from this variable of their environment; those of torchrun and srun
    get a broadcast.
    """
    if shard.launcher is Launcher.OTX:
        if shard.is_main:
            os.environ[variable] = text
        elif variable not in os.environ:
            raise UsageError(
                f"the environment says LOCAL_RANK={shard.local_rank}, but otx did not start this process",
                fix="unset LOCAL_RANK",
            )
        return os.environ[variable]
    if shard.world_size == 1:
        return text
    import torch

    _join(shard, device)
    said = [text]
    torch.distributed.broadcast_object_list(said, src=0)
    return said[0]


def _join(shard: Shard, device: str) -> None:
    """Join the process group, unless this process has done so."""
    import torch

    if torch.distributed.is_initialized():
        return
    os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = meeting_place()
    if device == "gpu":
        torch.cuda.set_device(shard.local_rank)
    backend = "nccl" if device == "gpu" else "gloo"
    torch.distributed.init_process_group(backend, rank=shard.rank, world_size=shard.world_size)


def meeting_place(environment: Mapping[str, str] = os.environ) -> tuple[str, str]:
    """Address and port at which the processes connect: those in the environment, else the srun step's first machine.

    The port is computed from the job and step numbers, so that all tasks use the same one.
    """
    nodes = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_NODELIST", "127.0.0.1")
    # node[07-09,12],other gives node07
    first = re.sub(r"\[(\w+)[^\]]*\]", r"\1", nodes.replace(" ", ",")).split(",")[0]
    job, step = (_number(environment, name, 0) for name in ("SLURM_JOB_ID", "SLURM_STEP_ID"))
    port = str(FIRST_PORT + (job + step) % PORTS)
    return environment.get("MASTER_ADDR", first), environment.get("MASTER_PORT", port)
