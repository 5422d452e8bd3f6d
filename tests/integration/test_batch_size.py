"""Out of memory is a readable error, and `auto` fills the memory. A network that refuses large batches mocks a GPU."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from conftest import SMALL, Recorder
from otx import Engine
from otx.catalogue import load_recipe, to_options
from otx.cli import main
from otx.errors import TrainingError
from otx.inference.predictor import TorchPredictor
from otx.memory import is_out_of_memory
from otx.recipe import Recipe
from otx.training.batch_size import largest_that_fits
from otx.training.module import Classifier
from otx.workspace import latest_run
from otx.yaml_text import dump_yaml

FORWARD = Classifier.forward
AUTO = {"data.train_subset.batch_size": "auto"}


def full(*_: Any) -> torch.OutOfMemoryError:
    return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def room_for(count: int, *, training: bool = True, evaluation: bool = True) -> Callable[..., torch.Tensor]:
    """A forward pass as on a GPU whose memory holds `count` images."""

    def forward(self: Classifier, images: torch.Tensor) -> torch.Tensor:
        limited = training if torch.is_grad_enabled() else evaluation
        if limited and len(images) > count:
            raise full()
        return FORWARD(self, images)

    return forward


def tiny(photos: Path, work_dir: Path, recorder: Recorder | None = None, **changes: Any) -> Engine:
    settings = {**SMALL, "max_epochs": 1, "data.check_images": False, **changes}
    return Engine(photos, model="timm/test_resnet", work_dir=work_dir, overrides=settings, reporter=recorder)


@pytest.mark.parametrize("room", [0, 1, 3, 4, 7, 8, 9, 63, 64, 100, 999, 1024, 5000])
@pytest.mark.parametrize("most", [1, 2, 5, 8, 21, 64, 300, 1024])
def test_the_search_finds_the_largest_batch_with_few_tries(room: int, most: int) -> None:
    asked: list[int] = []
    found = largest_that_fits(lambda count: asked.append(count) or count <= room, most)
    sizes = [size for size in (1, 2, 4, *range(8, most, 8), most) if size <= min(room, most)]
    assert found == max(sizes, default=0)
    assert len(asked) == len(set(asked)) <= 2 * math.log2(most) + 4
    assert max(asked) <= max(2 * max(room, 1), 8)


def test_auto_is_found_once_and_kept_in_the_run(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recorder: Recorder
) -> None:
    monkeypatch.setattr("otx.training.run.is_measured", lambda _: True)
    monkeypatch.setattr(Classifier, "forward", room_for(20))
    engine = tiny(photos, tmp_path / "ws", recorder, **AUTO, **{"data.val_subset.batch_size": 8})
    engine.train()
    # 18 images would leave a tenth of 20; the next multiple of eight is 16
    assert any("auto: 16 images a step; learning rate 0.05 -> 0.025, " in note for note in recorder.notes)
    kept = load_recipe(latest_run(tmp_path / "ws").config)
    assert (kept.data.train_subset.batch_size, kept.optimizer.lr) == (16, 0.025)
    monkeypatch.setattr("otx.training.run.fill_memory", lambda *_, **__: pytest.fail("it was looked for again"))
    again = Engine(work_dir=tmp_path / "ws", overrides={**AUTO, "max_epochs": 2, "report": False}, reporter=recorder)
    assert len(again.train(resume=True).epochs) == 2


def test_looking_for_a_batch_size_changes_nothing(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A training with `auto` ends like one that is given the numbers that `auto` finds."""
    told = tiny(photos, tmp_path / "told", **{"data.train_subset.batch_size": 16, "optimizer.lr": 0.025})
    monkeypatch.setattr("otx.training.run.is_measured", lambda _: True)
    monkeypatch.setattr(Classifier, "forward", room_for(20, evaluation=False))
    found = tiny(photos, tmp_path / "found", **AUTO)
    figures = [[(e.train_loss, e.val_loss, e.val_accuracy) for e in engine.train().epochs] for engine in (told, found)]
    assert figures[0] == figures[1]


def test_on_a_cpu_auto_is_the_default(photos: Path, tmp_path: Path) -> None:
    tiny(photos, tmp_path, **AUTO).train()
    kept = load_recipe(latest_run(tmp_path).config)
    assert (kept.data.train_subset.batch_size, kept.optimizer.lr) == (64, 0.05)


@pytest.mark.parametrize(
    ("forward", "changes", "message", "fix"),
    [
        (room_for(20), {}, "of 48 images of 32x32; 16 images would have fitted", "--data.train_subset.batch_size 16, "),
        (room_for(0), {}, "not suffice for a training step of a single image of 32x32", "--data.input_size"),
        (
            room_for(3, training=False),
            {},
            "it was the validation, or another program",
            "--data.val_subset.batch_size 4",
        ),
    ],
)
def test_out_of_memory_names_the_largest_batch_that_would_have_fitted(
    forward: Any,
    changes: dict[str, Any],
    message: str,
    fix: str,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Classifier, "forward", forward)
    sizes = {"data.train_subset.batch_size": 48, "data.val_subset.batch_size": 8}
    with pytest.raises(TrainingError, match=message) as caught:
        tiny(photos, tmp_path, **sizes, **changes).train()
    assert fix in caught.value.fix
    assert (caught.value.exit_code, caught.value.__context__) == (1, None)


def test_no_memory_of_the_machine_is_an_error_in_words(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def forward(self: Classifier, images: torch.Tensor) -> torch.Tensor:
        return torch.empty(1 << 50)

    monkeypatch.setattr(Classifier, "forward", forward)
    options = [f"--{key}={value}" for key, value in {**SMALL, "data.train_subset.batch_size": 32}.items()]
    command = ["train", "--data_root", str(photos), "--model", "timm/test_resnet", "--work_dir", str(tmp_path)]
    assert main([*command, *options]) == 1
    said = capsys.readouterr().err
    assert "this machine's memory does not suffice to train on 32 images of 32x32 at a time" in said
    assert "--data.train_subset.batch_size 16" in said
    assert "Traceback" not in said


def test_a_prediction_goes_on_with_as_many_images_as_fit(trained: Engine, pictures: list[np.ndarray]) -> None:
    predictor = TorchPredictor(latest_run(trained.work_dir).model, "cpu")
    expected, own, sizes = predictor.logits(pictures * 3), predictor._network, []

    def network(images: torch.Tensor) -> torch.Tensor:
        sizes.append(len(images))
        if len(images) > 2:
            raise full()
        return own(images)

    predictor._network = network
    assert np.allclose(predictor.logits(pictures * 3), expected, atol=1e-5)
    assert sizes == [9, 4, 2, 2, 2, 2, 1]
    predictor.logits(pictures)
    assert sizes[7:] == [2, 1]


def test_only_memory_is_taken_for_memory() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 50)
    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(full())
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_out_of_memory(ValueError("CUDA out of memory"))


def test_auto_survives_yaml_and_options(tmp_path: Path) -> None:
    recipe = Recipe().override(AUTO)
    (tmp_path / "recipe.yaml").write_text(dump_yaml(recipe))
    assert load_recipe(tmp_path / "recipe.yaml") == recipe
    options = to_options(recipe)
    assert options[options.index("--data.train_subset.batch_size") + 1] == "auto"
