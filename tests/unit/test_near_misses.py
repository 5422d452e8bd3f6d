"""What people type who come from other tools is taken, or refused with what to type here."""

from __future__ import annotations

from pathlib import Path

import pytest

from otx.catalogue import load_recipe
from otx.cli import main, parser_of
from otx.engine import Engine
from otx.errors import RecipeError, UsageError
from otx.inference.predict import find_images
from otx.networks.table import MODELS, timm_networks
from otx.options import checked
from otx.recipe import Recipe, from_dict


@pytest.mark.parametrize("name", ["cuda", "CUDA", "cuda:0", "GPU"])
def test_the_gpu_may_have_its_other_names(name: str) -> None:
    assert Recipe().override({"engine.device": name}).engine.device == "gpu"


@pytest.mark.parametrize(("name", "taken"), [("16-mixed", "16"), ("BF16-mixed", "bf16"), ("fp32", "32"), ("16", "16")])
def test_a_precision_may_have_its_other_names(name: str, taken: str) -> None:
    assert Recipe().override({"precision": name}).precision == taken


def test_the_names_read_from_the_source_of_timm_are_its_networks() -> None:
    import timm

    assert timm_networks() == frozenset(timm.list_models())


@pytest.mark.parametrize("option", ["--model", "--config", "--model.name"])
def test_a_network_of_timm_is_taken_without_its_prefix(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", option, "resnet50.a1_in1k", "--print_config"]) == 0
    printed = capsys.readouterr()
    assert "name: timm/resnet50.a1_in1k" in printed.out
    assert printed.err == "resnet50.a1_in1k is a network of timm: taken as --model timm/resnet50.a1_in1k.\n"


def test_a_recipe_may_name_a_network_of_timm_without_its_prefix() -> None:
    assert from_dict({"model": {"name": "resnet50"}}, "my.yaml").model.name == "timm/resnet50"


def test_a_name_of_otx_wins_over_that_of_timm() -> None:
    shared = set(MODELS) & timm_networks()
    assert "efficientnet_b0" in shared
    assert {name: load_recipe(name).model.name for name in shared} == {name: name for name in shared}


@pytest.mark.parametrize("name", ["resnet_50", "resnt50"])
def test_what_is_almost_a_network_of_timm_is_refused_with_its_name(name: str) -> None:
    for refuse in (lambda: Engine(model=name), lambda: Engine(overrides={"model.name": name})):
        with pytest.raises(RecipeError, match=f"'{name}': did you mean 'resnet50'"):
            refuse()


def test_find_names_networks_of_timm_where_no_recipe_matches(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["find", "resnet"]) == 2
    assert "`otx train FOLDER --model resnet" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("word", "here"),
    [
        ("--imgsz", "--data.input_size"),
        ("--lr", "--optimizer.lr"),
        ("--epochs", "--max_epochs"),
        ("--batch-size", "--data.train_subset.batch_size"),
        ("--data", "--data_root"),
    ],
)
def test_an_option_of_another_tool_is_refused_with_its_name_here(word: str, here: str) -> None:
    with pytest.raises(UsageError, match=f"unknown argument '{word}': here it is '{here}'"):
        parser_of("train").parse([word, "1"])


@pytest.mark.parametrize(
    ("key", "end"),
    [
        ("max_epoch", "did you mean 'max_epochs'"),
        ("optimiser", "did you mean 'optimizer'"),
        ("batch_size", "here it is 'data.train_subset.batch_size'"),
        ("imgsz", "here it is 'data.input_size'"),
    ],
)
def test_an_unknown_key_of_a_recipe_is_named_with_its_neighbour(key: str, end: str) -> None:
    with pytest.raises(RecipeError, match=f"unknown key '{key}': {end}"):
        from_dict({key: 1}, "my.yaml")


def test_input_color_without_embedded_preprocessing_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "--input_color", "BGR"]) == 2
    assert "add --preprocessing embedded" in capsys.readouterr().err


def test_capitals_of_a_choice_do_not_count() -> None:
    given = dict.fromkeys(("checkpoint", "input_color", "explain", "algorithm", "output", "deploy"))
    options = {**given, "export_format": "onnx", "export_precision": "fp16", "preprocessing": "ModelAPI"}
    values = checked(Engine.export, options)
    chosen = [values[name] for name in ("export_format", "export_precision", "preprocessing")]
    assert chosen == ["ONNX", "FP16", "modelapi"]


@pytest.mark.parametrize(
    ("source", "what", "fix"),
    [
        ("https://example.com/a.jpg", "is an address", "download"),
        ("holiday.MP4", "is a video", "ffmpeg -i holiday.MP4"),
    ],
)
def test_addresses_and_videos_are_refused_with_what_to_do(source: str, what: str, fix: str) -> None:
    with pytest.raises(UsageError) as caught:
        list(find_images([source]))
    assert what in caught.value.what
    assert fix in caught.value.fix


def test_a_run_folder_stands_for_its_model(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").touch()
    given = {"data_root": None, "checkpoint": str(tmp_path), "output": None}
    assert checked(Engine.check, given)["checkpoint"] == tmp_path / "model.safetensors"
    assert Engine(checkpoint=tmp_path).checkpoint == tmp_path / "model.safetensors"


def test_a_run_that_has_no_model_yet_stands_for_its_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.ckpt").touch()
    given = {"preset": None, "checkpoint": tmp_path, "rename": None, "resume": True}
    assert checked(Engine.train, given)["checkpoint"] == tmp_path / "checkpoints" / "last.ckpt"


@pytest.mark.parametrize(("source", "found"), [("**", 3), ("*", 3), ("**/*.jpg", 3), ("clip.mov", 1), ("a", 1)])
def test_a_pattern_gives_each_image_once_and_passes_folders_without_any(
    source: str, found: int, tmp_path: Path
) -> None:
    for name in ("one.jpg", "a/two.jpg", "clip.mov/frame.jpg", "empty/notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    images = [path for path in find_images([tmp_path / source]) if not path.endswith(".txt")]
    assert len(images) == len(set(images)) == found


def test_a_pattern_of_folders_without_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="there is no image in the folders that '.*' matches"):
        list(find_images([tmp_path / "*"]))
