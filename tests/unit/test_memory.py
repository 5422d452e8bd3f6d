"""Data workers do not keep the freed memory that their parent keeps."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from images import write_classes

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
