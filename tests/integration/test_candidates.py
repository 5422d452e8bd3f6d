"""`--model auto`: the network is chosen by its features, and the run names it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_digits

from conftest import SMALL, Recorder
from otx import Engine
from otx.catalogue import load_recipe
from otx.cli import main
from otx.errors import ModelError
from otx.model.modelfile import read_card
from otx.networks.weights_file import weights_in
from otx.training.candidates import cross_validated
from otx.workspace import RunFolder

AUTO = {**SMALL, "model.pretrained": True, "max_epochs": 0}


@pytest.fixture(scope="module")
def weights(trained: Engine, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights that were trained on the photos, under a name that says nothing, and random ones of another network."""
    folder = tmp_path_factory.mktemp("weights")
    assert trained.checkpoint is not None
    state = load_file(trained.checkpoint)
    save_file(
        {name: value for name, value in state.items() if not name.startswith("unknown.")}, folder / "a.safetensors"
    )
    save_file(timm.create_model("resnet10t", num_classes=0).state_dict(), folder / "resnet10t.mine.safetensors")
    (folder / "readme.txt").write_text("where these are from")
    return folder


def test_the_network_with_the_best_features_is_trained(
    photos: Path, weights: Path, tmp_path: Path, recorder: Recorder
) -> None:
    overrides = {**AUTO, "model.weights": str(weights)}
    result = Engine(photos, model="auto", work_dir=tmp_path, overrides=overrides, reporter=recorder).train()
    recipe = load_recipe(RunFolder(result.run_dir).config)
    assert recipe.model.name == f"timm/{read_card(result.model_path).network}"
    assert Path(str(recipe.model.weights)).parent == weights
    (said,) = (note for note in recorder.notes if note.startswith("--model auto"))
    assert said.startswith(f"--model auto takes {recipe.model.name}") and "resnet10t" in said and "small" in said


def test_a_model_to_go_on_from_is_its_own_network(trained: Engine, photos: Path, tmp_path: Path) -> None:
    engine = Engine(photos, model="auto", work_dir=tmp_path, overrides={**SMALL, "max_epochs": 1})
    result = engine.train(checkpoint=trained.checkpoint)
    assert read_card(result.model_path).network == "mobilenetv3_small_100"


def test_a_folder_without_weights_is_refused(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "weights").mkdir()
    asked = ["--model", "auto", "--model.weights", str(tmp_path / "weights"), "--data_root", str(photos)]
    assert main(["train", *asked, "--work_dir", str(tmp_path)]) == 2
    assert "no file in" in capsys.readouterr().err


def test_one_file_of_weights_is_refused(photos: Path, weights: Path, tmp_path: Path) -> None:
    overrides = {**AUTO, "model.weights": str(weights / "a.safetensors")}
    with pytest.raises(ModelError, match="takes its weights from a folder"):
        Engine(photos, model="auto", work_dir=tmp_path, overrides=overrides).train()


def test_figures_are_of_images_that_the_classifier_was_not_fitted_to() -> None:
    pixels, labels = (part[:600] for part in load_digits(return_X_y=True))
    loss, accuracy = cross_validated((pixels.astype(np.float32), labels.astype(np.int64)), 10)
    random = np.random.default_rng(0).normal(size=pixels.shape).astype(np.float32)
    assert 0.85 < accuracy < 1 and 0 < loss < 1
    assert cross_validated((random, labels.astype(np.int64)), 10)[1] < 0.25


def test_files_of_other_tools_beside_the_weights_are_left_out_and_damaged_weights_are_not(tmp_path: Path) -> None:
    good, network = tmp_path / "resnet10t.pth", "resnet10t.second.pth"
    torch.save({"weight": torch.zeros(1)}, good)
    (tmp_path / "exported_model.bin").write_bytes(b"the weights of an IR")
    (tmp_path / "._resnet18.safetensors").write_bytes(b"what macOS leaves beside a file")
    assert weights_in(tmp_path) == [(good, "timm/resnet10t")]
    (tmp_path / network).write_bytes(good.read_bytes()[:50])
    with pytest.raises(ModelError, match=r"resnet10t\.second\.pth cannot be read as weights: it is cut off"):
        weights_in(tmp_path)
