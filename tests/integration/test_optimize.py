"""INT8 models: calibrated only on training images, measured on validation images, and complete in every verb."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import venv
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import pytest
import torch

import compile_spy
from conftest import SMALL, SMALL_MODEL, Recorder
from images import write_classes
from otx import Engine
from otx.child import CPUINFO
from otx.data.dataset import ImageSet, Subset, pick_evenly
from otx.data.load import load_dataset
from otx.data.preprocessing import Preprocessing
from otx.errors import DataError, UsageError
from otx.export.optimize import Int8Request, NetworkInputs, is_transformer, judge, optimize_model, precision_of
from otx.inference.predictor import load_predictor
from otx.inference.runtime import fix_batch, openvino_core, save_ir
from otx.inference.saliency import Explained
from otx.model.card import ModelCard
from otx.model.checksum import add_checksum
from otx.model.modelfile import read_card, save_model
from otx.networks.build import build_network
from otx.workspace import latest_run


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    """An engine trained on a folder with train/, val/ and test/."""
    root = tmp_path_factory.mktemp("photos")
    for number, (split, count) in enumerate((("train", 20), ("val", 6), ("test", 6))):
        write_classes(root / split, {"blue tit": count, "cat": count}, seed=number)
    # small steps: a network with extreme weights and lagging statistics changes its answers when it is rounded
    changes = {**SMALL, "optimizer.lr": 0.005}
    engine = Engine(root, model=SMALL_MODEL, work_dir=tmp_path_factory.mktemp("ws"), overrides=changes)
    engine.train(max_epochs=4)
    return engine


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What OpenVINO compiles in the tests of this file, in this process and in its children: see `compile_spy`."""
    with pytest.MonkeyPatch.context() as patch:
        yield compile_spy.watch(tmp_path_factory.mktemp("spy"), patch)


@pytest.fixture(scope="module")
def optimized(small: Engine, compiled: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return small.optimize(explain=True, subset_size=10, output=tmp_path_factory.mktemp("int8"))


def test_the_table_holds_every_precision_and_is_written_as_json(optimized: Any) -> None:
    assert [variant.precision for variant in optimized.variants] == ["FP32", "FP16", "INT8"]
    sizes = [variant.size_bytes for variant in optimized.variants]
    assert (
        sizes[0]
        > sizes[1]
        > sizes[2]
        == sum(optimized.path.with_suffix(suffix).stat().st_size for suffix in (".xml", ".bin"))
    )
    for variant in optimized.variants:
        assert 0 < variant.latency_ms <= variant.latency_p95_ms
        assert variant.images_per_second > 0
        assert 0 <= variant.top1 <= 1
    assert optimized.drop == pytest.approx(optimized.variants[0].top1 - optimized.variants[2].top1)
    assert json.loads(optimized.path.with_suffix(".json").read_text(encoding="utf-8")) == optimized.to_dict()
    assert (optimized.num_calibration, optimized.num_validation) == (10, 12)


def test_the_int8_file_carries_everything(small: Engine, optimized: Any) -> None:
    assert precision_of(optimized.path) == "INT8"
    card = read_card(optimized.path)
    assert card.explain == "recipro_cam"
    assert card.classes == read_card(latest_run(small.work_dir).model).classes
    float_file = small.export(explain=True, output=optimized.path.parent / "float").path
    keys = [
        {item.tag: item.get("value") for item in ElementTree.parse(path).iterfind("rt_info/model_info/*")}
        for path in (float_file, optimized.path)
    ]
    assert json.loads(keys[1].pop("optimization_config") or "") == {
        "preset": "mixed",
        "subset_size": 10,
        "max_drop": None,
    }
    assert keys[0].pop("optimization_config") == "{}"
    assert keys[0].pop("otx_seal") != keys[1].pop("otx_seal")
    cards = [json.loads(own.pop("otx") or "") for own in keys]
    # INT8 is calibrated anew, and its own scores give the limit of what is known
    assert cards[0] | {name: cards[1][name] for name in ("metrics", "temperature", "unknown_limit")} == cards[1]
    assert keys[0].pop("unknown_limit") != keys[1].pop("unknown_limit")
    assert keys[0] == keys[1]


def test_the_int8_file_works_in_every_verb(small: Engine, optimized: Any, tmp_path: Path) -> None:
    result = small.test(checkpoint=optimized.path)
    assert result.num_images == 12
    photos = sorted(Path(small.recipe.data_root or "", "test").rglob("*.png"))
    labels = [prediction.label for prediction in small.predict(photos, checkpoint=optimized.path)]
    hits = sum(path.parent.name == label for path, label in zip(photos, labels, strict=True))
    assert hits == round(12 * result.top1)
    explained = small.explain(checkpoint=optimized.path, output=tmp_path)
    assert len(explained.explanations) == 12


def test_saliency_maps_of_an_int8_file_are_numbers_where_they_are_flat(
    optimized: Any, pictures: list[np.ndarray]
) -> None:
    _, maps = load_predictor(optimized.path).explain(pictures)
    assert maps.shape[2:] == (1, 1)
    assert not maps.any()


def test_no_int8_network_is_compiled_with_a_free_dimension(
    small: Engine, optimized: Any, compiled: Path, tmp_path: Path
) -> None:
    """OpenVINO crashes on them on processors with AMX (openvinotoolkit/openvino#37577)."""
    older = with_batch(optimized.path, -1, tmp_path / "older.xml")
    photo = sorted(Path(small.recipe.data_root or "", "test").rglob("*.png"))[0]
    small.test(checkpoint=optimized.path)
    small.demo(checkpoint=older).close()
    for path in (optimized.path, older):
        small.predict(photo, checkpoint=path)
        small.explain(photo, checkpoint=path, output=tmp_path)
        load_predictor(path).features([np.zeros((50, 40, 3), np.uint8)])
    of_three = small.optimize(max_drop=0.0, subset_size=4, batch_size=3, output=tmp_path)
    assert batch_of(of_three.path) == 3
    models = compile_spy.read(compiled)
    assert not [model for model in models if model["is_int8"] and model["free"]]
    assert len([model for model in models if model["is_int8"]]) > 12
    assert len({model["pid"] for model in models if model["is_int8"]}) > 3
    assert [model for model in models if model["free"]]  # float models and the resize may


def test_only_the_int8_file_has_a_fixed_batch(small: Engine, optimized: Any, tmp_path: Path) -> None:
    assert batch_of(small.export(output=tmp_path).path) == -1
    assert batch_of(small.export(output=tmp_path, export_precision="FP16").path) == -1
    assert batch_of(optimized.path) == 1


def batch_of(path: Path) -> int:
    """The batch size of an IR that takes images of 32x32; -1 if it is dynamic."""
    batch, *others = openvino_core().read_model(path).input().partial_shape
    assert [side.get_length() for side in others] == [3, 32, 32]
    return batch.get_length() if batch.is_static else -1


@pytest.mark.parametrize("batch", [-1, 3])
def test_a_file_of_another_batch_gives_the_same_answers(optimized: Any, batch: int, tmp_path: Path) -> None:
    pictures = [np.random.default_rng(seed).integers(0, 256, (40, 50, 3), dtype=np.uint8) for seed in range(4)]
    other = with_batch(optimized.path, batch, tmp_path / "other.xml")
    for one, two in zip(*(load_predictor(path).explain(pictures) for path in (optimized.path, other)), strict=True):
        np.testing.assert_array_equal(one, two)


def with_batch(path: Path, batch: int, target: Path) -> Path:
    """An INT8 file with another batch size; earlier versions of otx wrote a dynamic one."""
    model = openvino_core().read_model(path)
    fix_batch(model, batch)
    save_ir(model, target, half=False)
    add_checksum(target)
    return target


def test_a_crash_while_it_is_measured_is_said_and_leaves_what_was_there(
    small: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spy, output = tmp_path / "spy", tmp_path / "int8"
    spy.mkdir()
    output.mkdir()
    (output / "optimized_model.xml").write_text("the old one")
    for name, value in compile_spy.environment(spy, crash="FakeQuantize").items():
        monkeypatch.setenv(name, value)
    asked = ["optimize", "--work_dir", small.work_dir, "--subset_size", "4", "--output", output]
    done = subprocess.run(
        [sys.executable, "-m", "otx", *map(str, asked)], capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 1, done.stderr
    said = r"openvino 20[\d.]+ crashed \(SIGSEGV\) when (quantising|measuring the accuracy of) .*_model.xml\n  fix: "
    assert re.search(said, done.stderr)
    assert "Traceback" not in done.stderr
    assert [path.name for path in output.iterdir()] == ["optimized_model.xml"]
    assert (output / "optimized_model.xml").read_text() == "the old one"


@pytest.mark.skipif("amx_int8" not in (CPUINFO.read_text() if CPUINFO.is_file() else ""), reason="needs AMX")
def test_an_int8_file_of_a_small_input_runs_on_a_processor_with_amx(tmp_path: Path) -> None:
    run_int8_everywhere(tmp_path)


def run_int8_everywhere(folder: Path) -> None:
    """Run every verb on an INT8 file whose network and size used to crash, each in a process of its own."""
    photos = write_classes(folder / "photos", {"blue tit": 20, "cat": 20})
    work, photo = ["--work_dir", folder / "ws"], next(photos.rglob("*.png"))
    network = ["--model", "timm/mobilenetv4_conv_small", "--model.pretrained", "false", "--data.input_size", "64"]
    run_otx("train", "--data_root", photos, *network, "--max_epochs", "1", "--report", "false", *work)
    run_otx("optimize", "--explain", "--subset_size", "10", "--output", folder, *work)
    file = ["--checkpoint", folder / "optimized_model.xml"]
    run_otx("test", *file, *work)
    run_otx("predict", photo, *file, *work)
    run_otx("explain", photo, *file, *work)
    run_otx("optimize", "--max_drop", "0", "--subset_size", "10", "--output", folder / "controlled", *work)
    for program in (PLAIN, MODELAPI):
        run_python(program, folder / "optimized_model.xml")


PLAIN = """
import sys, numpy, openvino
model = openvino.Core().compile_model(sys.argv[1], "CPU")
model(numpy.zeros((1, 3, 64, 64), numpy.float32))
"""
MODELAPI = """
import sys, numpy
from model_api.models import ClassificationModel
model = ClassificationModel.create_model(sys.argv[1], device="CPU")
model(numpy.zeros((50, 80, 3), numpy.uint8))
"""


def run_otx(*asked: object) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "otx", *map(str, asked)], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, (asked, done.returncode, done.stderr)


def run_python(program: str, path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", program, path], capture_output=True, timeout=100, check=False)
    assert done.returncode == 0, (program, done.returncode, done.stderr)


@pytest.mark.filterwarnings("ignore")
def test_modelapi_gives_the_labels_of_the_int8_file(small: Engine, optimized: Any) -> None:
    from model_api.adapters import OpenvinoAdapter, create_core
    from model_api.models import ClassificationModel

    exact = {"INFERENCE_PRECISION_HINT": "f32"}
    theirs = ClassificationModel.create_model(OpenvinoAdapter(create_core(), str(optimized.path), plugin_config=exact))
    ours = load_predictor(optimized.path)
    rng = np.random.default_rng(0)
    for height, width in ((32, 32), (50, 81), (20, 16)):
        picture = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        assert theirs(picture).top_labels[0].id == ours.logits([picture]).argmax()
    # ModelAPI puts a resize from any size in front; the rest is as static as the file
    nodes = theirs.inference_adapter.compiled_model.get_runtime_model().get_ordered_ops()
    ports = [(node, port) for node in nodes for port in node.outputs()]
    kinds = [(n.get_rt_info()["layerType"].astype(str), port.get_partial_shape().is_dynamic) for n, port in ports]
    assert {kind for kind, is_free in kinds if is_free}.isdisjoint({"Convolution", "FullyConnected"})
    assert {kind for kind, is_free in kinds if not is_free} >= {"Convolution", "FullyConnected"}


@pytest.mark.slow
def test_no_test_image_is_read_and_no_validation_image_calibrates(
    small: Engine, optimized: Any, tmp_path: Path
) -> None:
    root = tmp_path / "photos"
    shutil.copytree(Path(small.recipe.data_root or ""), root)
    for split in ("test", "val"):
        for path in (root / split).rglob("*.png"):
            path.write_text("unreadable")
    dataset = load_dataset(root)
    card = read_card(optimized.path)
    images = ImageSet(root, pick_evenly(dataset.train, 10, 0), "training split", 10**6)
    calibration = NetworkInputs(images, card.preprocessing)
    assert len(list(calibration)) == 10
    assert set(images.subset.paths) <= set(dataset.train.paths)
    model = latest_run(small.work_dir).model
    with pytest.raises(DataError, match="none of the 12 images of the validation split can be decoded"):
        Engine(root, work_dir=tmp_path / "ws").optimize(checkpoint=model, subset_size=10, output=tmp_path)
    assert not (tmp_path / "optimized_model.xml").exists()
    shutil.rmtree(root / "val")
    shutil.copytree(Path(small.recipe.data_root or "") / "val", root / "val")
    again = Engine(root, work_dir=tmp_path / "ws").optimize(checkpoint=model, subset_size=10, output=tmp_path)
    assert again.variants[2].top1 == optimized.variants[2].top1


@pytest.mark.slow
def test_accuracy_control_keeps_the_limit(small: Engine, tmp_path: Path) -> None:
    result = small.optimize(max_drop=0.0, subset_size=10, output=tmp_path)
    assert result.drop <= 0.0
    assert load_predictor(result.path).card.explain == ""


@pytest.mark.parametrize(
    ("drop", "max_drop", "said"),
    [
        (0.021, None, "INT8 loses 0.0210 of the FP32 accuracy on the validation images. --max_drop 0.01 turns layers"),
        (0.03, 0.01, "more than --max_drop 0.01"),
        (0.02, None, None),
        (0.01, 0.01, None),
    ],
)
def test_a_drop_is_said_with_the_option_that_limits_it(
    drop: float, max_drop: float | None, said: str | None, optimized: Any, recorder: Recorder
) -> None:
    judge(replace(optimized, drop=drop, max_drop=max_drop), recorder)
    assert bool(recorder.warnings) == bool(said)
    assert said is None or said in recorder.warnings[0]


@pytest.mark.slow
def test_the_last_export_is_what_is_optimized(small: Engine, recorder: Recorder, tmp_path: Path) -> None:
    exported = small.export(export_precision="FP16", output=tmp_path / "fp16").path
    exported.replace(exported.with_name("exported_model.xml"))
    exported.with_suffix(".bin").replace(exported.with_name("exported_model.bin"))
    result = Engine(work_dir=small.work_dir, reporter=recorder).optimize(subset_size=4, output=tmp_path)
    assert recorder.notes[0] == f"Model: {tmp_path / 'fp16' / 'exported_model.xml'}"
    assert [variant.precision for variant in result.variants] == ["FP16", "INT8"]


def test_what_cannot_be_optimized_is_said(small: Engine, optimized: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is INT8 already"):
        small.optimize(checkpoint=optimized.path, output=tmp_path)
    onnx = small.export(export_format="ONNX", output=tmp_path).path
    with pytest.raises(UsageError, match="is neither an IR nor a model file"):
        small.optimize(checkpoint=onnx, output=tmp_path)
    embedded = small.export(preprocessing="embedded", output=tmp_path).path
    with pytest.raises(UsageError, match="was exported with --preprocessing embedded"):
        small.optimize(checkpoint=embedded, output=tmp_path)
    plain = small.export(output=tmp_path).path
    with pytest.raises(UsageError, match=r"--explain: .*exported_model\.xml has no saliency maps"):
        small.optimize(checkpoint=plain, explain=True, output=tmp_path)
    with pytest.raises(UsageError, match="--max_drop 2: must be from 0 to 1"):
        small.optimize(max_drop=2.0)
    with pytest.raises(UsageError, match="--subset_size 0: must be at least 1"):
        small.optimize(subset_size=0)
    with pytest.raises(UsageError, match="--batch_size 0: must be at least 1"):
        small.optimize(batch_size=0)


def test_calibration_images_are_stratified_and_seeded() -> None:
    images = Subset(tuple(f"{number:03}" for number in range(100)), tuple([0] * 90 + [1] * 7 + [2] * 3))
    chosen = pick_evenly(images, 20, seed=1)
    assert np.bincount(chosen.labels).tolist() == [10, 7, 3]
    assert chosen == pick_evenly(images, 20, seed=1) != pick_evenly(images, 20, seed=2)
    assert len(pick_evenly(images, 1000, seed=1)) == 100


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("count", [2, 300])
def test_two_classes_and_three_hundred_keep_their_names(count: int, trained: Engine, tmp_path: Path) -> None:
    from model_api.models import ClassificationModel

    own = read_card(latest_run(trained.work_dir).model)
    classes = tuple(f"kind {number}" for number in range(count))
    card = ModelCard(own.network, classes, own.preprocessing, "random weights", own.recipe)
    network = build_network(own.network, count, own.preprocessing.height, own.preprocessing.width)
    save_model(tmp_path / "model.safetensors", network.state_dict(), card)
    path = Engine(work_dir=tmp_path).export(checkpoint=tmp_path / "model.safetensors", explain=True).path
    assert read_card(path).classes == classes
    model = ClassificationModel.create_model(str(path), device="CPU")
    picture = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    answer = model(picture)
    best = int(load_predictor(path).logits([picture]).argmax())
    assert model.params.labels == [name.replace(" ", "_") for name in classes]
    assert answer.saliency_map.shape[:2] == (1, count)
    assert answer.raw_scores.shape == (count,)
    assert answer.top_labels[0].id == best or answer.raw_scores[best] == pytest.approx(
        answer.raw_scores.max(), rel=0.01
    )


@pytest.mark.slow
def test_a_deploy_folder_runs_with_its_own_packages_alone(trained: Engine, tmp_path: Path) -> None:
    folder = tmp_path / "to go"
    trained.export(output=tmp_path, deploy=folder)
    assert len((folder / "predict.py").read_text(encoding="utf-8").splitlines()) <= 36
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    install = [python, "-m", "pip", "install", "--quiet", "-r", folder / "requirements.txt"]
    if subprocess.run(install, capture_output=True, timeout=400, check=False).returncode:
        pytest.skip("pip cannot reach its index")
    done = subprocess.run(
        [python, "predict.py", "sample.png"], cwd=folder, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    assert f"```text\n{done.stdout}```" in (folder / "README.md").read_text(encoding="utf-8")


def test_a_deploy_folder_overwrites_nothing(trained: Engine, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match="there is something already\n  fix: name a new or an empty folder"):
        trained.export(output=tmp_path, deploy=tmp_path)
    with pytest.raises(UsageError, match="--deploy writes an IR for openvino-model-api"):
        trained.export(output=tmp_path, deploy=tmp_path / "new", export_format="ONNX")


def test_cores_that_come_and_go_do_not_crash_the_next_signal() -> None:
    program = (
        "import os, signal, numpy, openvino; from openvino import opset13\n"
        "from otx.signals import drop_signal_stack\n"
        "signal.signal(signal.SIGCHLD, lambda *_: None)\n"
        "def core():\n"
        "    own, given = openvino.Core(), opset13.parameter([1], numpy.float32)\n"
        "    return own, own.compile_model(openvino.Model([opset13.relu(given)], [given], 'm'), 'CPU')\n"
        "first = core(); second = core(); del first; del second\n"
        "drop_signal_stack()\n"
        "os.kill(os.getpid(), signal.SIGCHLD)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=60, check=False)
    assert done.returncode == 0


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("network", ["mobilenetv3_small_100", "deit_tiny_patch16_224"])
def test_saliency_maps_do_not_make_a_transformer_of_a_network(network: str) -> None:
    explained = Explained(build_network(network, 2, 32, 32).eval())
    model = openvino.convert_model(explained, example_input=torch.zeros(2, 3, 32, 32))
    model.outputs[0].set_names({"logits"})
    assert is_transformer(model) == network.startswith("deit")


@pytest.mark.parametrize("split", ["training", "validation"])
def test_images_that_cannot_be_decoded_are_named_before_anything_is_quantised(
    split: str, tmp_path: Path, recorder: Recorder
) -> None:
    write_classes(tmp_path, {"ant": 2})
    (tmp_path / "ant" / "001.png").write_text("unreadable")
    size = Preprocessing(8, 8, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    good, bad = (
        NetworkInputs(ImageSet(tmp_path, Subset((f"ant/00{number}.png",), (0,)), "x", 10**6), size) for number in (0, 1)
    )
    request = Int8Request(*((bad, good) if split == "training" else (good, bad)))
    with pytest.raises(DataError, match=f"none of the 1 images of the {split} split can be decoded"):
        optimize_model({"FP32": tmp_path / "missing.xml"}, tmp_path / "out", request, recorder)
