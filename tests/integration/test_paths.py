"""Unusual names and paths: nothing is written outside its folder, and nothing is mistaken for something else."""

from __future__ import annotations

import csv
import json
import os
import struct
import zlib
from pathlib import Path

import pytest
from PIL import Image

from conftest import SMALL, SMALL_MODEL
from images import write_classes, write_image
from otx import Engine
from otx.cli import main
from otx.data.decode import check_image, decode_image
from otx.data.load import load_dataset
from otx.data.reading import Reading
from otx.data.split_file import read_split
from otx.errors import DataError, ImageError
from otx.model.modelfile import read_card
from otx.workspace import latest_run

NASTY = ["-rf", "a\nb", "quo\"te's", "😀 emoji", "=1+1", "a..b", "[x]", "x" * 255, "%s{0}", "\x01", "<b>&amp;"]


@pytest.fixture(scope="module")
def nasty(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    """An engine trained on classes and images with nasty names."""
    root = write_classes(tmp_path_factory.mktemp("nasty"), dict.fromkeys(NASTY, 6))
    for name in NASTY:
        (root / name / "000.png").rename(root / name / f"{name[:251]}.png")
        (root / name / "001.png").rename(root / name / "\udcff\udcfe.png")
    engine = Engine(
        root, model="timm/test_resnet", work_dir=tmp_path_factory.mktemp("ws"), overrides={**SMALL, "max_epochs": 1}
    )
    engine.train()
    return engine


def images_of(engine: Engine) -> list[str]:
    return [os.fsdecode(path) for path in sorted(Path(str(engine.recipe.data_root)).rglob("*.png"))]


def test_nasty_names_are_classes_like_others_and_come_back(nasty: Engine) -> None:
    run = latest_run(nasty.work_dir)
    assert read_card(run.model).classes == tuple(sorted(NASTY))
    assert len(read_split(run.split)) == 6 * len(NASTY)
    assert load_dataset(str(nasty.recipe.data_root), split_file=run.split).classes == tuple(sorted(NASTY))
    assert nasty.test().num_images == len(NASTY)


def test_predictions_of_nasty_names_can_be_read_back(
    nasty: Engine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, model = str(nasty.recipe.data_root), str(latest_run(nasty.work_dir).model)
    for name in ("😀" * 62 + ".csv", "-rows.json"):
        assert main(["predict", root, "--checkpoint", model, "--output", str(tmp_path / name)]) == 0
    file = (tmp_path / ("😀" * 62 + ".csv")).open(encoding="utf-8", errors="surrogateescape", newline="")
    with file:
        rows = list(csv.DictReader(file))
    assert sorted(row["path"] for row in rows) == sorted(images_of(nasty))
    assert {row["label"] for row in rows} <= set(NASTY)
    text = (tmp_path / "-rows.json").read_text(encoding="utf-8", errors="surrogateescape")
    assert [row["path"] for row in json.loads(text)] == [row["path"] for row in rows]
    capsys.readouterr()


@pytest.mark.parametrize("name", ["-x.png", "--help.png", "[ab].png", "*.png"])
def test_an_image_named_like_an_option_or_a_glob_is_an_image(
    name: str, nasty: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_image(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert main(["predict", "--checkpoint", str(latest_run(nasty.work_dir).model), "--", name]) == 0
    assert name in capsys.readouterr().out


def test_exports_of_nasty_classes_keep_their_labels(nasty: Engine, tmp_path: Path) -> None:
    for kind in ("OPENVINO", "ONNX"):
        path = nasty.export(export_format=kind, output=tmp_path / "😀", deploy=None).path
        assert read_card(path).classes == tuple(sorted(NASTY))
    nasty.export(output=tmp_path, deploy=tmp_path / ("d" * 255))
    lines = (tmp_path / ("d" * 255) / "labels.txt").read_text(encoding="utf-8").splitlines()
    assert lines == [" ".join(name.splitlines()) for name in sorted(NASTY)]


def test_explanations_stay_inside_their_folder(nasty: Engine, tmp_path: Path) -> None:
    outside = write_image(tmp_path / "outside" / "secret.png")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "link.png").symlink_to(outside)
    sources = [*images_of(nasty)[:8], f"{tmp_path}/in/../outside/secret.png", tmp_path / "in" / "link.png"]
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "outside").rglob("*")}
    result = nasty.explain(sources, output=tmp_path / "maps", targets="all")
    assert len(result.explanations) == len(sources) * len(NASTY)
    for explanation in result.explanations:
        assert explanation.overlay is not None
        assert explanation.overlay.resolve().is_relative_to((tmp_path / "maps").resolve())
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "outside").rglob("*")} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "maps", "outside"]


@pytest.mark.parametrize("path", ["../outside/secret.png", "/etc/passwd", "a/../../x.png"])
def test_a_split_file_cannot_name_what_is_outside(path: str, tmp_path: Path) -> None:
    root = write_classes(tmp_path / "data", {"a": 4, "b": 4})
    write_image(tmp_path / "outside" / "secret.png")
    (tmp_path / "split.csv").write_text(f"path,class,subset\na/000.png,a,train\n{path},b,train\n")
    with pytest.raises(DataError, match="has no image"):
        load_dataset(root, split_file=tmp_path / "split.csv")


def test_a_class_that_a_split_file_names_like_a_path_stays_inside(tmp_path: Path) -> None:
    root = write_classes(tmp_path / "data", {"a": 8, "b": 8})
    names = {"a": "../../climbs", "b": "/absolute"}
    subsets = ["train"] * 4 + ["val"] * 2 + ["test"] * 2
    rows = [f"{c}/{n:03}.png,{names[c]},{subset}" for c in names for n, subset in enumerate(subsets)]
    (tmp_path / "split.csv").write_text("\n".join(["path,class,subset", *rows]) + "\n")
    changes = {**SMALL, "max_epochs": 1, "data.split_file": str(tmp_path / "split.csv")}
    engine = Engine(root, model="timm/test_resnet", work_dir=tmp_path / "ws", overrides=changes)
    engine.train()
    engine.explain(targets="all", output=tmp_path / "maps")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "maps", "split.csv", "ws"]
    assert not Path("/absolute").exists()


def test_a_class_folder_that_is_no_utf8_is_refused_by_name(tmp_path: Path) -> None:
    root = write_classes(tmp_path / "data", {"a": 4, "b": 4})
    (root / "b").rename(root / "\udcff")
    with pytest.raises(DataError, match=r"the name of the class folder b'\\xff' in .*data is no UTF-8"):
        load_dataset(root)


def bomb(path: Path, width: int, height: int) -> Path:
    """A PNG of a few bytes that claims to be large."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )
    return path


def test_200_megapixels_are_refused_by_name_with_the_option_that_raises_the_limit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_classes(tmp_path / "data", {"ant": 12, "bee": 12})
    Image.new("L", (20_000, 10_000)).save(root / "ant" / "large.png")
    options = [f"--{key}={value}" for key, value in {**SMALL, "max_epochs": 1}.items()]
    assert main(["train", "--data_root", str(root), "--model", SMALL_MODEL, "--work_dir", str(tmp_path), *options]) == 0
    said = capsys.readouterr().err
    assert "ant/large.png: 20000x10000 pixels are more than the limit of 100000000" in said
    assert "--data.max_image_pixels" in said
    assert check_image(root / "ant" / "large.png", Reading(200_000_000)) is None


def test_a_decompression_bomb_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    path = bomb(tmp_path / "bomb.png", 60_000, 60_000)
    with pytest.raises(ImageError, match="60000x60000 pixels are more than the limit"):
        decode_image(path)
    assert "60000x60000" in str(check_image(path))


def test_a_huge_file_and_what_is_no_file_are_not_read(tmp_path: Path) -> None:
    write_image(tmp_path / "huge.png")
    os.truncate(tmp_path / "huge.png", 1 << 40)
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "device.png").symlink_to("/dev/zero")
    assert "a file of 1099511627776 bytes" in str(check_image(tmp_path / "huge.png"))
    for name in ("pipe.png", "device.png"):
        with pytest.raises(ImageError, match="not a file"):
            decode_image(tmp_path / name)


def test_find_takes_any_pattern(capsys: pytest.CaptureFixture[str]) -> None:
    for pattern in (*NASTY, "[", "\x00", "../..", "-"):
        assert main(["find", f"--pattern={pattern}"]) in (0, 2)
    capsys.readouterr()
