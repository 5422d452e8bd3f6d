"""Check that nothing is lost when otx is killed.

    python benchmarks/faults.py [--kills 50] [--exports 10] [--optimizes 10] [--epochs 12] [--seed 0]

A small training (60 of scikit-learn's digits, 32x32 pixels) is killed with SIGKILL, half of the times at a random
moment, half of the times while it writes a checkpoint. After every kill each file of the run folder is read, and the
best model so far is loaded. Then the run is resumed, and must end with the figures and weights of an undisturbed run.
An export and an optimize that replace the files of another model are killed in the same way: the files must then give
the answers of one of the two models.

The processes are forked from one that has imported everything already, so that the kills hit the work and not the
imports.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from otx.catalogue import load_recipe
from otx.data.digits import write_digits
from otx.files import STAGING
from otx.inference.predictor import load_predictor
from otx.model.modelfile import load_model, read_card
from otx.workspace import RunFolder, latest_run

PER_CLASS = 6
SPEEDS = ("images_per_second", "seconds")
PARTS = ["otx.training.run", "otx.export.export", "otx.export.optimize", "nncf", "openvino"]
SETTINGS = [
    *("--model", "timm/test_resnet", "--model.pretrained", "false", "--data.input_size", "32"),
    *("--data.num_workers", "0", "--data.train_subset.batch_size", "8", "--precision", "32"),
    *("--training.early_stopping.patience", "null"),
]


@dataclass(frozen=True)
class Kill:
    """When to kill: `seconds` after the start, or while the `write`th file is being written in the watched folders."""

    seconds: float | None
    write: int | None = None


class Processes:
    """Runs `otx` in child processes that can be killed."""

    def __init__(self, log: Path) -> None:
        self.log = log
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(PARTS)

    def run(self, arguments: Sequence[str], kill: Kill | None = None, watched: str = "*/checkpoints") -> int:
        """Run a command; returns its exit code, -9 if it was killed."""
        work = Path(arguments[arguments.index("--work_dir") + 1])
        process = self.context.Process(target=otx, args=(list(arguments), str(self.log)))
        started = time.perf_counter()
        process.start()
        if kill is not None and kill.seconds is not None:
            process.join(kill.seconds)
        elif kill is not None:
            wait_for_write(process, work, watched, kill.write or 1)
        if kill is not None and process.is_alive():
            os.kill(process.pid or 0, signal.SIGKILL)
        process.join()
        self.seconds = time.perf_counter() - started
        return process.exitcode or 0


def otx(arguments: list[str], log: str) -> None:
    """The target of a child process: run a command, with its output in a log file."""
    from otx.cli import main

    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(file, stream)
    sys.exit(main(arguments))


def wait_for_write(process: multiprocessing.process.BaseProcess, work: Path, watched: str, number: int) -> None:
    """Wait until the `number`th new file is being written, or the process has ended."""
    seen: set[str] = set()
    while process.is_alive():
        for folder in work.glob(watched):
            with contextlib.suppress(FileNotFoundError):
                seen |= {name for name in os.listdir(folder) if name.startswith((STAGING, ".export."))}  # noqa: PTH208
        if len(seen) >= number:
            return
        time.sleep(0.0005)


def figures(run: RunFolder) -> list[dict[str, str]]:
    """The rows of `metrics.csv` without the times."""
    with run.metrics.open(encoding="utf-8", newline="") as file:
        return [{key: value for key, value in row.items() if key not in SPEEDS} for row in csv.DictReader(file)]


def weights(path: Path) -> dict[str, bytes]:
    return {name: value.numpy().tobytes() for name, value in load_model(path)[0].state_dict().items()}


def check_files(run: RunFolder) -> bool:
    """Read every file of a run folder (but TensorBoard's log, which grows); returns whether there is a model.

    A half-written file raises its reader's error.
    """
    readers: dict[str, Callable[[Path], object]] = {
        ".csv": lambda path: list(csv.reader(path.read_text(encoding="utf-8").splitlines(), strict=True)),
        ".json": lambda path: json.loads(path.read_text(encoding="utf-8")),
        ".yaml": load_recipe,
        ".safetensors": load_model,
        ".ckpt": read_card,
    }
    for path in run.path.rglob("*"):
        if path.is_file() and not path.name.startswith(STAGING) and path.suffix in readers:
            readers[path.suffix](path)
    return run.model.is_file()


def runs_of(work: Path) -> Iterator[RunFolder]:
    return (RunFolder(path) for path in sorted(work.glob("2*")) if path.is_dir())


def kill_trainings(processes: Processes, scratch: Path, data: Path, options: argparse.Namespace) -> list[str]:
    """What went wrong, a sentence each."""
    rng = random.Random(options.seed)
    command = ["train", "--data_root", str(data), *SETTINGS, "--max_epochs", str(options.epochs), "--work_dir"]
    for name in ("first", "undisturbed"):
        # the first one waits for the imports
        assert processes.run([*command, str(scratch / name)]) == 0
    undisturbed, life = latest_run(scratch / "undisturbed"), processes.seconds
    expected, expected_weights = figures(undisturbed), weights(undisturbed.model)
    print(f"undisturbed: {options.epochs} epochs in {life:.1f} s")
    wrong: list[str] = []
    counts: Counter[str] = Counter()
    number = 0
    while number < options.kills:
        aimed = number % 2 == 1
        kill = Kill(None, rng.randint(1, options.epochs + 1)) if aimed else Kill(rng.uniform(0, life))
        work = scratch / f"killed_{number}"
        if processes.run([*command, str(work)], kill) != -signal.SIGKILL:
            shutil.rmtree(work)
            continue
        number += 1
        try:
            models = [check_files(run) for run in runs_of(work)]
        except Exception as error:  # a half-written file may raise any error of its reader
            wrong.append(f"kill {number}: {type(error).__name__}: {error}")
            continue
        begun = any(run.last_checkpoint.is_file() for run in runs_of(work))
        leftovers = len(list(work.rglob(f"{STAGING}*")))
        kind = "while a checkpoint was written" if aimed else "at random"
        counts[kind] += 1
        counts["with a file half-written beside its place"] += leftovers > 0
        counts["with a model, which loaded"] += any(models)
        counts["before the first checkpoint: started again"] += not begun
        ended = any(run.report.is_file() for run in runs_of(work))
        counts["after the report, its last file, was there"] += ended
        code = processes.run(["train", "--resume", "--work_dir", str(work)] if begun else [*command, str(work)])
        if code != (2 if ended else 0):
            wrong.append(f"kill {number}: resuming ended with exit code {code}")
            continue
        run = latest_run(work)
        if not run.report.is_file():
            wrong.append(f"kill {number}: no report")
        if figures(run) != expected:
            pair = next(pair for pair in zip(expected, figures(run), strict=False) if pair[0] != pair[1])
            wrong.append(f"kill {number} ({kind}): other figures: {pair[0]} became {pair[1]}")
        if weights(run.model) != expected_weights:
            wrong.append(f"kill {number} ({kind}): other weights")
        if list(run.path.rglob(f"{STAGING}*")):
            wrong.append(f"kill {number}: something half-written was left")
        shutil.rmtree(work)
        print(f"kill {number}: {kind}, {len(wrong)} wrong so far", flush=True)
    print(f"training: {options.kills} kills, {len(wrong)} wrong")
    print("\n".join(f"  {count:3} {kind}" for kind, count in sorted(counts.items())))
    return wrong


def answers(path: Path) -> np.ndarray:
    images = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)
    return load_predictor(path, "cpu").logits(list(images))


def kill_writers(verb: str, kills: int, processes: Processes, scratch: Path, seed: int) -> list[str]:
    """Write two models in turns into one folder, and kill some of the writers; returns what went wrong."""
    rng = random.Random(seed)
    models = [next(runs_of(scratch / name)).model for name in ("undisturbed", "other")]
    target = scratch / f"{verb}ed" / "files"
    file = target / ("exported_model.xml" if verb == "export" else "optimized_model.xml")
    options = [] if verb == "export" else ["--subset_size", "20"]
    commands = [
        [verb, "--checkpoint", str(model), "--work_dir", str(target.parent), "--output", str(target), *options]
        for model in models
    ]
    allowed, lives = [], []
    for command in commands:
        assert processes.run(command) == 0
        allowed.append(answers(file))
        lives.append(processes.seconds)
    assert not np.array_equal(*allowed)
    # the first one waits for the imports
    wrong, killed, replaced, life = [], 0, 0, min(lives)
    for number in range(kills):
        # more often towards the end, when the files are moved to their places
        kill = Kill(life * rng.choice((rng.uniform(0, 1), rng.uniform(0.8, 1))))
        killed += processes.run(commands[number % 2], kill) == -signal.SIGKILL
        try:
            answer = answers(file)
        except Exception as error:  # a broken file may raise any error of its reader
            wrong.append(f"{verb}, kill {number}: {type(error).__name__}: {error}")
            continue
        which = [index for index, one in enumerate(allowed) if np.array_equal(one, answer)]
        if not which:
            wrong.append(f"{verb}, kill {number}: the file answers as neither of the two models")
        replaced += which == [number % 2]
        print(f"{verb}, kill {number + 1}: {len(wrong)} wrong so far", flush=True)
    print(f"{verb}: {kills} runs over a good file, {killed} killed, {len(wrong)} wrong, {replaced} replaced")
    return wrong


def few_digits(folder: Path, per_class: int) -> Path:
    """A folder with the first digits of each class."""
    for place in write_digits(folder / "all").iterdir():
        (folder / "few" / place.name).mkdir(parents=True)
        for path in sorted(place.iterdir())[:per_class]:
            shutil.copy(path, folder / "few" / place.name)
    return folder / "few"


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--exports", type=int, default=10)
    parser.add_argument("--optimizes", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory(prefix="faults.") as name:
        scratch = Path(name)
        data = few_digits(scratch, PER_CLASS)
        processes = Processes(scratch / "log.txt")
        wrong = kill_trainings(processes, scratch, data, options)
        if options.exports or options.optimizes:
            other = ["train", "--data_root", str(data), *SETTINGS, "--max_epochs", "1", "--seed", "1"]
            assert processes.run([*other, "--work_dir", str(scratch / "other")]) == 0
        if options.exports:
            wrong += kill_writers("export", options.exports, processes, scratch, options.seed)
        if options.optimizes:
            wrong += kill_writers("optimize", options.optimizes, processes, scratch, options.seed)
        print("\n".join(wrong) if wrong else "nothing was lost")
        if wrong:
            shutil.copy(processes.log, "faults.log")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
