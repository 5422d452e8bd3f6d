"""Features of photos under pretrained networks, computed once and kept: for learning_curve.py and shift.py.

    python benchmarks/features.py DATA_ROOT --weights WEIGHTS --features FOLDER [--changes darker blurred ...]

A WEIGHTS file (timm's names, without a classifier) is called NETWORK.anything. FOLDER/NETWORK/DATA/CHANGE.npz holds the
features (D,) of each photo by its path; `none` are the photos as they are, of all images. The other changes are made to
the images of the test split of seed 0.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from planted import untrained

from otx.data.decode import decode_image
from otx.data.load import load_dataset
from otx.errors import ImageError
from otx.inference.predictor import Predictor, load_predictor

Pixels = NDArray[np.uint8]
Features = NDArray[np.float32]
BATCH = 32
WARM = (1.15, 1.0, 0.75)
LINE = 160


def _scaled(photo: Pixels, factor: float | Sequence[float]) -> Pixels:
    return np.clip(photo * np.asarray(factor), 0, 255).round().astype(np.uint8)


def _blurred(photo: Pixels) -> Pixels:
    """Out of focus: a Gaussian of 1 % of the longer side."""
    return np.asarray(cv2.GaussianBlur(photo, (0, 0), 0.01 * max(photo.shape[:2])), np.uint8)


def _jpeg(photo: Pixels) -> Pixels:
    written = cv2.imencode(".jpg", photo[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 5])[1]
    return np.asarray(cv2.imdecode(written, cv2.IMREAD_COLOR)[:, :, ::-1], np.uint8)


def _small(photo: Pixels) -> Pixels:
    """As a camera of few pixels sees it: the longer side of LINE pixels."""
    scale = LINE / max(photo.shape[:2])
    return np.asarray(cv2.resize(photo, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), np.uint8)


CHANGES: dict[str, Callable[[Pixels], Pixels]] = {
    "none": lambda photo: photo,
    "a little darker": lambda photo: _scaled(photo, 0.75),
    "half as bright": lambda photo: _scaled(photo, 0.5),
    "blurred": _blurred,
    "JPEG of quality 5": _jpeg,
    "warm colours": lambda photo: _scaled(photo, WARM),
    "160 pixels wide": _small,
}


def compute(predictor: Predictor, root: Path, folder: Path, change: str) -> dict[str, Features]:
    """The features (D,) of each image by its path, computed or read back."""
    file = folder / root.name / f"{change}.npz"
    if not file.is_file():
        dataset = load_dataset(root)
        parts = dataset.parts.values() if change == "none" else (dataset.test,)
        paths = [path for part in parts for path in part.paths]
        rows = _features(predictor, dataset.root, paths, CHANGES[change])
        file.parent.mkdir(parents=True, exist_ok=True)
        np.savez(file, **rows)
        print(f"{folder.name}, {root.name}, {change}: {len(rows)} images", flush=True)
    with np.load(file) as kept:
        return dict(kept)


def _features(
    predictor: Predictor, root: Path, paths: Sequence[str], change: Callable[[Pixels], Pixels]
) -> dict[str, Features]:
    reading, found = predictor.card.preprocessing.reading(10**8), {}
    for start in range(0, len(paths), BATCH):
        photos = {}
        for path in paths[start : start + BATCH]:
            try:
                photos[path] = change(decode_image(root / path, reading))
            except ImageError:
                print(f"left out: {path}")
        found |= dict(zip(photos, predictor.features(list(photos.values())), strict=True))
    return found


def open_network(weights: Path, root: Path, scratch: Path) -> Predictor:
    """A network with pretrained features; its classifier is not trained."""
    network = weights.name.split(".")[0]
    model = untrained(network, weights, load_dataset(root).classes, root, scratch / f"{network}.safetensors")
    return load_predictor(model, "cpu")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_root", type=Path)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--features", type=Path, required=True)
    parser.add_argument("--changes", nargs="+", default=list(CHANGES), choices=list(CHANGES))
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        predictor = open_network(given.weights, given.data_root, Path(scratch))
        for change in given.changes:
            compute(predictor, given.data_root, given.features / given.weights.name.split(".")[0], change)


if __name__ == "__main__":
    main()
