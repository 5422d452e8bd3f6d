"""The small folders of `make_cases.py`, each of a kind that people have: how `otx check` and a training take them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from conftest import SMALL, Recorder
from otx import Engine

MAKE_CASES = Path(__file__).resolve().parents[3] / "shared" / "cases" / "make_cases.py"
# classes, images to train, to validate and to test, and the start of what is said
CASES = {
    "kaggle": (3, (66, 6, 18), "test/ holds 15 images and no class folders: left out, since there are no labels."),
    "macflat": (3, (54, 6, 15), "Left out: 1 file of the system, such as __MACOSX or Thumbs.db."),
    "deep": (3, (54, 6, 15), "CASES/deep holds one folder and nothing beside it: its images are in CASES/deep/dataset"),
    "csv": (2, (14, 2, 4), ""),
    "xml": (3, (54, 6, 15), "Left out: 150 files of another kind than images (75 .txt, 75 .xml)."),
    "trainonly": (3, (66, 6, 18), ""),
    "phone": (3, (69, 6, 18), "left out, cannot be decoded: tulips/IMG_1.HEIC: "),
    "xray": (2, (58, 6, 16), "Images of more than 8 bits: values from 0 (black) to 4095 (white) are used (12 bits)"),
    "tail": (
        5,
        (868, 97, 241),
        "Classes with fewer than 5 images to train: dandelion (4). More photos would help most.",
    ),
    "three": (3, (3, 3, 3), "Classes with fewer than 5 images to train: daisy (1), roses (1), tulips (1)."),
}


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not MAKE_CASES.is_file():
        pytest.skip("needs ../shared/cases")
    out = tmp_path_factory.mktemp("cases") / "out"
    subprocess.run([sys.executable, str(MAKE_CASES), str(out)], check=True, capture_output=True, timeout=200)
    return out


@pytest.mark.parametrize("case", CASES)
def test_each_kind_of_folder_is_understood_and_trained(case: str, cases: Path, tmp_path: Path) -> None:
    classes, sizes, note = CASES[case]
    recorder = Recorder()
    changes = {**SMALL, "data.input_size": 32, "max_epochs": 1, "report": False}
    engine = Engine(cases / case, model="timm/test_resnet", work_dir=tmp_path, overrides=changes, reporter=recorder)
    assert len(engine.check().classes) == classes
    assert engine.train().model_path.is_file()
    assert any(text.startswith(note.replace("CASES", str(cases))) for text in (*recorder.notes, *recorder.warnings))
    train, val, test = sizes
    what = f": {classes} classes, {train} images to train, {val} to validate, {test} to test"
    assert any(what in text for text in recorder.notes), recorder.notes
    assert engine.test().num_images == test
