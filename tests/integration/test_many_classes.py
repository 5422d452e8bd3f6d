"""Training, test and report of 1,200 classes: files and pages stay small, and numbers are names as any other."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import SMALL
from otx import Engine
from otx.console import ROWS_SHOWN, show_check, show_test
from otx.errors import DataError
from otx.evaluation.evaluate import read_test
from otx.inference.predict import PROBABILITIES_KEPT
from otx.report.classes import CLASSES_LISTED
from otx.workspace import RunFolder, latest_run

CLASSES = 1200
BYTES_A_CLASS = 400


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    """A training of one epoch, with fitted classifier; of the two images of a class one trains and one is tested."""
    import timm
    from safetensors.torch import save_file

    root, weights = tmp_path_factory.mktemp("many"), tmp_path_factory.mktemp("weights") / "weights.safetensors"
    rng = np.random.default_rng(0)
    for name in range(1, CLASSES + 1):
        (root / str(name)).mkdir()
        colour = rng.integers(0, 256, (4, 4, 3))
        for number in range(2):
            noisy = np.kron(colour, np.ones((8, 8, 1))) + rng.normal(0, 5, (32, 32, 3))
            Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).save(root / str(name) / f"{number}.png")
    save_file(timm.create_model("test_resnet", pretrained=False).state_dict(), str(weights))
    changes = {
        **SMALL,
        "model.weights": str(weights),
        "data.train_subset.batch_size": 64,
        "data.test_share": 0,
        "optimizer.lr": 0.001,
        "max_epochs": 1,
    }
    del changes["model.pretrained"]
    made = Engine(root, model="timm/test_resnet", work_dir=tmp_path_factory.mktemp("ws"), overrides=changes)
    made.train()
    made.test()
    return made


@pytest.fixture(scope="module")
def run(engine: Engine) -> RunFolder:
    return latest_run(engine.work_dir)


@pytest.fixture(scope="module")
def folder(run: RunFolder) -> Path:
    """The folder of the test."""
    return max(run.path.glob("test/*"))


def test_files_grow_with_the_classes_and_not_with_their_square(run: RunFolder, folder: Path) -> None:
    for name in ("results.json", "confusion_matrix.csv", "classes.csv", "predictions.csv"):
        assert (folder / name).stat().st_size < BYTES_A_CLASS * CLASSES, name
    assert run.report.stat().st_size < 2_000_000


def test_the_fitted_classifier_recognises_far_more_than_chance(run: RunFolder) -> None:
    before, *_ = csv.DictReader(run.metrics.read_text().splitlines())
    assert before["epoch"] == "-1"
    assert float(before["val_accuracy"]) > 20 / CLASSES


def test_a_test_is_read_back_and_its_parts_agree(folder: Path) -> None:
    result, images = read_test(folder)
    rows = list(csv.DictReader((folder / "confusion_matrix.csv").read_text().splitlines()))
    assert sum(int(row["count"]) for row in rows) == result.num_images == len(images) == CLASSES
    right = sum(int(row["count"]) for row in rows if row["true"] == row["predicted"])
    assert right == sum(image.is_right for image in images) == sum(result.confusion.hits)
    assert result.top1 == right / CLASSES


def test_numbers_as_names_are_sorted_as_text(folder: Path) -> None:
    result, _ = read_test(folder)
    assert [item.name for item in result.classes[:4]] == ["1", "10", "100", "1000"]


def test_a_page_lists_some_classes_and_says_so(run: RunFolder) -> None:
    page = run.report.read_text()
    assert f"The {CLASSES_LISTED} classes with the lowest F1; all {CLASSES} are in classes.csv" in page
    table = page.partition('id="classes"')[2].partition("</table>")[0]
    assert table.count('<tr><th scope="row">') == CLASSES_LISTED


def test_the_terminal_shows_some_classes_and_says_so(
    engine: Engine, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    show_check(engine.check())
    show_test(read_test(folder)[0])
    printed = capsys.readouterr().out
    assert f"The {ROWS_SHOWN} classes with the fewest images; --output FILE.json lists all {CLASSES}." in printed
    assert f"The {ROWS_SHOWN} classes with the lowest F1; classes.csv lists all {CLASSES}." in printed
    assert len(printed.splitlines()) < 200


def test_a_prediction_has_the_most_probable_classes(engine: Engine) -> None:
    (prediction,) = engine.predict(next(Path(str(engine.recipe.data_root)).glob("7/*.png")))
    named = prediction.probabilities
    assert len(named) == PROBABILITIES_KEPT
    assert list(named.values()) == sorted(named.values(), reverse=True)
    assert prediction.label == next(iter(named))
    assert prediction.probability == named[prediction.label]
    assert sum(named.values()) <= 1 + 1e-9


def test_runs_are_compared_on_a_small_page(engine: Engine, run: RunFolder) -> None:
    page = engine.report([run.path, run.path])
    assert f"Of {CLASSES} classes: those {CLASSES_LISTED} whose recall differs most" in page.read_text()


def test_a_message_names_a_few_classes(engine: Engine, tmp_path: Path) -> None:
    for name in ("1", "2"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (32, 32)).save(tmp_path / name / "0.png")
    (tmp_path / "unknown").mkdir()
    Image.new("RGB", (32, 32)).save(tmp_path / "unknown" / "0.png")
    with pytest.raises(DataError, match="classes that the model does not know: unknown") as caught:
        engine.test(data_root=tmp_path)
    assert len(str(caught.value)) < 1500


def test_results_json_holds_only_counts_above_zero(folder: Path) -> None:
    plain = json.loads((folder / "results.json").read_text())
    assert plain["confusion"]["num_classes"] == CLASSES
    assert all(count > 0 for _, _, count in plain["confusion"]["entries"])
