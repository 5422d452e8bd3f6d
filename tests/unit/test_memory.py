"""What a process keeps for itself, its children do not keep as well."""

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
from otx.data.load import load_dataset
from otx.data.loader import ImageSubset, val_loader
from otx.data.preprocessing import Preprocessing
from otx.memory import keep_freed_memory

def resident(pid):
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20

keep_freed_memory()
data = load_dataset(sys.argv[1])
large = np.ones(400 << 20, np.uint8)
del large
images = ImageSubset(data.root, data.train, Preprocessing(8, 8, (0, 0, 0), (1, 1, 1)), max_pixels=10**6)
batches = iter(val_loader(images, batch_size=4, rank=0, world_size=1, num_workers=1, pin_memory=False))
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
