"""Data workers do not keep the freed memory that their parent keeps, and large images come in small batches."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from images import write_classes
from otx.data.reading import AS_STORED
from otx.inference import classify, predictor

PROGRAM = """
import os, sys
import numpy as np
from pathlib import Path
from otx.data.dataset import ImageSet, Split
from otx.data.load import load_dataset
from otx.data.loader import Batching, ImageSubset, val_loader
from otx.data.preprocessing import Preprocessing
from otx.memory import keep_freed_memory

def resident(pid):
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20

keep_freed_memory()
data = load_dataset(sys.argv[1])
large = np.ones(400 << 20, np.uint8)
del large
images = ImageSubset(ImageSet(data.root, data.train, Split.TRAIN, 10**6), Preprocessing(8, 8, (0, 0, 0), (1, 1, 1)))
batches = iter(val_loader(images, Batching(4, num_workers=1)))
next(batches)
(child,) = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
print(resident(os.getpid()), resident(child))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="memory is kept with glibc only")
def test_a_worker_drops_what_its_parent_has_freed(tmp_path: Path) -> None:
    root = write_classes(tmp_path, {"ant": 9, "bee": 9})
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(root)], capture_output=True, text=True, check=True)
    parent, child = map(int, done.stdout.split())
    assert parent > 400
    assert child < parent - 300


@pytest.mark.parametrize(("images_in_memory", "sizes"), [(99, [4, 4, 1]), (3, [3, 1, 3, 1, 1]), (1, [1] * 9)])
def test_large_images_come_in_smaller_batches_that_end_where_a_prediction_is_resumed(
    images_in_memory: int, sizes: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = sorted(write_classes(tmp_path, {"ant": 9}).rglob("*.png"))
    one = classify.decode_image(paths[0]).nbytes
    monkeypatch.setattr(classify, "MOST_BYTES", images_in_memory * one)
    found: list[int] = []

    def network(images: list[object]) -> list[int]:
        found.append(len(images))
        return [sum(found) - len(images) + number for number in range(len(images))]

    rows = list(classify.run_over(network, paths, AS_STORED, batch_size=4))  # type: ignore[arg-type]
    assert rows == [(str(path), number, None) for number, path in enumerate(paths)]
    assert found == sizes


def test_a_graph_that_resizes_gets_large_images_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    images = [np.full((side, 10, 3), number, np.uint8) for number, side in enumerate((10, 20, 10, 10, 20))]
    monkeypatch.setattr(predictor, "GRAPH_BYTES", 2 * images[0].nbytes)
    sizes = []

    def run(batch: np.ndarray) -> list[np.ndarray]:
        sizes.append(batch.shape[:2])
        return [batch[:, 0, 0, :1].astype(np.float32)]

    (answers,) = predictor._run_graph(images, run, is_bgr=False)
    assert answers[:, 0].tolist() == [0, 1, 2, 3, 4]
    assert sizes == [(2, 10), (1, 10), (1, 20), (1, 20)]
