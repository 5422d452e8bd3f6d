"""Trainings of several processes, on one host and on two: they agree, and none waits for a dead one."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from conftest import SMALL
from images import write_classes, write_image
from otx import Engine
from otx.data.digits import write_digits
from otx.errors import UsageError
from otx.model.modelfile import load_model
from otx.workspace import latest_run
from waiting import LIMIT, has_trained, wait_for

TINY = {**SMALL, "data.train_subset.batch_size": 4, "engine.num_devices": 2, "engine.device": "cpu"}
ENDLESS = {"max_epochs": 500, "training.early_stopping.patience": None}


def arguments(data: Path, work: Path, **changes: Any) -> list[str]:
    fixed = ["train", "--data_root", str(data), "--work_dir", str(work)]
    values = {"model": "timm/test_resnet", **TINY, **changes}
    return [*fixed, *(f"--{key}={'null' if value is None else value}" for key, value in values.items())]


def otx(*asked: str) -> list[str]:
    return [sys.executable, "-m", "otx", *asked]


def start(command: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def torchrun(asked: list[str], *, nodes: int, node: int = 0, here: int = 1, port: int = 0) -> list[str]:
    place = ["--nnodes", str(nodes), "--node_rank", str(node), "--nproc_per_node", str(here)]
    master = ["--master_addr", "127.0.0.1", "--master_port", str(port)]
    return [sys.executable, "-m", "torch.distributed.run", *place, *master, "-m", "otx", *asked]


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


def training_processes(pid: int) -> Iterator[int]:
    """The training processes that a process has started, without the data workers."""
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        if "otx" in Path(f"/proc/{child}/cmdline").read_text():
            yield int(child)


def figures(work: Path) -> list[dict[str, str]]:
    with latest_run(work).metrics.open(newline="") as file:
        speeds = ("images_per_second", "seconds")
        return [{key: value for key, value in row.items() if key not in speeds} for row in csv.DictReader(file)]


def accuracy(work: Path) -> float:
    value: float = json.loads(latest_run(work).summary.read_text())["best_accuracy"]
    return value


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_classes(tmp_path / "data", {"ant": 24, "bee": 24})


@pytest.mark.parametrize("victim", ["main", "other"])
def test_a_process_that_dies_ends_the_others_in_words(victim: str, data: Path, tmp_path: Path) -> None:
    work = tmp_path / "ws"
    main = start(otx(*arguments(data, work, **ENDLESS)))
    wait_for(has_trained(work), main)
    (other,) = training_processes(main.pid)
    died, left = (main.pid, other) if victim == "main" else (other, main.pid)
    os.kill(died, signal.SIGKILL)
    begun = time.monotonic()
    # both processes hold the other end of the pipe
    said = main.communicate(timeout=30)[0]
    print(f"{victim} killed: the other ended after {time.monotonic() - begun:.2f} s")
    rank = 1 if victim == "main" else 0
    assert not Path(f"/proc/{left}").exists() or victim == "main"
    assert f"process {rank} lost the connection to the other processes" in said
    assert f"otx train --resume --checkpoint {latest_run(work).last_checkpoint}" in said
    assert "Traceback" not in said
    assert main.returncode == (-signal.SIGKILL if victim == "main" else 1)
    load_model(latest_run(work).model)
    done = len(figures(work))
    options = ["--max_epochs", str(done + 1), "--checkpoint", str(latest_run(work).last_checkpoint)]
    subprocess.run(otx("train", "--resume", *options), check=True, timeout=LIMIT, capture_output=True)
    assert len(figures(work)) == done + 1


@pytest.mark.slow
def test_ctrl_c_ends_all_of_them_and_keeps_the_model(data: Path, tmp_path: Path) -> None:
    work = tmp_path / "ws"
    command = otx(*arguments(data, work, **ENDLESS))
    main = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    wait_for(has_trained(work), main)
    # to all of them, as a terminal does
    os.killpg(main.pid, signal.SIGINT)
    said = main.communicate(timeout=60)[0]
    assert "Traceback" not in said
    assert main.returncode == 130, said
    load_model(latest_run(work).model)


@pytest.mark.slow
def test_two_hosts_train_one_model_and_one_that_dies_ends_the_other(data: Path, tmp_path: Path) -> None:
    """Two node groups of torchrun on the loopback interface."""
    work, port = tmp_path / "ws", free_port()
    asked = arguments(data, work, **{"engine.num_devices": 1, "engine.num_nodes": 2})
    nodes = [start(torchrun(asked, nodes=2, node=node, port=port)) for node in (0, 1)]
    said = [node.communicate(timeout=LIMIT)[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], said
    assert len([path for path in work.iterdir() if path.name.startswith("2")]) == 1
    assert len(figures(work)) == SMALL["max_epochs"]
    # the figures must be those of two processes on one host
    subprocess.run(otx(*arguments(data, tmp_path / "one")), check=True, timeout=LIMIT, capture_output=True)
    assert figures(tmp_path / "one") == figures(work)

    port, work = free_port(), tmp_path / "killed"
    asked = arguments(data, work, **{"engine.num_devices": 1, "engine.num_nodes": 2}, **ENDLESS)
    nodes = [start(torchrun(asked, nodes=2, node=node, port=port)) for node in (0, 1)]
    wait_for(has_trained(work), nodes[0])
    (trains,) = training_processes(nodes[1].pid)
    begun = time.monotonic()
    for pid in (trains, nodes[1].pid):
        os.kill(pid, signal.SIGKILL)
    text = nodes[0].communicate(timeout=60)[0]
    print(f"host killed: the other ended after {time.monotonic() - begun:.2f} s")
    assert "process 0 lost the connection to the other processes" in text
    load_model(latest_run(work).model)
    nodes[1].communicate(timeout=60)


def srun(asked: list[str], *, tasks: int = 2) -> list[subprocess.Popen[str]]:
    """The tasks of one srun step, all on this machine."""
    common = {
        **{"SLURM_JOB_ID": "77", "SLURM_STEP_ID": "0", "SLURM_JOB_NAME": "train", "SLURM_NODELIST": "127.0.0.1"},
        **{"SLURM_NTASKS": str(tasks), "SLURM_NTASKS_PER_NODE": str(tasks), "SLURM_NNODES": "1", "SLURM_NODEID": "0"},
        **{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())},
    }
    return [
        subprocess.Popen(
            otx(*asked),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, **common, "SLURM_PROCID": str(task), "SLURM_LOCALID": str(task)},
        )
        for task in range(tasks)
    ]


def ended(tasks: list[subprocess.Popen[str]]) -> tuple[list[int], list[str]]:
    """The exit codes and the outputs of processes."""
    said = [task.communicate(timeout=LIMIT)[0] for task in tasks]
    return [task.returncode for task in tasks], said


@pytest.mark.slow
def test_the_tasks_of_srun_train_one_model(data: Path, tmp_path: Path) -> None:
    # with a limit of time the first one tells the other whether the images are checked
    codes, said = ended(srun(arguments(data, tmp_path / "ws", max_time="1h")))
    assert codes == [0, 0], said
    assert len(list((tmp_path / "ws").glob("2*"))) == 1
    assert len(figures(tmp_path / "ws")) == SMALL["max_epochs"]
    assert "all 3 epochs are done" in said[0]
    assert said[1] == ""


@pytest.mark.slow
def test_the_tasks_of_srun_compute_what_those_of_torchrun_do_and_are_resumed_and_stopped(
    data: Path, tmp_path: Path
) -> None:
    work, asked = tmp_path / "ws", arguments(data, tmp_path / "ws", max_epochs=2)
    assert ended(srun(asked))[0] == [0, 0]
    resumed = [*asked, "--resume", "--checkpoint", str(latest_run(work).last_checkpoint), "--max_epochs=3"]
    assert ended(srun(resumed))[0] == [0, 0]
    other = torchrun(arguments(data, tmp_path / "other"), nodes=1, here=2, port=free_port())
    subprocess.run(other, check=True, timeout=LIMIT, capture_output=True)
    assert figures(tmp_path / "other") == figures(work)
    assert len(list(work.glob("2*"))) == 1
    # scancel sends SIGTERM to all tasks
    tasks = srun(arguments(data, tmp_path / "stopped", **ENDLESS))
    wait_for(has_trained(tmp_path / "stopped"), tasks[0])
    for task in tasks:
        task.terminate()
    codes, said = ended(tasks)
    assert codes == [143, 143], said
    assert [text.count("otx train --resume") for text in said] == [1, 0]
    assert "Traceback" not in said[0] + said[1]


@pytest.mark.slow
def test_another_number_of_tasks_than_asked_for_is_refused(data: Path, tmp_path: Path) -> None:
    codes, said = ended(srun(arguments(data, tmp_path / "ws", **{"engine.num_devices": 1})))
    assert codes == [2, 2]
    assert "srun started 2 processes, 2 of them here; the recipe asks for 1" in said[0]
    assert "--engine.num_devices 2 --engine.num_nodes 1" in said[0]
    assert not list((tmp_path / "ws").glob("2*"))


@pytest.mark.slow
def test_another_number_of_processes_than_asked_for_is_refused(data: Path, tmp_path: Path) -> None:
    asked = arguments(data, tmp_path / "ws", **{"engine.num_devices": 1})
    done = subprocess.run(
        torchrun(asked, nodes=1, here=2, port=free_port()), capture_output=True, text=True, timeout=LIMIT
    )
    assert done.returncode != 0
    assert "torchrun started 2 processes, 2 of them here; the recipe asks for 1" in done.stdout + done.stderr
    assert "--engine.num_devices 2 --engine.num_nodes 1" in done.stdout + done.stderr
    assert not list((tmp_path / "ws").glob("2*"))


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 5, 8])
def test_every_image_is_counted_once(count: int, tmp_path: Path) -> None:
    """Two processes together find the accuracy that one process finds on all images."""
    root, work = tmp_path / "data", tmp_path / "ws"
    write_classes(root / "train", {"ant": 9, "bee": 10})
    write_classes(root / "val", {"ant": count, "bee": count}, seed=1)
    # one image in the other class's colour, so that not all are right and the number of images is odd
    write_image(root / "val" / "ant" / "wrong.png", (40, 200, 40))
    changes = {"data.val_subset.batch_size": 2, "max_epochs": 2}
    subprocess.run(otx(*arguments(root, work, **changes)), check=True, timeout=LIMIT, capture_output=True)
    tested = Engine(work_dir=work).test()
    assert tested.num_images == 2 * count + 1
    assert tested.top1 == pytest.approx(accuracy(work), abs=1e-6)


def test_more_processes_than_images_are_refused(data: Path, tmp_path: Path) -> None:
    """The others would wait for a process without a batch."""
    split = tmp_path / "split.csv"
    rows = [f"{name}/{number:03}.png,{name},train" for name in ("ant", "bee") for number in range(1, 6)]
    split.write_text("\n".join(["path,class,subset", "ant/000.png,ant,val", *rows, "bee/000.png,bee,test", ""]))
    engine = Engine(data, work_dir=tmp_path / "ws", overrides={**TINY, "data.split_file": str(split)})
    with pytest.raises(UsageError, match="2 processes were asked for, and there are 1 images to validate"):
        engine.train()
    assert not list((tmp_path / "ws").glob("2*"))


@pytest.mark.slow
def test_a_loss_that_is_no_number_ends_all_of_them(data: Path, tmp_path: Path) -> None:
    work = tmp_path / "ws"
    changes = {"optimizer.lr": 1e15, "scheduler.num_warmup_steps": 10**9, "max_epochs": 50}
    done = subprocess.run(otx(*arguments(data, work, **changes)), capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == 1
    assert "most likely the learning rate is too high" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_two_processes_reach_what_one_reaches(tmp_path: Path) -> None:
    """With the same global batch and three seeds, the mean accuracies differ by less than the seeds do."""
    root = write_digits(tmp_path / "digits")
    found: dict[int, list[float]] = {1: [], 2: []}
    for seed in (0, 1, 2):
        for processes in (1, 2):
            work = tmp_path / f"{processes}_{seed}"
            changes = {
                **{"model": "timm/resnet10t", "engine.num_devices": processes, "seed": seed, "max_epochs": 8},
                **{"data.train_subset.batch_size": 64 // processes, "optimizer.lr": 0.1},
                **{"data.train_subset.augmentation.scale": [0.6, 1], "data.train_subset.augmentation.flip": 0},
            }
            subprocess.run(otx(*arguments(root, work, **changes)), check=True, timeout=LIMIT, capture_output=True)
            found[processes].append(accuracy(work))
            shutil.rmtree(latest_run(work).checkpoints)
    print(found)
    spread = max(max(values) - min(values) for values in found.values())
    means = [statistics.mean(values) for values in found.values()]
    assert min(means) > 0.9
    assert abs(means[0] - means[1]) <= max(spread, 0.01)


@pytest.mark.slow
def test_a_fitted_classifier_is_known_to_all_of_them(data: Path, tmp_path: Path) -> None:
    """One process computes the fit before the first epoch; all must agree on which epoch is the best."""
    work = tmp_path / "ws"
    first = [*arguments(data, tmp_path / "first"), "--engine.num_devices=1", "--max_epochs=1"]
    subprocess.run(otx(*first), check=True, timeout=LIMIT, capture_output=True)
    weights = latest_run(tmp_path / "first").model
    changes = {"model.weights": str(weights), "model.pretrained": True, "training.head_first": True}
    subprocess.run(otx(*arguments(data, work, **changes)), check=True, timeout=LIMIT, capture_output=True)
    assert [row["epoch"] for row in figures(work)] == ["-1", "0", "1", "2"]
