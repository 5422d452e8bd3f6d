"""Accuracy after some minutes, from the command to a model: `otx train --max_time`, fastai and OTX 2.6.0.

    python benchmarks/minutes.py FOLDER... --weights FILE.safetensors --minutes 1 5 --work WORK
        [--model mobilenetv2_100] [--seeds 0] [--fastai FASTAI/bin/python] [--peer PEER/bin/python --peer_script FILE]
    python benchmarks/minutes.py --work WORK

All train the same network from the same weights on the training and validation images of otx's split, 224 x 224, and
are tested on its test images. Only otx takes a time. For the others the script does what a person would do: it trains
one epoch, two if time is left, and then asks for as many epochs as fit (`fine_tune(N)`, its first epoch with the body
frozen; `--max_epochs N`); where not even one fits, it is one. Seconds are those of whole commands, imports and otx's
report included. `run_otx.py` is a script that starts OTX with the weights named by PEER_WEIGHTS. One run at a time, on
a machine that does nothing else; finished ones are lines of WORK/results.jsonl and are left out the next time.
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from accuracy import PEER_MODEL, RECIPE, arrange, timed
from cells import read

FASTAI = """
import sys, time
from pathlib import Path
import torch
from fastai.vision.all import *
from safetensors.torch import load_file

data, weights, network, epochs, seed = Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5])
set_seed(seed)
files = get_image_files(data / "train") + get_image_files(data / "val")
dls = ImageDataLoaders.from_path_func(
    data, files, lambda path: path.parent.name, valid_pct=0.1, seed=seed, item_tfms=Resize(460),
    batch_tfms=aug_transforms(size=224),
)
learn = vision_learner(dls, network, metrics=accuracy, pretrained=False, n_out=len(dls.vocab))
found = learn.model[0].model.load_state_dict(load_file(weights), strict=False)
assert not [name for name in found.missing_keys if not name.startswith("classifier")], found
learn.freeze()
learn.fine_tune(epochs)
learn.export(data.parent / "fastai.pkl")
print("TRAINED", time.time(), flush=True)
tests = get_image_files(data / "test")
answers = learn.get_preds(dl=dls.test_dl(tests))[0].argmax(1)
right = [dls.vocab[int(answer)] == path.parent.name for answer, path in zip(answers, tests)]
print("TOP1", sum(right) / len(right))
"""


class Task(NamedTuple):
    data: Path
    work: Path
    seed: int
    options: argparse.Namespace


class Result(NamedTuple):
    """Seconds of the training command, and top-1 on the test images."""

    seconds: float
    top1: float


def run_otx(task: Task, minutes: float) -> Result:
    work, options = task.work, task.options
    cli, places = [sys.executable, "-m", "otx"], ["--data_root", str(task.data), "--work_dir", str(work)]
    asked = ["--max_time", f"{minutes}m", "--seed", str(task.seed), "--model.weights", str(options.weights)]
    train = timed([*cli, "train", "--model", f"timm/{options.model}", *asked, *places], Path(f"{work}.train.log"))
    timed([*cli, "test", *places], Path(f"{work}.test.log"))
    return Result(train, json.loads((work / ".latest" / "test" / "results.json").read_text())["top1"])


def run_fastai(task: Task, epochs: int) -> Result:
    log, started = Path(f"{task.work}.log"), time.time()
    asked = [str(task.data), str(task.options.weights), task.options.model, str(epochs), str(task.seed)]
    timed([str(task.options.fastai), "-c", FASTAI, *asked], log)
    words = dict(line.split() for line in log.read_text().splitlines() if line.startswith(("TRAINED", "TOP1")))
    return Result(float(words["TRAINED"]) - started, float(words["TOP1"]))


def run_peer(task: Task, epochs: int) -> Result:
    work, options = task.work, task.options
    cli, weights = [str(options.peer), str(options.peer_script)], {"PEER_WEIGHTS": str(options.weights.resolve())}
    recipe = str(options.peer.parent.parent / RECIPE)
    model = ["--config", recipe, "--model", PEER_MODEL, "--model.model_name", options.model]
    asked = ["--max_epochs", str(epochs), "--seed", str(task.seed), "--engine.device", "cpu"]
    places = ["--data_root", str(task.data), "--work_dir", str(work)]
    train = timed([*cli, "train", *model, *asked, *places], Path(f"{work}.train.log"), **weights)
    timed([*cli, "test", "--work_dir", str(work)], Path(f"{work}.test.log"), **weights)
    accuracy = re.findall(r"test/accuracy\s*│\s*([\d.]+)", Path(f"{work}.test.log").read_text())[-1]
    return Result(train, float(accuracy))


def fitting(run: Callable[[Task, int], Result], task: Task, limit: float) -> tuple[int, Result | None]:
    """How many epochs fit into `limit` seconds, from trainings of one and of two; and the result if it is known."""
    one = trained(run, task, 1)
    if one.seconds >= limit:
        return 1, one
    two = trained(run, task, 2)
    epochs = max(1, 1 + int((limit - one.seconds) / max(1e-9, two.seconds - one.seconds)))
    return epochs, {1: one, 2: two}.get(epochs)


def trained(run: Callable[[Task, int], Result], task: Task, epochs: int) -> Result:
    """The result of a training of so many epochs, which is kept in a file."""
    known = task.work.parent / f"{task.work.name}.{epochs}.json"
    if not known.is_file():
        known.write_text(json.dumps(run(task, epochs)))
    return Result(*json.loads(known.read_text()))


def finish(tool: str, folder: Path, minutes: float, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    data = options.work / folder.name / "data"
    if not data.is_dir():
        arrange(folder, data)
    task = Task(data, options.work / folder.name / f"{tool}_{seed}", seed, options)
    if tool == "otx":
        task = task._replace(work=Path(f"{task.work}_{minutes:g}"))
        return {"epochs": None, **run_otx(task, minutes)._asdict()}
    run = {"fastai": run_fastai, "peer": run_peer}[tool]
    epochs, result = fitting(run, task, 60 * minutes)
    return {"epochs": epochs, **(result or run(task, epochs))._asdict()}


def table(rows: list[dict[str, Any]]) -> None:
    print("folder | minutes | tool | seed | epochs | seconds | top-1")
    for row in sorted(rows, key=lambda row: (row["folder"], row["minutes"], row["tool"])):
        epochs = "chosen by itself" if row["epochs"] is None else row["epochs"]
        place = f"{row['folder']} | {row['minutes']:g} | {row['tool']} | {row['seed']}"
        print(f"{place} | {epochs} | {row['seconds']:.0f} | {100 * row['top1']:.1f}")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folders", type=Path, nargs="*")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--model", default="mobilenetv2_100")
    parser.add_argument("--minutes", type=float, nargs="+", default=[1, 5])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--fastai", type=Path)
    parser.add_argument("--peer", type=Path)
    parser.add_argument("--peer_script", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    out = options.work / "results.jsonl"
    tools = ["otx", *(["fastai"] if options.fastai else []), *(["peer"] if options.peer else [])]
    for seed, folder, minutes, tool in itertools.product(options.seeds, options.folders, options.minutes, tools):
        place = {"folder": folder.name, "minutes": minutes, "tool": tool, "seed": seed, "model": options.model}
        if not any(place.items() <= row.items() for row in read(out)):
            row = {**place, **finish(tool, folder, minutes, seed, options)}
            with out.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(*row.values(), flush=True)
    table(read(out))


if __name__ == "__main__":
    main()
