"""Cells of a benchmark: computed side by side, a line of a file each; the same command goes on where it stopped."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def read(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def computed(finish: Callable[..., Any], left: list[tuple[Any, ...]], jobs: int) -> Iterator[Any]:
    """What `finish` gives for each cell and its other arguments, as they end; failed ones are named and left out."""
    with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
        started = {pool.submit(finish, *each): each[0] for each in left}
        for future in as_completed(started):
            if (error := future.exception()) is not None:
                print(*started[future].values(), f"failed: {error}", file=sys.stderr, flush=True)
            else:
                yield future.result()
