"""Hostile, cut-off and bit-flipped files are refused with a clear message, fast, and without running any code."""

from __future__ import annotations

import json
import os
import pickle
import random
import shutil
import signal
import struct
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from images import write_classes
from otx import Engine
from otx.catalogue import load_recipe
from otx.cli import main
from otx.errors import InputError, ModelError, RecipeError
from otx.inference.predictor import load_predictor
from otx.model.card import ModelCard
from otx.model.checksum import CHECKSUM_KEY, EMPTY, verify_checksum, with_checksum
from otx.model.modelfile import read_card
from otx.networks.build import build_network
from otx.networks.weights import load_weights
from otx.workspace import latest_run
from otx.yaml_text import parse_text

# processor time, so that a busy machine does not matter
SECONDS = 1.0
MODELS = ["model.safetensors", "last.ckpt", "exported_model.xml", "exported_model.bin", "exported_model.onnx"]
FLIPS = 25


class Bomb:
    """The content of a hostile pickle: code that leaves a trace."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return (os.mkdir, (str(self.trace),))


@pytest.fixture(scope="module", autouse=True)
def warm(files: Path) -> None:
    """Load each file once, so that no timed refusal includes an import."""
    for name in MODELS:
        load_predictor(loadable(files / name), "cpu")


def loadable(path: Path) -> Path:
    """The file to load for this one: for the two files of an IR, the .xml."""
    return path.with_suffix(".xml") if path.suffix == ".bin" else path


def refused(path: Path, photos: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """What `otx predict` says about a model file, which it must refuse with exit code 2 in less than a second."""
    started = time.process_time()
    code = main(["predict", str(photos / "cat" / "000.png"), "--checkpoint", str(loadable(path))])
    seconds = time.process_time() - started
    shown = capsys.readouterr()
    assert code == 2, shown.out + shown.err
    assert seconds < SECONDS
    assert "Traceback" not in shown.err
    return shown.err


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.9999])
def test_a_cut_off_file_is_refused_by_name(
    name: str, share: float, files: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(files, tmp_path, dirs_exist_ok=True)
    damaged = tmp_path / name
    os.truncate(damaged, int(damaged.stat().st_size * share))
    assert Path(name).stem in refused(damaged, photos, capsys)


@pytest.mark.parametrize("name", MODELS)
def test_a_flipped_bit_is_never_another_answer(
    name: str, files: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(files, tmp_path, dirs_exist_ok=True)
    whole, rng = (files / name).read_bytes(), random.Random(0)
    for _ in range(FLIPS):
        damaged = bytearray(whole)
        place = rng.randrange(len(damaged))
        damaged[place] ^= 1 << rng.randrange(8)
        (tmp_path / name).write_bytes(damaged)
        if name == "last.ckpt" and is_filling(whole, place):
            continue
        assert Path(name).stem in refused(tmp_path / name, photos, capsys)


def is_filling(archive: bytes, place: int) -> bool:
    """Whether a byte of a checkpoint is not content, but an unused field of the zip format, or padding."""
    path = Path(os.devnull).parent / "shm" if Path("/dev/shm").is_dir() else Path("/tmp")
    file = path / f"archive.{os.getpid()}"
    file.write_bytes(archive)
    try:
        with zipfile.ZipFile(file) as opened:
            for item in opened.infolist():
                header = struct.unpack_from("<HH", archive, item.header_offset + 26)
                start = item.header_offset + 30 + sum(header)
                if start <= place < start + item.file_size:
                    return False
        return True
    finally:
        file.unlink()


def test_halves_of_two_exports_are_not_taken_for_one(files: Path, trained: Engine, tmp_path: Path) -> None:
    shutil.copytree(files, tmp_path, dirs_exist_ok=True)
    content = bytearray((tmp_path / "exported_model.bin").read_bytes())
    content[:4] = struct.pack("<f", 1.0)
    (tmp_path / "exported_model.bin").write_bytes(content)
    with pytest.raises(ModelError, match=r"exported_model\.bin is that of another export"):
        load_predictor(tmp_path / "exported_model.xml")


@pytest.mark.slow
def test_an_export_killed_between_its_two_files_is_completed(files: Path, trained: Engine, tmp_path: Path) -> None:
    """Two files cannot be replaced in one step; the test sets up a kill in between, which timing would never hit."""
    shutil.copy(files / "exported_model.xml", tmp_path)
    old = bytearray((files / "exported_model.bin").read_bytes())
    old[:4] = struct.pack("<f", 1.0)
    (tmp_path / "exported_model.bin").write_bytes(old)
    program = (
        "import os, signal, sys; from pathlib import Path; from otx.cli import main\n"
        "move = Path.replace\n"
        "def replace(self, target):\n"
        "    if self.name == 'exported_model.xml': os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return move(self, target)\n"
        "Path.replace = replace\n"
        "main(sys.argv[1:])\n"
    )
    model = str(latest_run(trained.work_dir).model)
    arguments = ["export", "--checkpoint", model, "--work_dir", str(trained.work_dir), "--output", str(tmp_path)]
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, timeout=200)
    assert done.returncode == -signal.SIGKILL
    assert (tmp_path / "exported_model.bin").read_bytes() != bytes(old)
    images = [np.full((32, 32, 3), value, np.uint8) for value in (0, 100, 200)]
    found = load_predictor(tmp_path / "exported_model.xml", "cpu").logits(images)
    assert np.array_equal(found, load_predictor(files / "exported_model.xml", "cpu").logits(images))


@pytest.mark.parametrize("name", ["model.safetensors", "exported_model.xml", "exported_model.onnx"])
def test_a_flipped_bit_in_the_checksum_itself_is_damage_too(name: str, files: Path, tmp_path: Path) -> None:
    shutil.copytree(files, tmp_path, dirs_exist_ok=True)
    whole = (files / name).read_bytes()
    place = whole.index(f"{CHECKSUM_KEY}:".encode())
    for byte in range(place, place + len(EMPTY)):
        damaged = bytearray(whole)
        damaged[byte] ^= 1 << byte % 8
        # each a file of its own, since the answer for a file is remembered by its time, its size and its inode
        path = tmp_path / f"{byte}_{name}"
        path.write_bytes(damaged)
        if path.suffix == ".xml":
            shutil.copy(files / "exported_model.bin", path.with_suffix(".bin"))
        with pytest.raises(ModelError, match="is damaged"):
            verify_checksum(path)


def test_a_checksum_is_found_and_its_absence_is_no_error(tmp_path: Path) -> None:
    data = with_checksum(f'{{"{CHECKSUM_KEY}": "{EMPTY}"}} and more'.encode())
    assert EMPTY.encode() not in data
    assert with_checksum(data) == data
    for content in (data, b"none at all", b""):
        (tmp_path / "file.onnx").write_bytes(content)
        verify_checksum(tmp_path / "file.onnx")
    (tmp_path / "file.onnx").write_bytes(data.replace(b"more", b"less"))
    with pytest.raises(ModelError, match=r"file\.onnx is damaged: its content is not what otx wrote"):
        verify_checksum(tmp_path / "file.onnx")


@pytest.mark.parametrize("name", ["bomb.ckpt", "legacy.ckpt", "bare.ckpt"])
def test_a_malicious_pickle_runs_nothing(
    name: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = {"otx": Bomb(tmp_path / "boom"), "state_dict": {}}
    if name == "bare.ckpt":
        (tmp_path / name).write_bytes(pickle.dumps(content))
    else:
        torch.save(content, tmp_path / name, _use_new_zipfile_serialization=name == "bomb.ckpt")
    assert name in refused(tmp_path / name, photos, capsys)
    with pytest.raises(ModelError, match=f"{name} cannot be read as weights"):
        load_weights(build_network("test_resnet", 2, 32, 32), tmp_path / name)
    data = write_classes(tmp_path / "data", {"a": 4, "b": 4})
    arguments = ["train", "--data_root", str(data), "--model.weights", str(tmp_path / name)]
    assert main([*arguments, "--work_dir", str(tmp_path / "ws"), "--model", "timm/test_resnet"]) == 2
    assert not (tmp_path / "boom").exists()
    assert not (tmp_path / "ws").exists()


def test_a_header_of_4_gigabytes_is_not_read(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "model.safetensors"
    for size in (16, 5 << 30):
        path.write_bytes(struct.pack("<Q", 4 << 30) + b"{}")
        os.truncate(path, size)
        assert "no safetensors file, or cut off" in refused(path, photos, capsys)
        with pytest.raises(ModelError, match="cannot be read as weights"):
            load_weights(build_network("test_resnet", 2, 32, 32), path)


def test_a_checkpoint_that_unpacks_to_gigabytes_is_not_unpacked(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "last.ckpt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("last/data.pkl", "w") as file:
        for _ in range(512):
            file.write(bytes(1 << 20))
    assert "it is compressed, which torch does not do" in refused(path, photos, capsys)


def test_an_ir_of_a_billion_laughs_is_refused(
    files: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    entities = "".join(f'<!ENTITY l{n + 1} "{f"&l{n};" * 10}">' for n in range(12))
    laughs = f'<?xml version="1.0"?><!DOCTYPE net [<!ENTITY l0 "ha">{entities}]><net>&l12;</net>'
    (tmp_path / "exported_model.xml").write_text(laughs)
    shutil.copy(files / "exported_model.bin", tmp_path)
    assert "exported_model.xml is damaged" in refused(tmp_path / "exported_model.xml", photos, capsys)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("!!python/object/apply:os.mkdir [TRACE]", "could not determine a constructor"),
        ("seed: !!python/object/new:os.mkdir [TRACE]", "could not determine a constructor"),
        ("a: &a [*a]", "unknown key 'a'"),
        ("max_epochs: &a [*a]", "'max_epochs' must be a whole number"),
        ("{", "not a readable YAML file"),
        ("seed: " + "9" * 5000, "not a readable YAML file"),
        ("seed: 2026-99-99", "not a readable YAML file"),
        ("? [a, b]\n: 1", "not a readable YAML file"),
        ("[" * 3000, "not a readable YAML file"),
        ("\x00", "not a readable YAML file"),
    ],
)
def test_a_hostile_recipe_is_refused(
    text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text.replace("TRACE", str(tmp_path / "boom")))
    started = time.process_time()
    assert main(["train", "--config", str(path), "--print_config"]) == 2
    assert time.process_time() - started < SECONDS
    assert message in capsys.readouterr().err
    assert not (tmp_path / "boom").exists()


@pytest.mark.parametrize("key", ["max_epochs", "data.mean", "nonsense", "data"])
def test_a_recipe_of_a_billion_laughs_is_refused_at_once(key: str, tmp_path: Path) -> None:
    lines = ["l0: &l0 [ha, ha]", *(f"l{n + 1}: &l{n + 1} [{', '.join([f'*l{n}'] * 9)}]" for n in range(12))]
    *sections, last = key.split(".")
    lines += [f"{section}:" for section in sections] + [f"{'  ' * len(sections)}{last}: *l12"]
    (tmp_path / "recipe.yaml").write_text("\n".join(lines))
    started = time.process_time()
    with pytest.raises(RecipeError, match="unknown key 'l0'") as caught:
        load_recipe(tmp_path / "recipe.yaml")
    assert time.process_time() - started < SECONDS
    assert len(str(caught.value)) < 10_000


def test_a_recipe_with_very_many_keys_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("".join(f"key{n}: 1\n" for n in range(5000)))
    started = time.process_time()
    with pytest.raises(RecipeError, match="unknown key 'key0'"):
        load_recipe(tmp_path / "recipe.yaml")
    assert time.process_time() - started < 3 * SECONDS


@pytest.mark.parametrize("text", ["2026-99-99", "a, [b", "9" * 5000, "!!python/object:os.x", "\x00", "[1, 2"])
def test_an_option_that_yaml_stumbles_over_stays_text(text: str) -> None:
    assert parse_text(text, int) == text


def edited(files: Path, folder: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """A model file whose card was changed with knowledge of the format."""
    card = json.loads(read_card(files / "model.safetensors").to_json())
    change(card)
    path = folder / "model.safetensors"
    save_file(load_file(files / "model.safetensors"), path, metadata={"otx": json.dumps(card)})
    return path


@pytest.mark.parametrize(
    "change",
    [
        lambda card: card.update(classes="abc"),
        lambda card: card.update(classes=[1, 2, 3]),
        lambda card: card.update(classes=[]),
        lambda card: card.update(network=5),
        lambda card: card.update(network="hf-hub:somebody/something"),
        lambda card: card.update(network="../../etc/passwd"),
        lambda card: card["preprocessing"].update(mean=[1.0]),
        lambda card: card["preprocessing"].update(height=-5),
        lambda card: card["preprocessing"].update(height=10**9, width=10**9),
        lambda card: card.update(recipe=[]),
        lambda card: card.update(recipe={"seed": "x", "data": 5}),
        lambda card: card.update(num_old="x"),
        lambda card: card.update(unknown=1),
        lambda card: card.clear(),
    ],
)
def test_a_card_that_makes_no_sense_is_refused(
    change: Callable[[dict[str, Any]], object],
    files: Path,
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = edited(files, tmp_path, change)
    assert "model.safetensors" in refused(path, photos, capsys)
    assert main(["test", "--checkpoint", str(path), "--work_dir", str(tmp_path)]) == 2


def test_a_card_nested_without_end_is_refused() -> None:
    with pytest.raises(ModelError, match="my.safetensors has a damaged otx header"):
        ModelCard.from_json("[" * 100_000, "my.safetensors")


@pytest.mark.parametrize("name", ["split.csv", "configs.yaml"])
def test_texts_with_flipped_bits_are_read_or_refused_in_words(
    name: str, trained: Engine, photos: Path, tmp_path: Path
) -> None:
    whole, rng = (latest_run(trained.work_dir).path / name).read_bytes(), random.Random(0)
    for _ in range(FLIPS):
        damaged = bytearray(whole)
        damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
        (tmp_path / name).write_bytes(damaged)
        engine = Engine(photos, overrides={"data.split_file": str(tmp_path / name)})
        model = latest_run(trained.work_dir).model
        try:
            if name == "configs.yaml":
                load_recipe(tmp_path / name)
            else:
                engine.explain(checkpoint=model, targets="none of them")
        except InputError as error:
            assert str(error)
