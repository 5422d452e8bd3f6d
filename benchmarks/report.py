"""Time of `otx report` and size of its page, for a test of many images.

    python benchmarks/report.py RUN PHOTOS [--images 500 10000] [--runs 3]

RUN is the folder of a run that was tested, PHOTOS any folder of images. The answers of the test are repeated for
IMAGES images, whose files are links to the photos in turn. The first report of a process includes the imports. Also
prints processor time, which depends less on how busy the machine is.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from otx.confusion import ConfusionMatrix
from otx.evaluation.evaluate import read_test, write_test
from otx.inference.predict import find_images
from otx.report.page import write_report


def enlarge(run: Path, photos: list[str], count: int, scratch: Path) -> Path:
    """A copy of the run whose test has `count` images."""
    copy = shutil.copytree(run, scratch / f"run{count}", ignore=shutil.ignore_patterns("checkpoints", "tensorboard"))
    folder = max(copy.glob("test/*"))
    result, images = read_test(folder)
    root = scratch / f"photos{count}"
    many = []
    for number in range(count):
        image = images[number % len(images)]
        path = f"{image.label}/IMG_20261123_{number:06}.jpg"
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).symlink_to(Path(photos[number % len(photos)]).resolve())
        many.append(replace(image, path=path))
    places = {item.name: place for place, item in enumerate(result.classes)}
    confusion = [[0] * len(places) for _ in places]
    for image in many:
        confusion[places[image.label]][places[image.predicted]] += 1
    matrix = ConfusionMatrix.from_rows(confusion)
    write_test(replace(result, data_root=root, num_images=count, confusion=matrix), many, folder)
    return copy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("photos")
    parser.add_argument("--images", type=int, nargs="+", default=[500, 10_000])
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    photos = list(find_images([options.photos]))
    print(f"{os.cpu_count()} cores, {options.runs} reports each")
    with tempfile.TemporaryDirectory() as scratch:
        for count in options.images:
            copy = enlarge(options.run, photos, count, Path(scratch))
            seconds, busy = [], []
            for _ in range(options.runs):
                started, worked = time.perf_counter(), time.process_time()
                page = write_report(copy)
                seconds.append(time.perf_counter() - started)
                busy.append(time.process_time() - worked)
            size = page.stat().st_size / 1e6
            print(
                f"{count:>6} images: first {seconds[0]:.1f} s, median {statistics.median(seconds):.1f} s "
                f"(processor {statistics.median(busy):.1f} s), {size:.2f} MB"
            )


if __name__ == "__main__":
    main()
