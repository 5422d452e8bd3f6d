"""A trained model says which images show none of its classes, and says the same in every kind of file."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import SMALL, SMALL_MODEL, Recorder
from images import write_classes
from otx import Engine
from otx.data.split_file import read_split
from otx.errors import UsageError
from otx.inference.predictor import load_predictor
from otx.model.modelfile import load_known, load_model, read_card, save_model
from otx.networks.build import build_network
from otx.networks.weights import load_weights
from otx.workspace import latest_run

OLD_MODEL = Path(__file__).parents[1] / "old" / "run" / "model.safetensors"
KINDS = ("model.safetensors", "exported_model.xml")


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A black, a white and a noisy picture, which are unlike the noise in the colours of three classes."""
    folder = tmp_path_factory.mktemp("others")
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    pictures = {"black": np.zeros_like(noise), "noise": noise, "white": np.full_like(noise, 255)}
    for name, pixels in pictures.items():
        Image.fromarray(pixels).save(folder / f"{name}.png")
    return folder


def val_images(trained: Engine) -> list[Path]:
    rows = read_split(latest_run(trained.work_dir).split)
    return [Path(trained.recipe.data_root or "", path) for _, path, _, subset in rows if subset == "val"]


def test_known_is_the_same_in_pytorch_and_openvino(trained: Engine, files: Path, others: Path) -> None:
    sources = [others, *val_images(trained)]
    answers = [[item.known for item in trained.predict(sources, checkpoint=files / kind)] for kind in KINDS]
    assert answers[0] == answers[1]
    onnx = trained.predict(sources, checkpoint=files / "exported_model.onnx")
    assert {item.known for item in onnx} == {None}
    assert answers[0][2] is False, "the white picture"
    assert all(answers[0][3:])


def test_the_scores_of_exported_files_are_the_models(files: Path, pictures: list[np.ndarray]) -> None:
    pictures = [load_predictor(files / KINDS[0]).card.preprocessing.resize(picture) for picture in pictures]
    expected, *found = (load_predictor(files / kind).scored(pictures)[1] for kind in KINDS)
    for scores in found:
        np.testing.assert_allclose(scores, expected, rtol=1e-3, atol=1e-3)


def test_the_limit_keeps_the_share_of_the_validation_images(trained: Engine, files: Path) -> None:
    assert np.mean([item.known for item in trained.predict(val_images(trained))]) >= 0.95
    assert read_card(files / KINDS[1]).unknown_limit == read_card(files / KINDS[0]).unknown_limit


def test_unknown_images_are_rejected_on_request(trained: Engine, others: Path, tmp_path: Path) -> None:
    (item,) = trained.predict(others / "white.png", reject=True, output=tmp_path / "answers.csv")
    assert (item.label, item.known) == ("unknown", False)
    assert (tmp_path / "answers.csv").read_text().splitlines()[1].endswith(",false")
    trained.predict(others / "white.png", output=tmp_path / "answers.json")
    (row,) = json.loads((tmp_path / "answers.json").read_text())
    assert row["label"] in ("blue tit", "cat", "ähre")
    assert row["known"] is False


def test_a_test_measures_how_well_other_things_are_told_apart(trained: Engine, others: Path, photos: Path) -> None:
    known = trained.predict([others])
    result = trained.test(unknown=others).unknown
    assert result is not None
    assert (result.num_images, result.folder) == (3, others.resolve())
    assert result.let_through == pytest.approx(np.mean([item.known for item in known]))
    assert trained.test(unknown=photos / "cat").unknown.auroc < result.auroc  # type: ignore[union-attr]


@pytest.mark.parametrize(("kind", "lost"), [("ONNX", ["--export_format OPENVINO keeps it"]), ("OPENVINO", [])])
def test_an_export_without_the_score_says_so(
    trained: Engine, tmp_path: Path, recorder: Recorder, kind: str, lost: list[str]
) -> None:
    model = latest_run(trained.work_dir).model
    Engine(checkpoint=model, work_dir=tmp_path, reporter=recorder).export(output=tmp_path, export_format=kind)
    said = [note for note in recorder.notes if note.startswith("`known` of its predictions will be empty")]
    assert len(said) == len(lost) and all(text in note for text, note in zip(lost, said, strict=True))


def test_a_deploy_folder_says_it_too(trained: Engine, others: Path, tmp_path: Path) -> None:
    trained.export(output=tmp_path, deploy=tmp_path / "deploy", explain=True)
    program = [sys.executable, tmp_path / "deploy" / "predict.py", others / "white.png"]
    done = subprocess.run(program, capture_output=True, text=True, timeout=200, check=True)
    assert done.stdout.endswith("%), but probably not one of the classes it knows\n")


@pytest.mark.parametrize("is_probed", [False, True])
def test_a_class_whose_training_images_are_all_broken_leaves_no_limit_and_it_is_said(
    is_probed: bool, weights: Path, tmp_path: Path, recorder: Recorder
) -> None:
    for number, subset in enumerate(("train", "val")):
        write_classes(tmp_path / "data" / subset, {"ant": 12, "bee": 6, "cow": 12}, seed=number)
    for path in (tmp_path / "data" / "train" / "bee").iterdir():
        path.write_bytes(path.read_bytes()[:100])
    begun = {"model.weights": str(weights), "max_epochs": 0} if is_probed else {"max_epochs": 1}
    changes = {**SMALL, "data.check_images": False, **begun}
    engine = Engine(
        tmp_path / "data", model=SMALL_MODEL, work_dir=tmp_path / "ws", overrides=changes, reporter=recorder
    )
    engine.train()
    assert recorder.notes[-1] == (
        "`known` of its predictions will be empty: no training image of bee that was looked at can be decoded."
    )
    assert read_card(latest_run(engine.work_dir).model).unknown_limit is None
    assert {item.known for item in engine.predict(tmp_path / "data" / "val")} == {None}


@pytest.mark.slow
def test_an_int8_file_has_a_limit_of_its_own(trained: Engine, tmp_path: Path) -> None:
    file = trained.optimize(output=tmp_path, subset_size=20).path
    assert read_card(file).unknown_limit != read_card(latest_run(trained.work_dir).model).unknown_limit
    # the image at the limit may lie on either side: the resize of a prediction rounds in another place
    known = [item.known for item in trained.predict(val_images(trained), checkpoint=file)]
    assert sum(known) >= len(known) - 1


@pytest.mark.parametrize("is_lost", [False, True])
def test_a_model_without_a_limit_or_what_its_score_is_computed_from_cannot_tell(
    is_lost: bool, files: Path, others: Path, tmp_path: Path
) -> None:
    source, path = files / KINDS[0], tmp_path / "model.safetensors"
    network, card = load_model(source)
    limit = card.unknown_limit if is_lost else float("nan")
    save_model(path, network.state_dict(), replace(card, unknown_limit=limit), None if is_lost else load_known(source))
    assert read_card(path).unknown_limit is None
    engine = Engine(checkpoint=path, work_dir=tmp_path)
    assert {item.known for item in engine.predict(others)} == {None}
    for refused in (lambda: engine.predict(others, reject=True), lambda: engine.test(unknown=others)):
        with pytest.raises(UsageError, match="cannot tell what it knows"):
            refused()
    assert {item.known for item in engine.predict(others, checkpoint=engine.export(output=tmp_path).path)} == {None}


def test_an_older_model_says_how_to_get_it(recorder: Recorder, others: Path) -> None:
    engine = Engine(checkpoint=OLD_MODEL, reporter=recorder)
    assert [item.known for item in engine.predict(others)] == [None, None, None]
    assert "`known` is empty" in recorder.notes[-1]
    assert "train again" in recorder.notes[-1]
    with pytest.raises(UsageError, match="cannot tell what it knows"):
        engine.predict(others, reject=True)


def test_a_model_file_is_still_a_file_of_weights(trained: Engine) -> None:
    model = latest_run(trained.work_dir).model
    known = load_known(model)
    assert known is not None
    assert sum(value.nbytes for value in known.tensors().values()) <= 2_000_000
    network = build_network(read_card(model).network, 5, 32, 32)
    assert load_weights(network, model).startswith("weights file model.safetensors")
