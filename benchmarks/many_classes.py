"""Peak memory, seconds and sizes of files of every verb on a folder of very many classes.

    python benchmarks/many_classes.py [--classes 10000] [--images 2] [--verbs check train test predict ...]

The classes are called `1`, `2`, ...; each has a colour of its own and IMAGES images of 32 x 32 pixels with noise. The
network is timm's test_resnet with random weights, which are given as a file, so that the classifier is fitted first.
Each verb is a process of its own. Memory is the peak resident memory of the largest process of the verb.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

NETWORK = "test_resnet"
SIDE = 32
EXPLAINED = 4
FILES = ("results.json", "confusion_matrix.csv", "classes.csv", "predictions.csv", "report.html", "predicted.json")


def make_images(root: Path, classes: int, images: int) -> None:
    rng = np.random.default_rng(0)
    for name in range(1, classes + 1):
        (root / str(name)).mkdir(parents=True)
        colour = rng.integers(0, 256, (4, 4, 3))
        for number in range(images):
            noisy = np.kron(colour, np.ones((SIDE // 4, SIDE // 4, 1))) + rng.normal(0, 20, (SIDE, SIDE, 3))
            Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).save(root / str(name) / f"{number}.png")


def make_weights(path: Path) -> None:
    # in a process of its own: a child begins with the peak memory of its parent
    program = (
        "import sys, timm; from safetensors.torch import save_file; "
        f"save_file(timm.create_model('{NETWORK}', pretrained=False).state_dict(), sys.argv[1])"
    )
    subprocess.run([sys.executable, "-c", program, str(path)], check=True)


def commands(root: Path, scratch: Path) -> dict[str, list[str]]:
    work = ["--work_dir", str(scratch / "work")]
    few = [str(path) for path in sorted(root.glob("*/0.png"))[:EXPLAINED]]
    network = ["--model", f"timm/{NETWORK}", "--model.weights", str(scratch / "weights.safetensors")]
    # of two images, one trains and one validates and tests
    settings = ["--data.input_size", str(SIDE), "--max_epochs", "1", "--data.test_share", "0"]
    return {
        "check": ["check", str(root), "--data.test_share", "0"],
        "train": ["train", str(root), *network, *settings, *work],
        "test": ["test", *work],
        "predict": ["predict", str(root), "--output", str(scratch / "predicted.json"), *work],
        "export": ["export", *work],
        "report": ["report", *work],
        "explain": ["explain", *few, *work],
        "optimize": ["optimize", *work],
        "mislabelled": ["check", str(root), "--checkpoint", str(scratch / "work/.latest/train/model.safetensors")],
    }


def run(words: list[str], log: Path) -> tuple[int, float, float, int]:
    """Exit code, seconds, peak memory in MB and characters printed of a command."""
    started = time.perf_counter()
    with log.open("wb") as file:
        process = subprocess.Popen([sys.executable, "-m", "otx", *words], stdout=file, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return process.returncode, time.perf_counter() - started, usage.ru_maxrss / 1e3, log.stat().st_size


def show_sizes(scratch: Path) -> None:
    for name in FILES:
        for path in sorted(scratch.rglob(name)):
            print(f"{path.stat().st_size / 1e6:10.2f} MB  {path.relative_to(scratch)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", type=int, default=10_000)
    parser.add_argument("--images", type=int, default=2)
    parser.add_argument("--verbs", nargs="+")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        make_images(scratch / "images", options.classes, options.images)
        make_weights(scratch / "weights.safetensors")
        print(f"{options.classes} classes of {options.images} images, {os.cpu_count()} cores", flush=True)
        for verb, words in commands(scratch / "images", scratch).items():
            if options.verbs is None or verb in options.verbs:
                code, seconds, megabytes, printed = run(words, scratch / "log")
                print(f"{verb:16} {seconds:8.1f} s {megabytes:8.0f} MB peak, {printed} bytes printed", flush=True)
                if code:
                    print((scratch / "log").read_text(errors="replace")[-2000:])
        show_sizes(scratch)


if __name__ == "__main__":
    main()
