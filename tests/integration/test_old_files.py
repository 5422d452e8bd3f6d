"""Files of an earlier otx (tests/old, made by commit 1033764) can still be read, tested, resumed and reported."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import pytest

from otx import Engine
from otx.errors import UsageError
from otx.model.modelfile import read_card
from otx.report.record import read_record

OLD = Path(__file__).parents[1] / "old"
CLASSES = ("blue tit", "cat", "ähre")
FILES = (
    "model.safetensors",
    "checkpoints/last.ckpt",
    "exported_model.xml",
    "exported_model.onnx",
    "optimized_model.xml",
)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A copy of the run folder; its data root, /photos, does not exist any more."""
    return Path(shutil.copytree(OLD / "run", tmp_path / "otx-workspace" / "run"))


def rows(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as text:
        return list(csv.DictReader(text))


@pytest.mark.parametrize("name", FILES)
def test_a_card_is_read_from_every_kind_of_file(name: str) -> None:
    card = read_card(OLD / "run" / name)
    assert (card.network, card.classes, card.num_old) == ("test_efficientnet", CLASSES, 0)
    assert card.recipe["data_root"] == "/photos"


@pytest.mark.parametrize("name", FILES)
def test_every_kind_of_file_gives_the_answers_it_gave(name: str, run: Path) -> None:
    result = Engine(work_dir=run.parent, checkpoint=run / name).test(data_root=OLD / "photos")
    assert result.subset == "test split"
    (old,) = OLD.glob("run/test/*")
    (new,) = (folder for folder in run.glob("test/*") if folder.name != old.name)
    before, after = ({row["path"]: row for row in rows(folder / "predictions.csv")} for folder in (old, new))
    assert after.keys() == before.keys()
    if name == "optimized_model.xml":
        return  # 8-bit rounding differs between processors
    for path, row in after.items():
        assert row["predicted"] == before[path]["predicted"]
        assert float(row["probability"]) == pytest.approx(float(before[path]["probability"]), abs=0.02)


def test_maps_of_an_old_export_are_drawn(run: Path, tmp_path: Path) -> None:
    photo = OLD / "photos" / "cat" / "00.jpg"
    result = Engine(work_dir=run.parent, checkpoint=run / "exported_model.xml").explain(photo, output=tmp_path / "maps")
    assert [each.error for each in result.explanations] == [None]


def test_a_run_is_resumed_with_more_epochs(run: Path) -> None:
    before = rows(run / "metrics.csv")
    engine = Engine(OLD / "photos", work_dir=run.parent, checkpoint=run / "checkpoints" / "last.ckpt")
    result = engine.train(resume=True, max_epochs=3)
    assert result.run_dir.resolve() == run.resolve()
    assert [epoch.epoch for epoch in result.epochs] == [0, 1, 2]
    # the columns that there were then; those that came since are empty in its rows
    assert [{name: row[name] for name in before[0]} for row in rows(run / "metrics.csv")[:2]] == before
    assert [row["val_probability"] == "" for row in rows(run / "metrics.csv")] == [True, True, False]


def test_a_run_is_trained_further(run: Path, tmp_path: Path) -> None:
    engine = Engine(OLD / "photos", work_dir=tmp_path / "more", checkpoint=run / "model.safetensors")
    result = engine.train(max_epochs=1)
    assert result.run_dir.parent == tmp_path / "more"
    assert read_card(result.model_path).classes == CLASSES


def test_a_run_is_read_and_reported(run: Path) -> None:
    record = read_record(run)
    assert record.card is not None and record.card.classes == CLASSES
    assert [epoch.epoch for epoch in record.epochs] == [0, 1]
    assert record.summary is not None and record.summary["stop_reason"] == "all 2 epochs are done"
    assert record.measurement is not None and len(record.measurement.images) == 9
    assert Engine(work_dir=run.parent).report(run).is_file()


def test_a_complete_run_says_so(run: Path) -> None:
    engine = Engine(OLD / "photos", work_dir=run.parent, checkpoint=run / "checkpoints" / "last.ckpt")
    Engine(work_dir=run.parent).report(run)
    with pytest.raises(UsageError, match="has already trained 2 of 2 epochs"):
        engine.train(resume=True)
