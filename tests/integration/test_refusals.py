"""Wrong inputs are refused with a clear message, without torch, in less than a second of processor time."""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file

from images import write_classes, write_image
from otx import Engine
from otx.data.layout import glimpse, scan
from otx.networks.build import build_network
from otx.networks.weights_file import check_weights_file
from otx.preflight import check_data_root
from otx.recipe import Recipe
from otx.workspace import latest_run

# processor time, so that a busy machine does not matter
SECONDS = 1.0
# runs the cases one after another in one process; imports accumulate, so that the last case lists all of them
PROGRAM = """
import contextlib, io, json, sys, time
from otx.cli import main
for arguments in json.loads(sys.argv[1]):
    said, started = io.StringIO(), time.process_time()
    with contextlib.redirect_stderr(said):
        code = main(arguments)
    seconds = time.process_time() - started
    heavy = sorted({"torch", "timm", "lightning", "openvino", "sklearn"} & set(sys.modules))
    print(json.dumps([code, said.getvalue(), seconds, heavy]), flush=True)
"""
TRAIN = ["train", "--data_root", "PHOTOS", "--model", "timm/test_resnet", "--work_dir", "NEW"]
ONTO = [*TRAIN, "--checkpoint", "MODEL"]
# the arguments, and two parts of the message: what is wrong, and how to fix it
CASES: dict[str, tuple[list[str], str, str]] = {
    "no data_root": (["train"], "--data_root is missing", "--data_root digits"),
    "data_root missing": ([*TRAIN, "--data_root", "NOWHERE"], "there is no folder", "takes a folder"),
    "data_root empty": ([*TRAIN, "--data_root", "EMPTY"], "empty is empty", "one folder of images for each class"),
    "data_root a file": ([*TRAIN, "--data_root", "FILE"], "is a file, not a folder", "takes a folder"),
    "no class folders": ([*TRAIN, "--data_root", "LOOSE"], "holds 1 images but no class folders", "CLASS_A"),
    "one class": ([*TRAIN, "--data_root", "ONE"], "needs two classes at least", "one folder of images for each"),
    "an empty class": ([*TRAIN, "--data_root", "HOLLOW"], "class folders with no image", "put images into them"),
    "lr": ([*TRAIN, "--lr", "0.1"], "'--lr': here it is '--optimizer.lr'", "--help-all"),
    "batch-size": ([*TRAIN, "--batch-size", "8"], "here it is '--data.train_subset.batch_size'", "--help-all"),
    "epochs": ([*TRAIN, "--epochs", "3"], "here it is '--max_epochs'", "--help-all"),
    "imgsz": ([*TRAIN, "--imgsz=96"], "here it is '--data.input_size'", "--help-all"),
    "INT8": (["export", "--export_precision", "INT8"], "--export_precision INT8", "otx optimize"),
    "check": (["check", "NOWHERE"], "there is no folder", "takes a folder"),
    "split file": ([*TRAIN, "--data.split_file", "NOWHERE"], "the split file", "path, class, subset"),
    "not a split file": ([*TRAIN, "--data.split_file", "FILE"], "must begin with the line", "path,class,subset"),
    "work_dir a file": ([*TRAIN, "--work_dir", "FILE"], "file.txt: it is a file", "choose another --work_dir"),
    "work_dir in a file": ([*TRAIN, "--work_dir", "FILE/ws"], "file.txt is a file", "choose another --work_dir"),
    "weights missing": ([*TRAIN, "--model.weights", "NOWHERE"], "no such weights file", "give a .safetensors file"),
    "weights a folder": ([*TRAIN, "--model.weights", "EMPTY"], "is a folder", "give a .safetensors file"),
    "weights cut off": ([*TRAIN, "--model.weights", "CUT"], "bytes are missing", "give a .safetensors file"),
    "weights garbage": ([*TRAIN, "--model.weights", "FILE"], "cannot be read as weights", "give a .safetensors file"),
    "rename alone": ([*TRAIN, "--rename", "a=b"], "--rename renames classes of a model", "give --checkpoint MODEL"),
    "weights of another": (
        [*TRAIN, "--model", "efficientnet_b0", "--model.weights", "OTHER"],
        "does not fit efficientnet_b0: it holds the weights of mobilenetv3_small_100",
        "train with --model tv_mobilenet_v3_small",
    ),
    "two folders": (["train", "PHOTOS", "--data_root", "PHOTOS"], "two folders", ""),
    "a folder that is not there": (["train", "NOWHERE"], "there is no folder", "one sub-folder for each class"),
    "rename malformed": ([*ONTO, "--rename", "ab"], "must be OLD=NEW", "--rename rose=roses"),
    "rename unknown": ([*ONTO, "--rename", "cats=dogs"], "no class 'cats': did you mean 'cat'?", "its classes are"),
    "rename into another": ([*ONTO, "--rename", "cat=ähre"], "two classes of the model would be called ähre", ""),
    "checkpoint missing": ([*TRAIN, "--checkpoint", "NOWHERE"], "no such file", "fix"),
    "checkpoint cut off": ([*TRAIN, "--checkpoint", "CUT"], "is damaged", "train or export it again"),
    "config missing": (["train", "--config", "nowhere.yaml"], "no such recipe file", "otx find"),
    "resume of nothing": (["train", "--resume", "--work_dir", "EMPTY"], "there is no trained model", "otx train"),
    "predict: model": (["predict", "PHOTOS", "--checkpoint", "CUT"], "is damaged", "train or export it again"),
    "predict: image": (["predict", "NOWHERE", "--checkpoint", "MODEL"], "there is no image", "photos/**/*.jpg"),
    "predict: output": (
        ["predict", "PHOTOS", "--checkpoint", "MODEL", "--output", "FILE/rows.csv"],
        "rows.csv: ",
        "choose another --output",
    ),
    "test: output": (["test", "--checkpoint", "MODEL", "--output", "FILE/x.json"], "x.json: ", "another --output"),
    "export: output": (["export", "--checkpoint", "MODEL", "--output", "FILE"], "it is a file", "another --output"),
    "export: deploy": (["export", "--checkpoint", "MODEL", "--deploy", "FILE/x"], "it is a file", "another --deploy"),
    "export: format": (["export", "--checkpoint", "MODEL", "--export_format", "X"], "--export_format X", "ONNX"),
    "optimize: output": (["optimize", "--checkpoint", "MODEL", "--output", "FILE"], "it is a file", "another --output"),
    "explain: output": (["explain", "--checkpoint", "MODEL", "--output", "FILE"], "it is a file", "another --output"),
    "explain: target": (
        ["explain", "--checkpoint", "MODEL", "--explain_config.targets", "cats"],
        "did you mean 'cat'?",
        "predicted",
    ),
    "demo: no port": (["demo", "--checkpoint", "MODEL", "--port", "80000"], "from 0 to 65535", "leave --port out"),
    "demo: taken": (["demo", "--checkpoint", "MODEL", "--port", "TAKEN"], "already in use", "leave --port out"),
}
Refusal = tuple[int, str, float, list[str]]


@pytest.fixture(scope="module")
def places(trained: Engine, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The values of the words in capitals."""
    root = tmp_path_factory.mktemp("refused")
    model = latest_run(trained.work_dir).model
    (root / "file.txt").write_text("path;class;subset\n")
    (root / "empty").mkdir()
    write_image(root / "loose" / "a.png")
    write_classes(root / "one", {"a": 2})
    write_classes(root / "hollow", {"a": 2, "b": 2})
    (root / "hollow" / "c" / "inside").mkdir(parents=True)
    (root / "cut.safetensors").write_bytes(model.read_bytes()[:-1000])
    save_file(dict(build_network("mobilenetv3_small_100", 2, 32, 32).state_dict()), root / "other.safetensors")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        yield {
            "PHOTOS": str(photos),
            "MODEL": str(model),
            "NEW": str(root / "new"),
            "NOWHERE": str(root / "nowhere"),
            "EMPTY": str(root / "empty"),
            "FILE": str(root / "file.txt"),
            "LOOSE": str(root / "loose"),
            "ONE": str(root / "one"),
            "HOLLOW": str(root / "hollow"),
            "CUT": str(root / "cut.safetensors"),
            "OTHER": str(root / "other.safetensors"),
            "TAKEN": str(taken.getsockname()[1]),
        }


def filled_in(arguments: list[str], places: dict[str, str]) -> list[str]:
    words = {word: places.get(word.split("/")[0], word.split("/")[0]) for word in arguments}
    return [words[word] + "".join(f"/{part}" for part in word.split("/")[1:]) for word in arguments]


@pytest.fixture(scope="module")
def refusals(places: dict[str, str]) -> dict[str, Refusal]:
    commands = json.dumps([filled_in(arguments, places) for arguments, _, _ in CASES.values()])
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, commands], capture_output=True, text=True, timeout=200, check=True
    )
    return dict(zip(CASES, map(json.loads, done.stdout.splitlines()), strict=True))


@pytest.mark.parametrize("case", CASES)
def test_it_is_refused_at_once_in_words(case: str, refusals: dict[str, Refusal], places: dict[str, str]) -> None:
    code, said, seconds, heavy = refusals[case]
    _, wrong, right = CASES[case]
    assert code == 2, said
    assert wrong in said and right in said
    assert "Traceback" not in said
    assert heavy == []
    assert seconds < SECONDS
    assert not Path(places["NEW"]).exists()


def test_a_process_of_its_own_is_as_quick(places: dict[str, str]) -> None:
    def spent() -> float:
        times = os.times()
        return times.children_user + times.children_system

    before = spent()
    command = filled_in([*TRAIN, "--data_root", "NOWHERE"], places)
    done = subprocess.run([sys.executable, "-m", "otx", *command], capture_output=True, text=True, timeout=60)
    assert (done.returncode, "there is no folder" in done.stderr) == (2, True)
    assert spent() - before < SECONDS


def test_weights_of_another_network_are_refused_before_images_are_decoded(
    trained: Engine, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from otx.errors import ModelError
    from otx.training import usable_images

    monkeypatch.setattr(usable_images, "scan_images", lambda *_, **__: pytest.fail("images were decoded"))
    changes: dict[str, Any] = {"model.weights": str(latest_run(trained.work_dir).model), "data.input_size": 32}
    with pytest.raises(ModelError, match="does not fit"):
        Engine(photos, model="timm/test_resnet", work_dir=tmp_path / "ws", overrides=changes).train()
    assert not (tmp_path / "ws").exists()


def test_a_glimpse_sees_the_layout_that_a_scan_sees(photos: Path, tmp_path: Path) -> None:
    for split in ("train", "val"):
        write_classes(tmp_path / "split" / split, {"a": 3, "b": 3})
    write_image(tmp_path / "split" / "train" / "c" / "deep" / "deeper" / "x.png")
    (tmp_path / "split" / "train" / "c" / "back").symlink_to(tmp_path / "split" / "train" / "c")
    for root in (photos, tmp_path / "split"):
        seen, all_of_it = glimpse(root), scan(root)
        assert (list(seen.splits), seen.folder_names) == (list(all_of_it.splits), all_of_it.folder_names)
        for split, classes in all_of_it.splits.items():
            assert list(seen.splits[split]) == list(classes)
            for name, paths in classes.items():
                (first,) = seen.splits[split][name]
                assert first in paths


def test_a_glimpse_does_not_read_a_large_class(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    own = os.DirEntry.is_file
    monkeypatch.setattr("otx.data.folder.is_image", lambda name: seen.append(name) or name.endswith((".png", ".jpg")))
    check_data_root(Recipe(data_root=str(photos)), min_classes=2)
    # a class alone has 30 images
    assert len(seen) < 30
    assert own is os.DirEntry.is_file


@pytest.mark.parametrize("content", [b"", b"\x00" * 7, struct.pack("<Q", 4) + b"nope", struct.pack("<Q", 2) + b"[]"])
@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
def test_no_header_makes_the_check_of_weights_stumble(content: bytes, name: str, tmp_path: Path) -> None:
    from otx.errors import ModelError

    (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelError, match=f"{name} cannot be read as weights: "):
        check_weights_file(tmp_path / name)


def test_whole_weights_pass_the_check(trained: Engine) -> None:
    run = latest_run(trained.work_dir)
    check_weights_file(run.model)
    check_weights_file(run.last_checkpoint)
