"""Saliency maps show where the object is, and are the same in PyTorch, OpenVINO, ONNX Runtime and ModelAPI."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from conftest import SMALL
from otx import Engine
from otx.data.preprocessing import Preprocessing
from otx.errors import UsageError
from otx.export.export import ExportRequest, export_model
from otx.inference.classify import softmax
from otx.inference.explain import file_names
from otx.inference.overlay import PANEL, draw_overlay
from otx.inference.predictor import load_predictor
from otx.inference.saliency import Explained, place_masks, stretch
from otx.model.card import ModelCard
from otx.model.modelfile import save_model
from otx.networks.build import build_network
from otx.workspace import latest_run

SIDE = 128
OBJECT = 32
COLOURS = {"blue": (40, 40, 220), "red": (220, 40, 40)}
SCENES = 50


def scene(rng: np.random.Generator, colour: tuple[int, int, int]) -> tuple[np.ndarray, int]:
    """A noisy image with a coloured square in one quadrant, and the number of the quadrant."""
    pixels = rng.normal(128, 40, (SIDE, SIDE, 3))
    quadrant, half = int(rng.integers(4)), SIDE // 2
    row, column = rng.integers(4, half - OBJECT - 4, 2) + half * np.array(divmod(quadrant, 2))
    pixels[row : row + OBJECT, column : column + OBJECT] = rng.normal(colour, 20, (OBJECT, OBJECT, 3))
    return pixels.clip(0, 255).astype(np.uint8), quadrant


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    """A network trained for seconds to tell red squares from blue ones."""
    root, rng = tmp_path_factory.mktemp("squares"), np.random.default_rng(0)
    for name, colour in COLOURS.items():
        (root / name).mkdir()
        for number in range(80):
            Image.fromarray(scene(rng, colour)[0]).save(root / name / f"{number:02}.png")
    changes = {
        "data.input_size": SIDE,
        "optimizer.name": "adamw",
        "optimizer.lr": 0.001,
        "max_epochs": 2,
        "data.train_subset.augmentation.scale": (0.8, 1.0),
    }
    engine = Engine(
        root, model="timm/resnet10t", work_dir=tmp_path_factory.mktemp("ws"), overrides={**SMALL, **changes}
    )
    assert engine.train().best_accuracy > 0.9
    return engine


@pytest.fixture(scope="module")
def scenes() -> tuple[list[np.ndarray], list[int]]:
    rng = np.random.default_rng(9)
    pairs = [scene(rng, list(COLOURS.values())[number % 2]) for number in range(SCENES)]
    return [pixels for pixels, _ in pairs], [quadrant for _, quadrant in pairs]


def maps_of(engine: Engine, images: list[np.ndarray], algorithm: str) -> tuple[np.ndarray, np.ndarray]:
    """The predicted classes, and their maps at the size of the images."""
    logits, maps = load_predictor(latest_run(engine.work_dir).model, "cpu").explain(images, algorithm)
    predicted = logits.argmax(axis=1)
    return predicted, np.stack(
        [cv2.resize(own[label], (SIDE, SIDE)) for own, label in zip(maps, predicted, strict=True)]
    )


@pytest.mark.parametrize("algorithm", ["recipro_cam", "activation_map"])
def test_a_map_has_twice_its_share_where_the_object_is(
    algorithm: str, squares: Engine, scenes: tuple[list[np.ndarray], list[int]]
) -> None:
    _, maps = maps_of(squares, scenes[0], algorithm)
    half = SIDE // 2
    shares = [
        own[half * (q // 2) : half * (q // 2 + 1), half * (q % 2) : half * (q % 2 + 1)].sum() / own.sum()
        for own, q in zip(maps, scenes[1], strict=True)
    ]
    assert np.mean(shares) > 0.5
    assert np.mean(np.array(shares) > 0.25) > 0.9


@pytest.mark.parametrize("algorithm", ["recipro_cam", "activation_map"])
def test_hiding_the_salient_tenth_costs_more_than_hiding_another(
    algorithm: str, squares: Engine, scenes: tuple[list[np.ndarray], list[int]]
) -> None:
    predictor = load_predictor(latest_run(squares.work_dir).model, "cpu")
    predicted, maps = maps_of(squares, scenes[0], algorithm)
    rng = np.random.default_rng(1)
    noise = [cv2.resize(rng.random((4, 4), np.float32), (SIDE, SIDE)) for _ in maps]

    def probability(images: list[np.ndarray]) -> np.ndarray:
        return softmax(predictor.logits(images))[np.arange(len(images)), predicted]

    def hide(image: np.ndarray, own: np.ndarray) -> np.ndarray:
        hidden = image.copy().reshape(-1, 3)
        hidden[np.argsort(-own.ravel(), kind="stable")[: SIDE * SIDE // 10]] = 128
        return hidden.reshape(image.shape)

    whole = probability(scenes[0])
    salient = whole - probability([hide(image, own) for image, own in zip(scenes[0], maps, strict=True)])
    random = whole - probability([hide(image, own) for image, own in zip(scenes[0], noise, strict=True)])
    assert salient.mean() > 0.05 + 2 * abs(random.mean())


@pytest.fixture(scope="module")
def exported(squares: Engine, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("exported")
    kinds = [("OPENVINO", "modelapi"), ("OPENVINO", "embedded"), ("ONNX", "modelapi")]
    return {
        f"{kind} {where}": squares.export(export_format=kind, preprocessing=where, explain=True, output=folder).path
        for kind, where in kinds
    }


@pytest.mark.parametrize("kind", ["OPENVINO modelapi", "OPENVINO embedded", "ONNX modelapi"])
def test_an_exported_file_gives_the_same_maps(
    kind: str, squares: Engine, exported: dict[str, Path], scenes: tuple[list[np.ndarray], list[int]]
) -> None:
    reference = load_predictor(latest_run(squares.work_dir).model, "cpu").explain(scenes[0][:5])
    logits, maps = load_predictor(exported[kind]).explain(scenes[0][:5])
    np.testing.assert_allclose(logits, reference[0], atol=1e-3)
    np.testing.assert_allclose(maps, reference[1], atol=1e-3)


@pytest.mark.filterwarnings("ignore")
def test_modelapi_reads_maps_and_feature_vectors(
    squares: Engine, exported: dict[str, Path], scenes: tuple[list[np.ndarray], list[int]]
) -> None:
    from model_api.models import ClassificationModel

    model = ClassificationModel.create_model(str(exported["OPENVINO modelapi"]), device="CPU")
    _, maps = load_predictor(exported["OPENVINO modelapi"]).explain(scenes[0][:1])
    answer = model(scenes[0][0])
    assert (answer.saliency_map.shape, answer.feature_vector.shape) == ((1, 2, 4, 4), (1, 512))
    np.testing.assert_allclose(answer.saliency_map, maps, atol=0.05)


def test_a_file_exported_without_maps_says_how_to_get_them(trained: Engine, photos: Path, tmp_path: Path) -> None:
    path = trained.export(output=tmp_path).path
    with pytest.raises(UsageError, match="gives no saliency maps\n  fix: export it again with --explain true"):
        trained.explain(photos / "cat", checkpoint=path)


def test_the_verb_writes_a_picture_and_a_raw_map_for_each_test_image(
    trained: Engine, recorder: Any, tmp_path: Path
) -> None:
    engine = Engine(work_dir=trained.work_dir, reporter=recorder)
    result = engine.explain(targets="true", output=tmp_path / "out")
    assert recorder.notes[-1] == "Explaining the 18 images of the test split."
    with (tmp_path / "out" / "explanations.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(result.explanations) == 18
    for row in rows:
        assert row["class"] == Path(row["path"]).parent.name
        with Image.open(tmp_path / "out" / row["overlay"]) as overlay:
            assert overlay.width == 2 * PANEL
        with Image.open(tmp_path / "out" / row["saliency_map"]) as image:
            raw = np.asarray(image)
        assert raw.dtype == np.uint16
        assert raw.shape == (1, 1)


@pytest.mark.parametrize(("targets", "count"), [("predicted", 1), ("all", 3), ("blue tit", 1)])
def test_targets_choose_the_classes(
    targets: str, count: int, trained: Engine, photos: Path, tmp_path: Path, pictures: list[np.ndarray]
) -> None:
    result = trained.explain(photos / "cat" / "000.png", targets=targets, output=tmp_path)
    assert len(result.explanations) == count
    assert len(list(tmp_path.rglob("*.overlay.png"))) == count
    if targets == "blue tit":
        assert result.explanations[0].label == "blue tit"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"targets": "blue ti"}, "no such class: did you mean 'blue tit'?"),
        ({"targets": "true"}, "needs images whose class is known"),
        ({"algorithm": "vit_recipro_cam"}, "does not suit MobileNetV3\n  allowed: recipro_cam, activation_map"),
        ({"algorithm": "cam"}, "--explain_config.algorithm"),
    ],
)
def test_what_cannot_be_explained_is_said(
    options: dict[str, str], message: str, trained: Engine, photos: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError) as error:
        trained.explain(photos / "cat" / "000.png", output=tmp_path, **options)
    assert message in str(error.value)


def test_names_that_climb_or_are_long_stay_in_the_folder(
    trained: Engine, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / "in" / ("ö" * 120 + ".png")
    long.parent.mkdir()
    long.write_bytes((photos / "cat" / "000.png").read_bytes())
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    result = trained.explain(["../in/" + long.name, str(long)], output="out")
    written = [path.resolve() for path in Path().rglob("*.overlay.png")]
    assert len(written) == len(set(written)) == len(result.explanations) == 2
    assert all(path.is_relative_to(tmp_path / "here" / "out") for path in written)


def test_classes_that_differ_in_a_sign_have_files_of_their_own() -> None:
    names = file_names(["C#", "C+", "c_", "blue tit", "cat"])
    assert names[3:] == ["blue_tit", "cat"]
    assert len({name.casefold() for name in names}) == 5


def test_an_image_that_is_broken_is_reported_and_the_others_explained(
    trained: Engine, photos: Path, tmp_path: Path
) -> None:
    result = trained.explain([photos / "cat" / "broken.jpg", photos / "cat" / "000.png"], output=tmp_path)
    assert [bool(e.error) for e in result.explanations] == [True, False]


@pytest.mark.parametrize("network", ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "convnext_atto"])
def test_networks_of_other_kinds_are_explained(network: str) -> None:
    size = 224 if network.startswith("swin") else 64
    model = build_network(network, 3, size, size).eval()
    explained = Explained(model)
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        logits, maps, features = explained(images)
        torch.testing.assert_close(logits, model(images))
    assert explained.algorithm == ("vit_recipro_cam" if network.startswith("vit") else "recipro_cam")
    assert maps.shape[:2] == (2, 3)
    assert len(features) == 2
    assert (float(maps.min()), float(maps.max())) == (0.0, pytest.approx(1.0))
    flat = Explained(model, "activation_map")(images)[1]
    assert torch.equal(flat[:, 0], flat[:, 1])


def test_a_network_without_a_map_of_features_is_said() -> None:
    explained = Explained(build_network("mixer_s32_224", 3, 224, 224).eval())
    with pytest.raises(UsageError, match="MlpMixer has no map of features"):
        explained(torch.zeros(1, 3, 224, 224))


def test_a_network_without_a_map_of_features_is_not_exported_with_maps(tmp_path: Path) -> None:
    network = build_network("mixer_s32_224", 3, 224, 224)
    size = Preprocessing(224, 224, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    save_model(tmp_path / "m.safetensors", network.state_dict(), ModelCard("mixer_s32_224", ("a", "b", "c"), size, ""))
    with pytest.raises(UsageError, match="MlpMixer has no map of features"):
        export_model(
            tmp_path / "m.safetensors",
            tmp_path,
            ExportRequest(explain="auto"),
            [],
        )


def test_a_mask_is_the_gaussian_of_the_paper() -> None:
    masks = place_masks(3, 4)
    expected = torch.zeros(3, 4)
    expected[:, :3] = torch.tensor([[1, 2, 1], [2, 4, 2], [1, 2, 1]]) / 16
    assert masks.shape == (12, 3, 4)
    assert torch.equal(masks[4 + 1], expected)
    assert torch.equal(masks[0, :2, :2], torch.tensor([[4, 2], [2, 1]]) / 16)


def test_maps_are_stretched_and_flat_ones_are_zero() -> None:
    maps = torch.stack([torch.tensor([[2.0, 4.0], [6.0, 3.0]]), torch.full((2, 2), 7.0)])
    assert torch.equal(stretch(maps), torch.tensor([[[0, 0.5], [1, 0.25]], [[0, 0], [0, 0]]]))


def test_an_overlay_shows_the_image_and_its_heat_beside_it() -> None:
    pixels = np.full((50, 100, 3), 128, np.uint8)
    sheet = np.asarray(draw_overlay(pixels, np.array([[0, 1]], np.float32), ["a rose: 97.0%"]))
    assert sheet.shape[1] == 2 * PANEL
    assert (sheet[100, 100] == 128).all()
    cold, hot = sheet[100, PANEL + 10], sheet[100, 2 * PANEL - 10]
    assert (cold == 128).all(), "the photo as it is"
    assert hot[0] > hot[2]
    assert (sheet[PANEL // 2 :, :PANEL] < 100).any(), "the caption is below"
