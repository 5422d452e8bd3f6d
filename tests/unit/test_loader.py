"""The data loader of a training: images are decoded once, kept in memory, and resized to the epoch's size."""

from __future__ import annotations

import gc
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from images import write_classes
from otx import machine
from otx.data.cache import MEGABYTE, ImageCache, memory_budget
from otx.data.dataset import ImageSet, Split
from otx.data.decode import decode_image
from otx.data.load import load_dataset
from otx.data.loader import (
    Augmentation,
    Batch,
    Batching,
    ImageSubset,
    ProgressiveResize,
    SampleRequest,
    count_workers,
    train_loader,
    val_loader,
)
from otx.data.preprocessing import Preprocessing

NETWORK_INPUT = Preprocessing(16, 16, (0, 0, 0), (1, 1, 1))


def picture(number: int, height: int = 3, width: int = 5) -> NDArray[np.uint8]:
    return np.random.default_rng(number).integers(0, 256, (height, width, 3), np.uint8)


def test_what_is_put_in_comes_out_as_long_as_there_is_room() -> None:
    cache = ImageCache(4, 2 * 45 + 44)
    assert cache.get(0) is None
    for number in (2, 0, 1):
        cache.put(number, picture(number))
    for number in (0, 2):
        np.testing.assert_array_equal(cache.get(number), picture(number))
    assert cache.get(1) is None
    cache.put(3, picture(3, 2, 7))
    np.testing.assert_array_equal(cache.get(3), picture(3, 2, 7))


def test_an_image_is_kept_once() -> None:
    cache = ImageCache(2, 2 * 45)
    for number in (0, 0, 0, 1):
        cache.put(number, picture(number))
    np.testing.assert_array_equal(cache.get(1), picture(1))


@pytest.mark.parametrize("count", [0, 3])
def test_without_room_nothing_is_kept(count: int) -> None:
    cache = ImageCache(count, 0)
    cache.put(0, picture(0))
    assert cache.get(0) is None


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")
def test_a_forked_process_fills_and_reads_the_same_memory() -> None:
    cache = ImageCache(2, 1000)
    cache.put(0, picture(0))
    child = os.fork()
    if child == 0:
        status = 1
        try:
            found = cache.get(0)
            cache.put(1, picture(1))
            status = 0 if found is not None and (found == picture(0)).all() else 1
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    np.testing.assert_array_equal(cache.get(1), picture(1))


def test_a_process_that_was_not_forked_keeps_nothing() -> None:
    cache = pickle.loads(pickle.dumps(ImageCache(2, 1000)))
    cache.put(0, picture(0))
    assert cache.get(0) is None


def test_the_room_is_what_was_asked_for_but_an_eighth_of_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert memory_budget(1, processes=4) == MEGABYTE
    limit = tmp_path / "memory.max"
    limit.write_text("80000000\n")
    monkeypatch.setattr(machine, "CGROUPS", tmp_path)
    assert memory_budget(1024, processes=1) == 10_000_000
    assert memory_budget(1024, processes=4) == 2_500_000
    limit.write_text("max\n")
    assert memory_budget(1024, processes=1) > 10_000_000


def batches(folder: Path, *, cache: int, workers: int) -> list[list[Batch]]:
    """Batches of two training and two validation epochs; with a cache, the image files are deleted in between."""
    data = load_dataset(folder)
    bends = Augmentation((0.2, 1.0), (0.75, 1.33), 0.5)
    images = ImageSubset(
        ImageSet(data.root, data.train, Split.TRAIN, 10**6),
        NETWORK_INPUT,
        augmentation=bends,
        reduces=True,
        cache=cache,
    )
    still = ImageSubset(ImageSet(data.root, data.val, Split.VAL, 10**6), NETWORK_INPUT, cache=cache)
    loader = train_loader(images, Batching(4, workers), balanced=False, efficient=False, seed=1)
    others = val_loader(still, Batching(4, workers))
    seen = [list(loader), list(others)]
    if cache:
        for path in (*data.train.paths, *data.val.paths):
            (data.root / path).unlink()
    return [*seen, list(loader), list(others)]


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_the_same_from_memory(workers: int, tmp_path: Path) -> None:
    root = write_classes(tmp_path, {"ant": 9, "bee": 9}, size=(140, 130))
    plain = batches(root, cache=0, workers=workers)
    kept = batches(root, cache=MEGABYTE, workers=workers)
    for left, right in zip(plain, kept, strict=True):
        for one, other in zip(left, right, strict=True):
            assert not other.bad
            np.testing.assert_array_equal(one.images, other.images)


@pytest.mark.parametrize(
    ("full", "sizes"), [((224, 224), [128, 160, 192, 224, 224]), ((32, 96), [32, 32, 32, 32, 32]), ((200, 320), [])]
)
def test_images_grow_in_steps_to_their_whole_size(full: tuple[int, int], sizes: list[int]) -> None:
    growth = ProgressiveResize(0.55, 3)
    found = [growth.size(full, epoch) for epoch in range(5)]
    assert found[3:] == [full, full]
    assert found == sorted(found)
    assert not sizes or [height for height, _ in found] == sizes
    assert all(side % 32 == 0 or side == whole for size in found for side, whole in zip(size, full, strict=True))


def test_large_files_are_decoded_by_as_many_processes_as_there_are_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_classes(tmp_path, {"ant": 60, "bee": 60})
    data = load_dataset(root)
    images = ImageSubset(ImageSet(root, data.train, Split.TRAIN, 10**6), NETWORK_INPUT)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2}, raising=False)
    monkeypatch.setattr(machine, "CGROUPS", tmp_path / "none")
    assert (count_workers(None, images), count_workers(0, images), count_workers(5, images)) == (2, 0, 5)
    for path in data.train.paths[::2]:
        with (root / path).open("ab") as file:
            file.truncate(3_000_000)
    assert count_workers(None, images) == 3
    assert count_workers(None, ImageSubset(ImageSet(root, data.val, Split.VAL, 10**6), NETWORK_INPUT)) == 0


def test_what_is_closed_keeps_nothing() -> None:
    cache = ImageCache(2, 1000)
    cache.put(0, picture(0))
    cache.close()
    cache.close()
    cache.put(0, picture(0))
    assert cache.get(0) is None


@pytest.mark.parametrize(("size", "expected"), [((140, 130), (34, 32)), ((90, 63), (90, 63))])
def test_large_images_to_train_on_are_kept_small(
    size: tuple[int, int], expected: tuple[int, int], tmp_path: Path
) -> None:
    root = write_classes(tmp_path, {"ant": 9, "bee": 9}, size=size)
    data = load_dataset(root)
    bends = Augmentation((0.2, 1.0), (0.75, 1.33), 0.5)
    for reduces in (True, False):
        images = ImageSubset(
            ImageSet(root, data.train, Split.TRAIN, 10**6),
            NETWORK_INPUT,
            augmentation=bends,
            reduces=reduces,
            cache=MEGABYTE,
        )
        images[SampleRequest(0, 1, (16, 16))]
        kept = images.cache.get(0)
        assert kept is not None
        assert kept.shape[1::-1] == (expected if reduces else size)
        whole = decode_image(root / data.train.paths[0])
        as_tested, *_ = images[SampleRequest(0)]
        assert as_tested is not None
        np.testing.assert_array_equal(as_tested.permute(1, 2, 0), NETWORK_INPUT.resize(whole))
        # its pixels are pixels of the file, so that it is as grainy
        assert {tuple(pixel) for pixel in kept.reshape(-1, 3)} <= {tuple(pixel) for pixel in whole.reshape(-1, 3)}


class Leftover:
    """Garbage in a cycle, as loaders of earlier trainings are; its end is written down."""

    def __init__(self, path: Path) -> None:
        self.path, self.itself = path, self

    def __del__(self) -> None:
        with self.path.open("a") as file:
            file.write(f"{os.getpid()}\n")


class Collecting(ImageSubset):
    def __getitem__(self, request: SampleRequest) -> tuple[torch.Tensor | None, int, str]:
        gc.collect()
        return super().__getitem__(request)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing is inherited where processes are spawned")
def test_a_worker_does_not_finalise_what_it_has_inherited(tmp_path: Path) -> None:
    data = load_dataset(write_classes(tmp_path / "data", {"ant": 6, "bee": 6}))
    images = Collecting(ImageSet(data.root, data.train, Split.TRAIN, 10**6), NETWORK_INPUT)
    gc.collect()
    gc.disable()
    try:
        Leftover(tmp_path / "ends")
        assert sum(len(batch.labels) for batch in val_loader(images, Batching(4, 1))) == len(data.train)
    finally:
        gc.enable()
    assert not (tmp_path / "ends").exists()
    gc.collect()
    assert (tmp_path / "ends").read_text() == f"{os.getpid()}\n"
