"""What a test says it shows: targets that it may miss, and photos that the model has seen."""

from __future__ import annotations

import csv
import shutil
from collections import Counter
from pathlib import Path

import pytest

from conftest import Recorder
from images import write_noise
from otx import Engine
from otx.cli import main
from otx.errors import DataError, UsageError
from otx.evaluation.evaluate import read_test
from otx.evaluation.intervals import wilson
from otx.workspace import RunFolder, latest_run


@pytest.fixture
def run(trained: Engine, tmp_path: Path) -> RunFolder:
    """A copy of the run folder without tests, whose images are where they were."""
    source, own = latest_run(trained.work_dir).path, shutil.ignore_patterns("test")
    return RunFolder(Path(shutil.copytree(source, tmp_path / "ws" / "run", ignore=own)))


def seen_and_new(run: RunFolder, photos: Path, folder: Path, *, num_new: int) -> tuple[Path, int]:
    """A folder with copies of the run's training and validation photos under new names, and new ones."""
    rows = list(csv.DictReader(run.split.read_text(encoding="utf-8").splitlines()))
    seen = [row["path"] for row in rows if row["subset"] in ("train", "val")]
    for number, path in enumerate(seen):
        (folder / Path(path).parent).mkdir(parents=True, exist_ok=True)
        shutil.copy(photos / path, folder / Path(path).parent / f"copy {number}{Path(path).suffix}")
    for number in range(num_new):
        write_noise(folder / "cat" / f"new {number}.png")
    return folder, len(seen)


def test_a_target_that_the_interval_reaches_is_met(trained: Engine) -> None:
    plain = trained.test()
    assert plain.verdict is None
    low, recall = wilson(sum(plain.confusion.hits), plain.num_images)[0], min(c.recall_low or 0 for c in plain.classes)
    met = trained.test(min_accuracy=low, min_recall=recall).verdict
    assert met is not None and met.is_met
    assert met.sentence == f"It meets the target: accuracy at least {low:g}, recall of every class at least {recall:g}."
    missed = trained.test(min_accuracy=low + 1e-6, min_recall=recall + 1e-6).verdict
    assert missed is not None and not missed.is_met
    assert f"its accuracy may be as low as {low:.4f}" in missed.sentence
    assert f"{recall:.4f}" in missed.sentence


def test_a_missed_target_is_exit_code_3_and_opens_the_report(
    run: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["test", "--checkpoint", str(run.model), "--work_dir", str(run.path.parent)]
    assert main(words) == 0
    assert "the target" not in capsys.readouterr().out
    assert main([*words, "--min_accuracy", "0.99"]) == 3
    said = capsys.readouterr().out
    assert "It misses the target: its accuracy may be as low as" in said
    assert "(that takes at least 381 images, and there are" in said
    assert 'id="verdict">It misses the target: its accuracy' in run.report.read_text()
    assert main([*words, "--min_accuracy", "0"]) == 0
    (result, _) = read_test(max(run.path.glob("test/*")))
    assert result.verdict is not None and result.verdict.is_met


@pytest.mark.parametrize("value", ["95", "-0.1", "nan", "most"])
@pytest.mark.parametrize("option", ["--min_accuracy", "--min_recall"])
def test_a_target_that_is_no_share_is_refused(option: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["test", f"{option}={value}"]) == 2
    assert option in capsys.readouterr().err


def test_the_api_refuses_a_target_in_percent(trained: Engine) -> None:
    with pytest.raises(UsageError, match="--min_recall 90: must be from 0 to 1"):
        trained.test(min_recall=90)


@pytest.mark.parametrize("stored", [True, False], ids=["stored digests", "files of the run"])
def test_photos_it_was_trained_on_are_left_out(
    run: RunFolder, photos: Path, tmp_path: Path, recorder: Recorder, stored: bool
) -> None:
    folder, count = seen_and_new(run, photos, tmp_path / "holiday", num_new=3)
    if not stored:
        run.known.unlink()
    engine = Engine(work_dir=run.path.parent, checkpoint=run.model, reporter=recorder)
    engine.test()
    before = run.report.read_bytes()
    result = engine.test(data_root=folder)
    assert (result.num_images, result.num_known, result.is_compared) == (3, count, True)
    assert f"{count} of the {count + 3} images in {folder} are left out" in "".join(recorder.warnings)
    assert run.report.read_bytes() == before
    (own,) = (path.parent for path in run.path.glob("test/*/report.html"))
    assert len((own / "known_images.csv").read_text().splitlines()) == count + 1
    page = (own / "report.html").read_text()
    assert "of 3 new photos in “holiday”" in page or "on all 3 new photos in “holiday”" in page
    assert f"Left out: {count} of its images" in page


def test_a_folder_of_seen_photos_alone_is_refused(run: RunFolder, photos: Path, tmp_path: Path) -> None:
    folder, count = seen_and_new(run, photos, tmp_path / "copy", num_new=0)
    with pytest.raises(DataError, match=f"was trained or validated on {count} of the {count} images"):
        Engine(work_dir=run.path.parent, checkpoint=run.model).test(data_root=folder)


def test_strict_refuses_what_it_was_trained_on(
    run: RunFolder, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, count = seen_and_new(run, photos, tmp_path / "copy", num_new=1)
    words = ["test", "--checkpoint", str(run.model), "--work_dir", str(run.path.parent), "--data_root", str(folder)]
    assert main([*words, "--strict"]) == 2
    assert f"was trained or validated on {count} of the {count + 1} images" in capsys.readouterr().err
    assert not list(run.path.glob("test/*"))


def test_where_its_images_are_gone_no_photo_is_called_new(
    run: RunFolder, photos: Path, tmp_path: Path, recorder: Recorder
) -> None:
    folder, count = seen_and_new(run, photos, tmp_path / "copy", num_new=2)
    run.known.unlink()
    text = run.split.read_text(encoding="utf-8")
    run.split.write_text(text + "cat/gone.png,cat,train\n", encoding="utf-8")
    engine = Engine(work_dir=run.path.parent, checkpoint=run.model, reporter=recorder)
    result = engine.test(data_root=folder)
    assert (result.num_images, result.num_known, result.is_compared) == (2, count, False)
    assert "whether these images are new to it is not known" in "".join(recorder.warnings)
    (page,) = run.path.glob("test/*/report.html")
    assert "new photo" not in page.read_text()
    with pytest.raises(DataError, match="--strict: not all that"):
        engine.test(data_root=folder, strict=True)


def test_another_split_file_can_test_on_validation_images_but_not_on_training_images(
    run: RunFolder, photos: Path, tmp_path: Path
) -> None:
    rows = list(csv.reader(run.split.read_text(encoding="utf-8").splitlines()))
    lines = [
        (path, name, ("train", "val")[number % 2] if subset == "test" else "test")
        for number, (path, name, subset) in enumerate(rows[1:])
    ]
    file = tmp_path / "split.csv"
    file.write_text("\n".join(map(",".join, [rows[0], *lines])) + "\n", encoding="utf-8")
    counts = Counter(subset for _, _, subset in rows[1:])
    engine = Engine(work_dir=run.path.parent, checkpoint=run.model, overrides={"data.split_file": str(file)})
    result = engine.test()
    assert (result.num_images, result.num_known) == (counts["val"], counts["train"])


def test_the_page_of_a_test_is_written_again(run: RunFolder, photos: Path, tmp_path: Path) -> None:
    folder, _ = seen_and_new(run, photos, tmp_path / "copy", num_new=2)
    engine = Engine(work_dir=run.path.parent, checkpoint=run.model)
    engine.test(data_root=folder)
    (page,) = run.path.glob("test/*/report.html")
    before = page.read_text()
    page.unlink()
    assert engine.report(page.parent) == page
    assert page.read_text().count("new photos in “copy”") == before.count("new photos in “copy”") > 0
    both = engine.report([page.parent, run.path]).read_text()
    assert "new photos in “copy”" in both
