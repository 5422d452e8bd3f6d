"""Time from the command to the same accuracy, on one folder of photos: otx against OTX 2.6.0.

    python benchmarks/accuracy.py FOLDER --weights FILE.safetensors --peer PEER/bin/python --peer_script run_otx.py
        [--seeds 0 1 2] [--peer_epochs 5] [--epochs 5] [--work WORK] [--threads 2]

Both train mobilenetv2_100 from the same weights on the same split, arranged as train/, val/ and test/ in WORK, with
their own defaults (batch of 64, 224 x 224), one after the other; times are of whole commands, including imports. otx
trains twice: only the classifier (`--max_epochs 0`), to see how soon it matches the peer's final accuracy, and for
`--epochs`. Then both test their best model; this is timed, too, for otx on the IR. `run_otx.py` is a script that starts
the peer with the weights named by PEER_WEIGHTS. `--only peer` or `--only otx` runs one part; results are kept in
WORK/results.json and combined at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from otx.data.dataset import SUBSETS
from otx.data.load import load_dataset

NETWORK = "mobilenetv2_100"
PEER_MODEL = "otx.backend.native.models.classification.multiclass_models.timm_model.TimmModelMulticlassCls"
RECIPE = "lib/python3.11/site-packages/otx/recipe/classification/multi_class_cls/mobilenet_v3_large.yaml"


def arrange(folder: Path, place: Path) -> None:
    """Link the images of a folder into train/, val/ and test/."""
    data = load_dataset(folder)
    for name in SUBSETS:
        subset = getattr(data, name)
        for path, label in zip(subset.paths, subset.labels, strict=True):
            link = place / name / data.classes[label] / Path(path).name
            link.parent.mkdir(parents=True, exist_ok=True)
            if not link.exists():
                link.symlink_to((folder / path).resolve())


def timed(command: list[str], log: Path, **variables: str) -> float:
    started = time.perf_counter()
    with log.open("w") as file:
        own = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        subprocess.run(command, check=True, stdout=file, stderr=file, env={**own, **variables})
    return time.perf_counter() - started


def run_peer(options: Any, data: Path, seed: int) -> dict[str, float]:
    work = options.work / f"peer_{seed}"
    cli = [str(options.peer), str(options.peer_script)]
    weights = {"PEER_WEIGHTS": str(options.weights.resolve())}
    model = ["--config", str(options.peer.parent.parent / RECIPE), "--model", PEER_MODEL, "--model.model_name", NETWORK]
    asked = ["--max_epochs", str(options.peer_epochs), "--seed", str(seed), "--engine.device", "cpu"]
    places = ["--data_root", str(data), "--work_dir", str(work)]
    train = timed([*cli, "train", *model, *asked, *places], Path(f"{work}.train.log"), **weights)
    test = timed([*cli, "test", "--work_dir", str(work)], Path(f"{work}.test.log"), **weights)
    accuracy = re.findall(r"test/accuracy\s*│\s*([\d.]+)", Path(f"{work}.test.log").read_text())[-1]
    return {"train": train, "test": test, "accuracy": float(accuracy)}


def run_otx(options: Any, data: Path, seed: int, epochs: int) -> dict[str, float]:
    work = options.work / f"otx_{seed}_{epochs}"
    cli = [sys.executable, "-m", "otx"]
    asked = ["--max_epochs", str(epochs), "--seed", str(seed), "--engine.device", "cpu"]
    model = ["--model", f"timm/{NETWORK}", "--model.weights", str(options.weights)]
    places = ["--data_root", str(data), "--work_dir", str(work)]
    train = timed([*cli, "train", *model, *asked, *places], Path(f"{work}.train.log"))
    timed([*cli, "export", "--work_dir", str(work)], Path(f"{work}.export.log"))
    exported = work / ".latest" / "train" / "exported_model.xml"
    test = timed([*cli, "test", "--checkpoint", str(exported), "--work_dir", str(work)], Path(f"{work}.test.log"))
    summary = json.loads((work / ".latest" / "test" / "results.json").read_text())
    return {"train": train, "test": test, "accuracy": summary["top1"]}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--peer", type=Path, required=True)
    parser.add_argument("--peer_script", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--peer_epochs", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--work", type=Path, default=Path("accuracy"))
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--only", choices=("peer", "otx"))
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    options.work.mkdir(parents=True, exist_ok=True)
    arrange(options.folder, options.work / "data")
    kept = options.work / "results.json"
    results = json.loads(kept.read_text()) if kept.is_file() else {}
    for seed in options.seeds:
        for name, run in (
            (f"peer, {options.peer_epochs} epochs", lambda data, seed: run_peer(options, data, seed)),
            ("otx, classifier alone", lambda data, seed: run_otx(options, data, seed, 0)),
            (f"otx, {options.epochs} epochs", lambda data, seed: run_otx(options, data, seed, options.epochs)),
        ):
            if (options.only is None or name.startswith(options.only)) and str(seed) not in results.get(name, {}):
                results.setdefault(name, {})[str(seed)] = run(options.work / "data", seed)
                kept.write_text(json.dumps(results, indent=2))
                print(name, seed, results[name][str(seed)], flush=True)
    for name, rows in results.items():
        columns = [[row[key] for row in rows.values()] for key in ("train", "test", "accuracy")]
        shown = [f"{statistics.mean(values):.4g} ({min(values):.4g} to {max(values):.4g})" for values in columns]
        print(f"{name:21} train {shown[0]} s, test {shown[1]} s, accuracy {shown[2]}, {len(rows)} seeds")
    print(f"{os.cpu_count()} cores, {options.threads} threads")


if __name__ == "__main__":
    main()
