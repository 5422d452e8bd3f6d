"""Model files are read back as they were written; damaged and hostile ones are refused."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from otx.errors import ModelError, UsageError
from otx.inference.predictor import load_predictor
from otx.model.card import ModelCard
from otx.model.modelfile import load_known, load_model, read_card, save_model

KINDS = ["model.safetensors", "last.ckpt", "exported_model.xml", "exported_model.onnx"]


def test_a_model_file_is_read_back_as_it_was_written(files: Path, tmp_path: Path) -> None:
    network, card = load_model(files / "model.safetensors")
    known, changed = load_known(files / "model.safetensors"), replace(card, metrics={"val/accuracy": 0.5})
    save_model(tmp_path / "again.safetensors", network.state_dict(), changed, known)
    again, card_again = load_model(tmp_path / "again.safetensors")
    assert card_again == changed
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize("name", KINDS)
def test_a_cut_off_file_is_refused(name: str, files: Path, tmp_path: Path) -> None:
    for file in files.iterdir():
        shutil.copy(file, tmp_path)
    damaged = tmp_path / name
    damaged.write_bytes(damaged.read_bytes()[: damaged.stat().st_size // 2])
    with pytest.raises(ModelError, match=name.replace(".", r"\.")):
        load_predictor(damaged)


@pytest.mark.parametrize("name", KINDS)
def test_a_file_of_noise_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(os.urandom(4000))
    (tmp_path / "exported_model.bin").write_bytes(b"")
    with pytest.raises(ModelError, match=name.replace(".", r"\.")):
        load_predictor(tmp_path / name)


def test_an_ir_without_its_other_half_says_so(files: Path, tmp_path: Path) -> None:
    shutil.copy(files / "exported_model.xml", tmp_path)
    with pytest.raises(ModelError, match=r"exported_model\.bin is missing: an IR is two files"):
        load_predictor(tmp_path / "exported_model.xml")


def test_a_file_of_weights_alone_says_how_to_use_it(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(2)}, tmp_path / "weights.safetensors")
    with pytest.raises(ModelError, match="holds weights, but no model card") as caught:
        read_card(tmp_path / "weights.safetensors")
    assert "--model.weights" in caught.value.fix


def test_a_checkpoint_cannot_run_code(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> Any:
            return (os.mkdir, (str(tmp_path / "boom"),))

    torch.save({"otx": Bomb(), "state_dict": {}}, tmp_path / "last.ckpt")
    with pytest.raises(ModelError, match=r"last\.ckpt is damaged, or no model file"):
        read_card(tmp_path / "last.ckpt")
    assert not (tmp_path / "boom").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace('"format": 1', '"format": 99'), "was written by another version of otx"),
        (lambda text: text.replace('"classes"', '"klasses"'), "has a damaged otx header"),
        (lambda text: "{", "has a damaged otx header"),
        (lambda text: "[]", "has a damaged otx header"),
    ],
)
def test_a_damaged_card_is_refused(change: Callable[[str], str], message: str, files: Path) -> None:
    text = read_card(files / "model.safetensors").to_json()
    assert ModelCard.from_json(text, "x") == read_card(files / "model.safetensors")
    with pytest.raises(ModelError, match=message):
        ModelCard.from_json(change(text), "my.safetensors")


def test_weights_of_another_network_under_the_card_are_refused(files: Path, tmp_path: Path) -> None:
    _, card = load_model(files / "model.safetensors")
    save_model(tmp_path / "model.safetensors", {"a": torch.zeros(2)}, card)
    with pytest.raises(ModelError, match="the weights in .* are not those of mobilenetv3_small_100"):
        load_model(tmp_path / "model.safetensors")


def test_other_files_and_devices_are_refused_with_what_there_is(files: Path, tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_bytes(b"")
    with pytest.raises(ModelError, match=r"model\.pt is no model file"):
        load_predictor(tmp_path / "model.pt")
    with pytest.raises(ModelError, match="no such model file"):
        load_predictor(tmp_path / "model.xml")
    if not torch.cuda.is_available():
        for name in KINDS:
            with pytest.raises(UsageError, match="--engine.device gpu"):
                load_predictor(files / name, "gpu")
