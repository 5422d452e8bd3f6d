"""`otx benchmark` measures every kind of file, in turns, and says what it cannot measure."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from conftest import Recorder
from images import write_noise
from otx import Engine
from otx.cli import main
from otx.errors import DataError, ModelError, RunError, UsageError
from otx.inference.footprint import memory_growth
from otx.inference.runners import load_runner, weights_of
from otx.inference.runtime import openvino_core
from otx.inference.timing import measure_in_turns
from otx.model.checksum import add_checksum
from otx.model.metadata import model_info
from otx.model.modelfile import read_card
from otx.results_machine import BenchmarkResult
from otx.signals import drop_signal_stack
from otx.verbs import benchmark as verb
from otx.verbs.benchmark import names_apart
from otx.verbs.probe import Crashed, NoAnswer, ask

QUICK = {"seconds": 0.02, "memory": False}
KINDS = ("exported_model.xml", "exported_model.onnx", "model.safetensors", "last.ckpt")


def quick(files: Path, *names: str, **options: Any) -> BenchmarkResult:
    return Engine(reporter=Recorder()).benchmark([files / name for name in names], **{**QUICK, **options})


@pytest.fixture(scope="module")
def embedded(trained: Engine, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained.export(preprocessing="embedded", output=tmp_path_factory.mktemp("embedded")).path


@pytest.fixture(scope="module")
def int8(files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A quantised IR, made from the export without measuring its accuracy."""
    import nncf
    import numpy as np
    import openvino

    source = files / "exported_model.xml"
    images = [np.random.default_rng(0).standard_normal((1, 3, 32, 32), np.float32)]
    small = nncf.quantize(openvino_core().read_model(source), nncf.Dataset(images), subset_size=1)
    drop_signal_stack()
    for key, value in model_info(read_card(source), embedded=False).items():
        small.set_rt_info(value, ["model_info", key])
    path = tmp_path_factory.mktemp("int8") / "optimized_model.xml"
    openvino.save_model(small, path)
    add_checksum(path)
    return path


def test_every_kind_of_file_is_measured_and_the_figures_fit_together(files: Path, tmp_path: Path) -> None:
    result = quick(files, *KINDS, batch=(1, 4), streams=("auto", 1), output=tmp_path / "figures.json")
    assert [file.name for file in result.files] == list(KINDS)
    assert [file.runtime.split()[0] for file in result.files] == ["OpenVINO", "ONNX", "PyTorch", "PyTorch"]
    for file in result.files:
        assert 0 < file.latency_ms <= file.latency_p95_ms
        assert file.num_timed >= result.rounds
        assert (file.input_size, file.computes_in, file.weights) == ((32, 32), "float32", "FP32")
        assert all(each.images_per_second and each.images_per_second > 0 for each in file.throughput)
    measured = [[(each.batch, each.streams) for each in file.throughput] for file in result.files]
    assert measured[0] == [(1, "auto"), (1, "1"), (4, "auto"), (4, "1")]
    assert measured[1] == measured[2] == [(1, ""), (4, "")]
    assert [each.requests for each in result.files[0].throughput][1::2] == [1, 1]
    assert json.loads((tmp_path / "figures.json").read_text(encoding="utf-8")) == result.to_dict()


def test_the_command_line_shows_tables_and_what_was_measured(
    files: Path, int8: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [str(files / "model.safetensors"), str(int8)]
    assert main(["benchmark", *given, "--seconds", "0.02", "--batch", "2", "--memory", "false"]) == 0
    shown = capsys.readouterr().out
    for words in ("FP32", "INT8", "latency", "batch 2", "PyTorch", "OpenVINO", "32x32 on CPU", "without decoding"):
        assert words in shown
    assert "computes in 8-bit integers and float32" in shown
    assert "The fastest for one image is" in shown


def test_an_int8_file_is_never_compiled_with_a_free_dimension(int8: Path, embedded: Path) -> None:
    """openvinotoolkit/openvino#37577: it would crash on processors with AMX."""
    assert weights_of(int8) == "INT8"
    for path in (int8, embedded):
        for batch, streams in ((1, None), (3, "auto")):
            assert load_runner(path, "CPU", batch, streams).noise().shape[0] == batch
    compiled: list[Any] = []
    core = openvino_core()

    class Watched:
        """The real core, which records what it compiles."""

        read_model = staticmethod(core.read_model)

        def compile_model(self, model: Any, *arguments: Any) -> Any:
            compiled.append(model)
            return core.compile_model(model, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("otx.inference.runners.openvino_core", Watched)
        load_runner(int8, "CPU", 3, "auto")
        load_runner(embedded, "CPU", 3, None)
    assert [model.is_dynamic() for model in compiled] == [False, False]


def test_decoding_is_part_of_what_is_measured_and_bad_images_are_left_out(
    files: Path, embedded: Path, photos: Path, tmp_path: Path
) -> None:
    for number in range(3):
        write_noise(tmp_path / f"{number}.jpg", size=(1000, 800))
    (tmp_path / "3.jpg").write_bytes(b"no picture")
    paths = [files / "exported_model.xml", files / "exported_model.onnx", embedded]
    engine = Engine(reporter=Recorder())
    bare = engine.benchmark(paths, **QUICK, batch=[2])
    result = engine.benchmark(paths, **QUICK, batch=[2], decode=True, images=tmp_path)
    assert result.decoding == "3 images of 0.8 megapixels on average"
    for with_decoding, without in zip(result.files, bare.files, strict=True):
        assert with_decoding.latency_ms > without.latency_ms
    own = engine.benchmark(paths[0], **QUICK, batch=[1], decode=True)
    assert own.decoding.endswith("images of 0.0013 megapixels on average")
    (tmp_path / "bad").mkdir()
    shutil.copy(tmp_path / "3.jpg", tmp_path / "bad" / "x.jpg")
    with pytest.raises(DataError, match=r"none of the images can be decoded: .*x\.jpg: not an image"):
        engine.benchmark(paths, **QUICK, decode=True, images=tmp_path / "bad")
    with pytest.raises(UsageError, match="--images is of use with --decode true only"):
        engine.benchmark(paths, images=tmp_path)


def test_work_is_done_in_turns_and_the_first_time_does_not_count() -> None:
    done: list[str] = []

    def work(name: str) -> Any:
        def times(count: int) -> list[float]:
            done.extend([name] * count)
            return [float(len(done))] * count

        return times

    rounds: list[int] = []
    measured = measure_in_turns({"a": work("a"), "b": work("b")}, 1e-9, rounds=4, on_round=rounds.append)
    # two calls each to see how long one takes; then a turn is one call that does not count and one that does
    assert "".join(done) == "aabb" + "aabb" + "bbaa" + "aabb" + "bbaa"
    assert {name: len(figures) for name, figures in measured.items()} == {"a": 4, "b": 4}
    assert rounds == [1, 2, 3, 4]


def test_memory_is_that_of_a_process_of_its_own(files: Path) -> None:
    result = quick(files, "exported_model.xml", memory=True, batch=[1])
    taken = result.files[0].memory_bytes
    assert taken is None or 1e6 < taken < 4e9
    assert taken is not None or not Path("/proc/self/status").exists()
    assert (memory_growth(str(files / "exported_model.onnx"), "CPU") or 1) > 0


def die() -> None:
    os.abort()


def test_a_file_that_kills_the_runtime_is_named(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verb, "memory_growth", die_of)
    with pytest.raises(RunError, match=r"exported_model\.xml was not measured: OpenVINO [\d.]+ kills .*SIGABRT"):
        quick(files, "exported_model.xml", memory=True)
    with pytest.raises(Crashed, match="SIGABRT"):
        ask(die, seconds=60)
    with pytest.raises(NoAnswer, match=r"no answer within 0\.01 s"):
        ask(die, seconds=0.01)


def die_of(path: str, device: str) -> None:
    os.abort()


def test_files_of_one_name_are_told_apart(files: Path, tmp_path: Path) -> None:
    copies = [tmp_path / "new" / "run" / "model.onnx", tmp_path / "old" / "run" / "model.onnx"]
    assert names_apart(copies) == ["new/run/model.onnx", "old/run/model.onnx"]
    assert names_apart([*copies, Path("other.xml")])[2] == "other.xml"
    for copy in copies:
        copy.parent.mkdir(parents=True)
        shutil.copy(files / "exported_model.onnx", copy)
    result = Engine(reporter=Recorder()).benchmark(copies, **QUICK, batch=[1])
    assert [file.name for file in result.files] == ["new/run/model.onnx", "old/run/model.onnx"]


def test_a_batch_that_a_file_does_not_take_is_said(files: Path, tmp_path: Path) -> None:
    import onnx

    model = onnx.load(str(files / "exported_model.onnx"))
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    del model.metadata_props[[item.key for item in model.metadata_props].index("model_info otx_seal")]
    onnx.save(model, str(tmp_path / "fixed.onnx"))
    result = Engine(reporter=Recorder()).benchmark(tmp_path / "fixed.onnx", **QUICK, batch=[1, 4])
    one, four = result.files[0].throughput
    assert one.images_per_second and four.images_per_second is None
    assert four.why_not.endswith("fixed.onnx takes batches of 1 only, not of 4")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch": []}, "--batch : must be from 1 to 4096"),
        ({"batch": [0]}, "--batch 0: must be from 1 to 4096"),
        ({"streams": ["two"]}, "--streams two: must be auto or a number"),
        ({"seconds": 0.0}, "--seconds 0: must be more than 0"),
        ({"seconds": float("nan")}, "--seconds nan: must be more than 0"),
        ({"device": "TPU"}, r"--device TPU: OpenVINO, which runs exported_model\.xml, does not see it"),
        ({"output": "figures.txt"}, r"--output figures\.txt: benchmarks are written as \.json"),
    ],
)
def test_what_cannot_be_measured_is_refused_at_once(files: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        quick(files, "exported_model.xml", **options)


def test_files_that_cannot_be_measured_are_refused(files: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"exported_model\.xml is given twice"):
        quick(files, "exported_model.xml", f"../{files.name}/exported_model.xml")
    with pytest.raises(ModelError, match=r"no such model file: .*gone\.onnx"):
        quick(files, "gone.onnx")
    with pytest.raises(UsageError, match="is a folder without model.safetensors"):
        quick(tmp_path, ".")
    with pytest.raises(UsageError, match="there is no file to measure"):
        quick(files)
    (tmp_path / "weights.txt").write_text("no model")
    with pytest.raises(ModelError, match=r"weights\.txt is no model file"):
        quick(tmp_path, "weights.txt")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: FILE"),
        (["x.onnx", "--batch", "1,two"], "argument --batch: must be numbers with commas between them, got '1,two'"),
        (["x.onnx", "--sekonds", "1"], "unknown argument '--sekonds': did you mean '--seconds'?"),
    ],
)
def test_mistakes_on_the_command_line_are_named(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["benchmark", *arguments]) == 2
    assert message in capsys.readouterr().err
