"""What people type who come from other tools is taken, or refused with what to type here."""

from __future__ import annotations

from pathlib import Path

import pytest

from otx.engine import Engine
from otx.errors import UsageError
from otx.inference.predict import find_images
from otx.options import checked
from otx.recipe import Recipe


@pytest.mark.parametrize("name", ["cuda", "CUDA", "cuda:0", "GPU"])
def test_the_gpu_may_have_its_other_names(name: str) -> None:
    assert Recipe().override({"engine.device": name}).engine.device == "gpu"


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
