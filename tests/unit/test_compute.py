"""A process finds its rank from the environment of torchrun, srun or Lightning's launcher."""

from __future__ import annotations

import pytest

from otx.errors import UsageError
from otx.recipe import EngineSettings
from otx.training.compute import Launcher, Shard, check_processes, find_shard, meeting_place

TWO = EngineSettings(num_devices=2)
# the variables that two tasks of `srun --ntasks-per-node=2` share
STEP = {"SLURM_NTASKS": "2", "SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_ID": "0", "SLURM_NTASKS_PER_NODE": "2"}
TASK = {**STEP, "SLURM_PROCID": "1", "SLURM_LOCALID": "1", "SLURM_NODEID": "0", "SLURM_JOB_NAME": "train"}
# the variables of a batch script itself, without srun
BATCH = {"SLURM_NTASKS": "2", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0", "ENVIRONMENT": "BATCH"}


@pytest.mark.parametrize(
    ("environment", "asked", "shard"),
    [
        ({}, EngineSettings(), Shard()),
        ({}, TWO, Shard(0, 2, 0, 2)),
        ({"LOCAL_RANK": "1", "NODE_RANK": "0"}, TWO, Shard(1, 2, 1, 2)),
        (
            {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"},
            TWO,
            Shard(3, 4, 1, 2, Launcher.TORCHRUN),
        ),
        (TASK, TWO, Shard(1, 2, 1, 2, Launcher.SRUN)),
        ({**TASK, "ENVIRONMENT": "BATCH"}, TWO, Shard(1, 2, 1, 2, Launcher.SRUN)),
        ({"SLURM_NTASKS": "2", "SLURM_JOB_NAME": "j"}, EngineSettings(), Shard()),
        (BATCH, EngineSettings(), Shard()),
        ({**BATCH, "LOCAL_RANK": "1"}, TWO, Shard(1, 2, 1, 2)),
        ({**TASK, "SLURM_JOB_NAME": "bash"}, EngineSettings(), Shard()),
        ({**TASK, "SLURM_STEP_NUM_TASKS": "1"}, EngineSettings(), Shard()),
        # torchrun inside a SLURM job
        ({**TASK, "RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}, TWO, Shard(launcher=Launcher.TORCHRUN)),
    ],
)
def test_ranks(environment: dict[str, str], asked: EngineSettings, shard: Shard) -> None:
    assert find_shard(asked, environment) == shard


def test_tasks_that_are_dealt_unevenly() -> None:
    told = {**TASK, "SLURM_STEP_NUM_TASKS": "7", "SLURM_STEP_TASKS_PER_NODE": "2(x3),1", "SLURM_PROCID": "6"}
    assert find_shard(TWO, {**told, "SLURM_NODEID": "3", "SLURM_LOCALID": "0"}).local_size == 1
    assert find_shard(TWO, {**told, "SLURM_NODEID": "2", "SLURM_LOCALID": "0"}).local_size == 2


@pytest.mark.parametrize("launcher", [Launcher.TORCHRUN, Launcher.SRUN])
def test_other_processes_than_asked_for_are_refused_with_the_settings_that_fit(launcher: Launcher) -> None:
    with pytest.raises(
        UsageError, match=f"{launcher} started 4 processes, 2 of them here; the recipe asks for 1"
    ) as no:
        check_processes(Shard(0, 4, 0, 2, launcher), EngineSettings())
    assert no.value.fix == "--engine.num_devices 2 --engine.num_nodes 2"
    with pytest.raises(UsageError, match="2 of them here; the recipe asks for 1 on each of 4 machines"):
        check_processes(Shard(0, 4, 0, 2, launcher), EngineSettings(num_nodes=4))
    check_processes(Shard(0, 4, 0, 2, launcher), EngineSettings(num_devices=2, num_nodes=2))


@pytest.mark.parametrize("name", ["RANK", "SLURM_PROCID", "LOCAL_RANK"])
def test_what_is_no_number_is_named(name: str) -> None:
    told = {"RANK": {"RANK": "x", "WORLD_SIZE": "2"}, "SLURM_PROCID": {**TASK, "SLURM_PROCID": "x"}}
    with pytest.raises(UsageError, match=f"the environment says {name}=x: must be a whole number"):
        find_shard(TWO, told.get(name, {name: "x"}))


def test_machines_on_which_nothing_was_started_are_not_waited_for() -> None:
    with pytest.raises(UsageError, match="--engine.num_nodes 2: nothing has started otx on the other machines") as no:
        check_processes(find_shard(EngineSettings(num_nodes=2), {}), EngineSettings(num_nodes=2))
    assert "torchrun" in no.value.fix


@pytest.mark.parametrize(
    ("nodes", "first"),
    [("gpu[07-09,12],other", "gpu07"), ("gpu[3]", "gpu3"), ("a,b", "a"), ("node-1.lan", "node-1.lan")],
)
def test_tasks_meet_on_the_first_machine(nodes: str, first: str) -> None:
    job = {"SLURM_NODELIST": nodes, "SLURM_JOB_ID": "1234567", "SLURM_STEP_ID": "2"}
    assert meeting_place(job) == (first, "19569")
    assert meeting_place({**job, "MASTER_ADDR": "here", "MASTER_PORT": "1"}) == ("here", "1")
