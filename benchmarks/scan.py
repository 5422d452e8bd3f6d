"""Time to scan and split a folder of many images: otx against torchvision's ImageFolder.

    python benchmarks/scan.py [--files 1000000] [--classes 1000] [--runs 3]

The files of a class are hard links to one image of 1 x 1 pixels, in a temporary folder. Each run is a process of its
own, in turns. Prints the median time after the imports, and the peak memory above that of the imports. torchvision only
scans; otx also splits off test and validation images.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

PROGRAMS = {
    "torchvision": (
        "from torchvision.datasets import ImageFolder",
        "data = ImageFolder(root); count = len(data.samples)",
    ),
    "otx": (
        "from otx.data.load import load_dataset",
        "data = load_dataset(root); count = len(data.train) + len(data.val) + len(data.test)",
    ),
}
FRAME = """
import resource, sys, time
{imports}
root = sys.argv[1]
before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
{work}
print(time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, count)
"""


def make(root: Path, files: int, classes: int) -> None:
    for number in range(classes):
        folder = root / "images" / f"class {number:04}"
        folder.mkdir(parents=True)
        first = folder / f"photo_{number:04}_000000.png"
        Image.new("RGB", (1, 1)).save(first)
        for image in range(1, files // classes):
            os.link(first, folder / f"photo_{number:04}_{image:06}.png")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--files", type=int, default=1_000_000)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    figures: dict[str, list[tuple[float, float]]] = {name: [] for name in PROGRAMS}
    with tempfile.TemporaryDirectory() as scratch:
        make(Path(scratch), options.files, options.classes)
        for _ in range(options.runs):
            for name, (imports, work) in PROGRAMS.items():
                program = FRAME.format(imports=imports, work=work)
                done = subprocess.run(
                    [sys.executable, "-c", program, f"{scratch}/images"], capture_output=True, text=True, check=True
                )
                seconds, kilobytes, count = done.stdout.split()
                figures[name].append((float(seconds), float(kilobytes)))
                print(f"{name:12} {float(seconds):8.2f} s  {float(kilobytes) / 1e3:8.1f} MB  {count} files", flush=True)
    median = {name: [statistics.median(column) for column in zip(*rows, strict=True)] for name, rows in figures.items()}
    print(
        f"otx takes {median['otx'][0] / median['torchvision'][0]:.2f} of torchvision's time and "
        f"{median['otx'][1] / median['torchvision'][1]:.2f} of its memory, {options.runs} runs, {os.cpu_count()} cores"
    )


if __name__ == "__main__":
    main()
