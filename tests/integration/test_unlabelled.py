"""`--training.unlabelled true`: photos without a label join the training, and it is known which and as what."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import pytest

from conftest import SMALL, SMALL_MODEL, Recorder
from images import write_classes
from otx import Engine
from otx.data.journal import JOURNAL, Row, write_journal
from otx.errors import UsageError
from otx.training import pseudo_labels

CLASSES = ("blue", "green", "red")


@pytest.fixture
def pile(tmp_path: Path) -> Path:
    """Forty photos of each colour, twenty of them labelled; one is left out, twelve more are copies of test photos."""
    root = write_classes(tmp_path / "pile", dict.fromkeys(CLASSES, 40))
    rows = {
        f"{name}/{number:03}.png": Row(name, "train" if number < 12 else "val" if number < 16 else "test")
        for name in CLASSES
        for number in range(20)
    }
    for name in CLASSES:
        for number in range(16, 20):
            shutil.copy(root / name / f"{number:03}.png", root / name / f"copy{number}.png")
    write_journal(root / JOURNAL, {**rows, "red/039.png": Row(left_out="blurred")})
    return root


def train(pile: Path, work_dir: Path, **changes: object) -> tuple[Path, Recorder]:
    recorder = Recorder()
    given = {**SMALL, "max_epochs": 1, "optimizer.lr": 0.002, "training.unlabelled": True, **changes}
    result = Engine(pile, model=SMALL_MODEL, work_dir=work_dir, overrides=given, reporter=recorder).train()
    return result.run_dir, recorder


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_photos_without_a_label_join_the_training_images_alone_and_are_written_down(
    pile: Path, weights: Path, tmp_path: Path
) -> None:
    run, said = train(pile, tmp_path / "ws", **{"model.weights": str(weights)})
    joined = {row["path"]: row["class"] for row in rows_of(run / "pseudo_labels.csv")}
    assert len(joined) > 40
    assert all(path.startswith(f"{name}/") for path, name in joined.items())
    assert "red/039.png" not in joined
    assert not any("copy" in path for path in joined)
    split = {row["path"]: (row["class"], row["subset"]) for row in rows_of(run / "split.csv")}
    assert {path: split[path] for path in joined} == {path: (name, "train") for path, name in joined.items()}
    assert len(split) == 60 + len(joined)
    assert [subset for _, subset in split.values()].count("test") == 12
    note = next(note for note in said.notes if note.startswith("--training.unlabelled true"))
    assert f"{len(joined)} of 71 photos without a label join the 36 training images; " in note
    assert "more are copies of images to validate or to test" in note


def test_a_resumed_run_keeps_its_pseudo_labels_and_a_test_knows_the_photos(
    pile: Path, weights: Path, tmp_path: Path
) -> None:
    run, _ = train(pile, tmp_path / "ws", **{"model.weights": str(weights)})
    before = (run / "split.csv").read_text(), (run / "pseudo_labels.csv").read_text()
    engine = Engine(work_dir=tmp_path / "ws", overrides={"report": True})
    resumed = engine.train(resume=True, max_epochs=2)
    assert resumed.run_dir.resolve() == run.resolve()
    assert ((run / "split.csv").read_text(), (run / "pseudo_labels.csv").read_text()) == before
    assert f"{before[1].count(chr(10)) - 1} of the training photos had no label" in (run / "report.html").read_text()
    (tmp_path / "new" / "red").mkdir(parents=True)
    for path in ("red/039.png", *(row["path"] for row in rows_of(run / "pseudo_labels.csv")[-5:])):
        shutil.copy(pile / path, tmp_path / "new" / "red")
    assert engine.test().num_images == 12
    other = engine.test(data_root=tmp_path / "new")
    assert (other.num_known, other.num_images) == (5, 1)


def test_photos_that_are_all_broken_do_not_join_and_the_others_do(
    pile: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # the photos are looked at in parts, of which the first then has none that can be decoded
    monkeypatch.setattr(pseudo_labels, "CHUNK", 20)
    for path in [*(pile / "blue").glob("02*.png"), *(pile / "blue").glob("03*.png"), *(pile / "blue").glob("copy*")]:
        path.write_bytes(path.read_bytes()[:100])
    run, _ = train(pile, tmp_path / "ws", **{"model.weights": str(weights)})
    assert {row["class"] for row in rows_of(run / "pseudo_labels.csv")} == {"green", "red"}


def test_it_is_off_by_default(pile: Path, weights: Path, tmp_path: Path) -> None:
    run, _ = train(pile, tmp_path / "ws", **{"model.weights": str(weights), "training.unlabelled": False})
    assert len(rows_of(run / "split.csv")) == 60
    assert not (run / "pseudo_labels.csv").exists()


def test_where_every_photo_has_a_label_it_says_so(pile: Path, weights: Path, tmp_path: Path) -> None:
    (pile / JOURNAL).unlink()
    _, said = train(pile, tmp_path / "ws", **{"model.weights": str(weights)})
    note = f"--training.unlabelled true: no table of labels leaves photos of {pile} without a label."
    assert note in said.notes


def test_without_a_pretrained_network_it_is_refused(pile: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--training.unlabelled true takes features of a pretrained network"):
        train(pile, tmp_path / "ws")
