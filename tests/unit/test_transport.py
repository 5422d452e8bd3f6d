"""Batches get from the workers to the training without /dev/shm; the machine's limits set the number of workers."""

from __future__ import annotations

import gc
import mmap
import os
import pickle
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from otx.data import transport
from otx.data.transport import SLOTS_PER_WORKER, Batch, Collate, Slots, allowed_workers, transport_note

forked = pytest.mark.skipif(not hasattr(os, "fork") or sys.version_info >= (3, 14), reason="workers are not forked")
SIZE = 2 * 3 * 4 * 5


class Pictures(torch.utils.data.Dataset[tuple[torch.Tensor | None, int, str]]):
    """Images filled with their own index; the last one cannot be decoded."""

    def __len__(self) -> int:
        return 24

    def __getitem__(self, number: int) -> tuple[torch.Tensor | None, int, str]:
        image = torch.full((4, 5, 3), number, dtype=torch.uint8).permute(2, 0, 1)
        return (None if number == 23 else image), number, f"{number}.png"


def loader(size: int, workers: int = 2) -> DataLoader[Batch]:
    return DataLoader(Pictures(), batch_size=2, num_workers=workers, collate_fn=Collate(Slots(workers, size)))


@forked
@pytest.mark.parametrize("size", [SIZE, 0, SIZE // 2], ids=["slots", "none", "too small"])
def test_batches_arrive_as_they_were_made_however_they_travel(size: int) -> None:
    for sent, plain in zip(loader(size), loader(size, workers=0), strict=True):
        assert isinstance(sent, Batch)
        assert torch.equal(sent.images, plain.images) and torch.equal(sent.labels, plain.labels)
        assert sent.images.is_contiguous(memory_format=torch.channels_last)
        assert sent.bad == plain.bad


@forked
def test_a_batch_that_is_kept_is_not_written_over() -> None:
    kept = list(loader(SIZE))
    assert [int(label) for batch in kept for label in batch.labels] == list(range(23))
    for batch in kept:
        assert all((image == label).all() for image, label in zip(batch.images, batch.labels, strict=True))


@forked
def test_a_slot_is_free_once_nothing_uses_its_batch() -> None:
    slots = Slots(1, SIZE)
    taken = [slots.take(0, SIZE) for _ in range(SLOTS_PER_WORKER)]
    assert taken == list(range(SLOTS_PER_WORKER)) and slots.take(0, SIZE) is None
    rows = slots.lend(2, (2, 4, 5, 3))
    part = rows.permute(0, 3, 1, 2)[1:]
    del rows
    gc.collect()
    assert slots.take(0, SIZE) is None
    del part
    gc.collect()
    assert slots.take(0, SIZE) == 2


def test_a_process_that_was_not_forked_has_no_slots() -> None:
    assert pickle.loads(pickle.dumps(Slots(2, SIZE))).take(1, SIZE) is None


@forked
def test_no_tensor_travels_as_pytorch_sends_them(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a tensor goes through /dev/shm")

    monkeypatch.setattr(torch.UntypedStorage, "_share_fd_cpu_", refuse)
    monkeypatch.setattr(torch.UntypedStorage, "_share_filename_cpu_", refuse)
    assert len(list(loader(SIZE))) == 12
    assert len(list(loader(0))) == 12


def test_workers_are_as_many_as_files_can_be_opened_for(monkeypatch: pytest.MonkeyPatch) -> None:
    resource = pytest.importorskip("resource")
    monkeypatch.setattr(transport, "_open_files", lambda: 20)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (128, 128))
    assert allowed_workers(64) == 8
    assert "ulimit -n" in transport_note(64, SIZE) and transport_note(64, SIZE).startswith("8 processes decode")
    monkeypatch.setattr(resource, "getrlimit", lambda _: (50, 50))
    assert allowed_workers(8) == 0
    monkeypatch.setattr(resource, "getrlimit", lambda _: (100_000, 100_000))
    assert allowed_workers(64) == 64


def test_without_semaphores_there_are_no_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("multiprocessing.context.BaseContext.Lock", none)
    assert allowed_workers(4) == 0
    assert "semaphores" in transport_note(4, SIZE)


def test_little_shared_memory_is_said_in_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "memory of the training's own" in transport_note(2, 2**50)
    monkeypatch.setattr(transport, "SHARED_MEMORY", tmp_path)
    assert transport_note(0, SIZE) == ""


def test_a_loader_of_each_process_has_room_for_its_semaphores(monkeypatch: pytest.MonkeyPatch) -> None:
    for pages, processes, workers in ((16, 1, 0), (18, 1, 0), (32, 1, 1), (64, 1, 5), (64, 2, 1)):
        monkeypatch.setattr(transport, "_free_shared_memory", lambda pages=pages: pages * mmap.PAGESIZE)
        assert allowed_workers(8, processes) == workers
