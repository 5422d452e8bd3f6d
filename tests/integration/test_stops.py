"""Ctrl-C and SIGTERM at every stage of real trainings: how they end, what they print, and that they can be resumed."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from conftest import SMALL
from images import write_classes
from otx import Engine
from otx.cli import main
from otx.model.modelfile import load_model
from otx.workspace import latest_run
from waiting import LIMIT, has_trained, wait_for

TINY = {**SMALL, "data.train_subset.batch_size": 4, "engine.device": "cpu", "training.early_stopping.patience": None}
# imports once, then forks a child for each stage, which signals its own group when it gets there, as timeout(1) does
PROGRAM = """
import json, os, signal, sys
from otx import console_progress
from otx.cli import main
import otx.report.page, otx.evaluation.evaluate, otx.training.calibrate
from otx.training.module import Classifier

def send(number):
    os.killpg(0, getattr(signal, number))

def once(owner, name, number):
    real, seen = getattr(owner, name), []
    def spy(*given, **named):
        if not seen:
            seen.append(1)
            send(number)
        return real(*given, **named)
    setattr(owner, name, spy)

def when_said(start, number):
    real = console_progress.ConsoleReporter.note
    def note(self, text):
        real(self, text)
        if start in text:
            send(number)
    console_progress.ConsoleReporter.note = note

SPOTS = {
    "images": lambda number: when_said("images to train", number),
    "folder": lambda number: when_said("Run folder", number),
    "first epoch": lambda number: once(Classifier, "training_step", number),
    "validation": lambda number: once(Classifier, "validation_step", number),
    "calibrating": lambda number: once(otx.training.calibrate, "calibrate", number),
    "measuring": lambda number: once(otx.evaluation.evaluate, "evaluate", number),
    "page": lambda number: once(otx.report.page, "write_report", number),
}
for spot, number, out, arguments in json.loads(sys.argv[1]):
    pid = os.fork()
    if not pid:
        os.setsid()
        for stream in (1, 2):
            os.dup2(os.open(out, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
        SPOTS[spot](number)
        sys.exit(main(arguments))
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""
QUICK = [("images", "SIGTERM"), ("first epoch", "SIGTERM"), ("first epoch", "SIGINT"), ("page", "SIGTERM")]
OTHERS = [
    *((spot, "SIGTERM") for spot in ("folder", "validation", "calibrating", "measuring")),
    *((spot, "SIGINT") for spot in ("images", "page")),
]


@dataclass(frozen=True)
class Ended:
    """How one training ended."""

    code: int
    said: str
    work: Path

    def resume(self, *more: str) -> None:
        """Run the command that it printed, in a child process if Lightning must start others."""
        (line,) = [line for line in self.said.splitlines() if "otx train --resume" in line]
        otx, *asked = shlex.split(line[line.index("otx train") :])
        assert otx == "otx"
        if more:
            subprocess.run([sys.executable, "-m", "otx", *asked, *more], check=True, timeout=LIMIT, capture_output=True)
        else:
            assert main(asked) == 0


def arguments(data: Path, work: Path, **changes: Any) -> list[str]:
    values = {"model": "timm/test_resnet", **TINY, **changes}
    options = (f"--{key}={'null' if value is None else value}" for key, value in values.items())
    return ["train", "--data_root", str(data), "--work_dir", str(work), *options]


def stop(stages: list[tuple[str, str]], top: Path) -> dict[tuple[str, str], Ended]:
    """Run trainings that get a signal, by their stage and the signal; their folders have spaces."""
    data = write_classes(top / "data", {"ant": 24, "bee": 24})
    works = {stage: top / f"ws {number}" for number, stage in enumerate(stages)}
    asked = {"max_epochs": 2, "report": True, "data.num_workers": 2}
    jobs = [(*stage, f"{work}.txt", arguments(data, work, **asked)) for stage, work in works.items()]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(jobs)], capture_output=True, text=True, timeout=LIMIT
    )
    assert done.returncode == 0, done.stderr
    codes = [int(line) for line in done.stdout.split()]
    return {
        stage: Ended(code, Path(f"{work}.txt").read_text(), work)
        for (stage, work), code in zip(works.items(), codes, strict=True)
    }


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Ended]:
    return stop(QUICK, tmp_path_factory.mktemp("quick stops"))


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Ended]:
    return stop(OTHERS, tmp_path_factory.mktemp("other stops"))


def check(ended: Ended, number: str) -> None:
    assert ended.code == {"SIGTERM": 143, "SIGINT": 130}[number], ended.said
    assert "Traceback" not in ended.said
    assert "Exception ignored" not in ended.said
    assert {"SIGTERM": "SIGTERM", "SIGINT": "Ctrl-C"}[number] in ended.said
    assert not list(ended.work.rglob(".writing.*"))


@pytest.mark.parametrize(("spot", "number"), QUICK)
def test_a_signal_ends_a_training_in_words(spot: str, number: str, quick: dict[tuple[str, str], Ended]) -> None:
    check(quick[spot, number], number)


@pytest.mark.slow
@pytest.mark.parametrize(("spot", "number"), OTHERS)
def test_so_it_does_at_every_other_stage(spot: str, number: str, others: dict[tuple[str, str], Ended]) -> None:
    check(others[spot, number], number)
    if spot in ("images", "folder"):
        assert "the same command starts it again" in others[spot, number].said
    else:
        others[spot, number].resume()


def test_nothing_is_begun_while_images_are_looked_at(quick: dict[tuple[str, str], Ended]) -> None:
    ended = quick["images", "SIGTERM"]
    assert "The training had not begun yet: the same command starts it again." in ended.said
    assert "--resume" not in ended.said
    assert not list(ended.work.glob("2*"))


@pytest.mark.parametrize("spot", ["first epoch", "page"])
def test_what_is_printed_goes_on(spot: str, quick: dict[tuple[str, str], Ended]) -> None:
    ended = quick[spot, "SIGTERM"]
    assert ("there is no model yet" in ended.said) == (spot == "first epoch")
    assert ("all 2 epochs are done; SIGTERM stopped its report" in ended.said) == (spot == "page")
    assert latest_run(ended.work).model.is_file() == (spot == "page")
    ended.resume()
    run = latest_run(ended.work)
    load_model(run.model)
    assert len(run.metrics.read_text().splitlines()) == 3
    assert run.report.is_file()
    assert json.loads(run.summary.read_text())["stop"] == "all_epochs"


@pytest.mark.slow
@pytest.mark.parametrize("whom", ["group", "main"])
@pytest.mark.parametrize(("processes", "number"), [(1, "SIGTERM"), (2, "SIGTERM"), (2, "SIGINT")])
def test_processes_end_together_and_the_hint_is_printed_once(
    processes: int, number: str, whom: str, tmp_path: Path
) -> None:
    data, work = write_classes(tmp_path / "data", {"ant": 24, "bee": 24}), tmp_path / "a b"
    asked = arguments(data, work, max_epochs=500, **{"engine.num_devices": processes, "data.num_workers": 1})
    training = subprocess.Popen(
        [sys.executable, "-m", "otx", *asked],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    wait_for(has_trained(work), training)
    (os.killpg if whom == "group" else os.kill)(training.pid, getattr(signal, number))
    said = training.communicate(timeout=60)[0]
    assert training.returncode == {"SIGTERM": 143, "SIGINT": 130}[number], said
    assert "Traceback" not in said
    done = len(latest_run(work).metrics.read_text().splitlines()) - 1
    Ended(0, said, work).resume(f"--max_epochs={done + 1}")
    assert len(latest_run(work).metrics.read_text().splitlines()) == done + 2


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["test", "predict", "export", "optimize"])
def test_other_verbs_end_by_sigterm_and_leave_nothing_half_written(verb: str, trained: Engine, tmp_path: Path) -> None:
    """The signal comes at ten different moments."""
    model = latest_run(trained.work_dir).model
    images = [str(trained.recipe.data_root)] if verb == "predict" else []
    output = {"test": tmp_path / "figures.json", "predict": tmp_path / "rows.csv"}.get(verb, tmp_path)
    command = [sys.executable, "-m", "otx", verb, *images, "--checkpoint", str(model), "--output", str(output)]
    begun = time.monotonic()
    subprocess.run([*command, "--work_dir", str(tmp_path / "ws")], check=True, capture_output=True, timeout=LIMIT)
    whole = time.monotonic() - begun
    files = {path: path.read_bytes() for path in tmp_path.glob("*.*")}
    for share in range(1, 11):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        time.sleep(whole * share / 11)
        process.terminate()
        said = process.communicate(timeout=60)[0]
        # before Python sets its handler, the system ends the process
        assert process.returncode in (143, -signal.SIGTERM, 0), said
        assert "Traceback" not in said, said
        assert not list(tmp_path.rglob(".writing.*"))
        assert {path.name for path in tmp_path.glob("*.*")} == {path.name for path in files}
