"""The report of a run: every figure matches the run's files, and the page works in a browser."""

from __future__ import annotations

import csv
import json
import math
import os
import re
import shlex
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from selenium.webdriver.support.ui import WebDriverWait

from browser import (
    AXE,
    CHROMEDRIVER,
    CHROMIUM,
    NO_AXE,
    NO_BROWSER,
    SCHEMES,
    chromium,
    console_errors,
    grave_faults,
    show_as,
)
from conftest import SMALL, Recorder
from images import write_digit_splits, write_noise
from otx import Engine
from otx.catalogue import load_recipe, to_options
from otx.cli import main
from otx.confusion import ConfusionMatrix
from otx.errors import UsageError
from otx.evaluation.evaluate import read_test, write_test
from otx.report.figures import percent
from otx.report.page import SUBSETS, write_report
from otx.results import ImageResult
from otx.workspace import latest_run

EVIL = "<img src=x onerror=alert(1)>.png"
EVIL_CLASS = "<b>4 & 'four'"
SETTINGS = {
    **SMALL,
    "report": True,
    "max_epochs": 3,
    "data.input_size": 48,
    "data.check_images": False,
    "data.train_subset.augmentation.flip": 0.0,
    "data.train_subset.augmentation.scale": (0.7, 1.0),
}
CLICK = "arguments[0].querySelector('path').dispatchEvent(new MouseEvent('click', {bubbles: true, cancelable: true}))"
SLIDE = "const s = document.getElementById('threshold'); s.value = arguments[0]; s.dispatchEvent(new Event('input'))"
LIMIT = 3_000_000


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five digits with 20 train, 6 val and 10 test images each; a file and a class have names that need escaping."""
    splits = {"train": (0, 20), "val": (20, 26), "test": (26, 36)}
    root = write_digit_splits(tmp_path_factory.mktemp("report"), ("0", "1", "2", "3", EVIL_CLASS), splits)
    first = min((root / "test" / EVIL_CLASS).iterdir())
    first.rename(first.with_name(EVIL))
    (root / "test" / "0" / "broken.png").write_bytes(b"not an image")
    return root


@pytest.fixture(scope="module")
def run(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a training that was also tested."""
    engine = Engine(digits, model="timm/resnet10t", work_dir=tmp_path_factory.mktemp("ws"), overrides=SETTINGS)
    folder = engine.train().run_dir
    assert "held-back photos" in (folder / "report.html").read_text()
    engine.test()
    return folder


@pytest.fixture(scope="module")
def page(run: Path) -> str:
    return (run / "report.html").read_text(encoding="utf-8")


def data_of(page: str) -> dict[str, Any]:
    found = re.search(r'<script id="data" type="application/json">(.*?)</script>', page, re.S)
    assert found is not None
    data: dict[str, Any] = json.loads(found[1])
    return data


def answers(run: Path) -> list[dict[str, str]]:
    (file,) = run.glob("test/*/predictions.csv")
    return list(csv.DictReader(file.read_text(encoding="utf-8").splitlines()))


def figure(page: str, name: str) -> str:
    found = re.search(rf'data-figure="{name}">([^<]*)<', page)
    assert found is not None, name
    return found[1]


def labels_of_marks(page: str) -> set[str]:
    return {unescape(text) for text in re.findall(r'aria-label="([^"]*)"', page)}


def test_the_figures_follow_from_the_predictions(run: Path, page: str) -> None:
    from sklearn import metrics

    rows = answers(run)
    true, predicted = [row["label"] for row in rows], [row["predicted"] for row in rows]
    assert len(rows) == 50
    assert figure(page, "num_images") == "50"
    assert figure(page, "top1") == f"{metrics.accuracy_score(true, predicted):.4f}"
    assert (
        figure(page, "macro_f1")
        == f"{metrics.f1_score(true, predicted, average='macro', labels=sorted(set(true))):.4f}"
    )
    assert figure(page, "loss") == f"{-np.mean([np.log(float(row['true_probability'])) for row in rows]):.4f}"
    confidence = np.array([float(row["probability"]) for row in rows])
    right = np.array(true) == np.array(predicted)
    error = 0.0
    for low in range(15):
        inside = (confidence >= low / 15) & ((confidence < (low + 1) / 15) | (low == 14))
        error += abs(right[inside].sum() - confidence[inside].sum()) / len(rows)
    assert figure(page, "calibration_error") == f"{error:.4f}"
    assert f'<span class="sentence">It is right on {right.sum()} of 50 new photos; on very many' in page


def test_the_table_and_the_matrix_follow_from_the_predictions(run: Path, page: str) -> None:
    from scipy.stats import binomtest
    from sklearn.metrics import precision_recall_fscore_support

    rows, marks = answers(run), labels_of_marks(page)
    true, predicted = [row["label"] for row in rows], [row["predicted"] for row in rows]
    names = sorted(set(true))
    table = re.search(r'<table class="sortable" id="classes">.*?<tbody>(.*?)</tbody>', page, re.S)
    assert table is not None
    cells = [
        [unescape(cell) for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row)]
        for row in table[1].split("</tr>")[:-1]
    ]
    columns = precision_recall_fscore_support(true, predicted, labels=names, zero_division=0)
    for place, name in enumerate(names):
        precision, recall, f1 = (f"{100 * column[place]:.1f}" for column in columns[:3])
        low, high = binomtest(round(10 * columns[1][place]), 10).proportion_ci(method="wilson")
        assert cells[place][:7] == [
            name,
            "20",
            "10",
            precision,
            recall,
            f"{math.floor(100 * low)} to {math.ceil(100 * high)}",
            f1,
        ]
    totals = Counter(true)
    for (label, guess), count in Counter(zip(true, predicted, strict=True)).items():
        text = (
            f"{label}: {count} of {totals[label]} recognised ({10 * count} %)"
            if label == guess
            else f"{label} taken for {guess}: {count} of {totals[label]} ({10 * count} %)"
        )
        assert text in marks


def test_every_cell_and_every_threshold_follows_from_the_predictions(run: Path, page: str) -> None:
    rows, data = answers(run), data_of(page)
    wanted: dict[str, set[str]] = {}
    for row in rows:
        wanted.setdefault(
            f"{data['classes'].index(row['label'])}-{data['classes'].index(row['predicted'])}", set()
        ).add(row["path"])
    paths = [f"{data['folders'][folder]}/{name}" for folder, name, _ in data["photos"]]
    assert {cell: set(paths[first:last]) for cell, (first, last) in data["cells"].items()} == wanted
    assert any(path.endswith(EVIL) for path in paths)
    for step, (threshold, covered, right) in enumerate(data["thresholds"]):
        kept = [row for row in rows if float(row["probability"]) >= step / 100]
        hits = sum(row["label"] == row["predicted"] for row in kept)
        assert threshold == f"{step} %"
        assert covered == f"{percent(len(kept), 50)} ({len(kept)} of 50)"
        assert right == (f"{percent(hits, len(kept))} ({hits} of {len(kept)})" if kept else "none")


def test_curves_and_sizes_follow_from_the_files_of_the_run(run: Path, page: str) -> None:
    marks = labels_of_marks(page)
    for row in csv.DictReader((run / "metrics.csv").read_text().splitlines()):
        epoch = int(row["epoch"]) + 1
        assert f"training, epoch {epoch}: {float(row['train_loss']):.4f}" in marks
        assert f"validation, epoch {epoch}: {float(row['val_loss']):.4f}" in marks
        assert f"validation, epoch {epoch}: {float(row['val_accuracy']):.1%}" in marks
        assert f"learning rate, epoch {epoch}: {float(row['lr']):.3g}" in marks
    split = Counter(
        (row["class"], row["subset"]) for row in csv.DictReader((run / "split.csv").read_text().splitlines())
    )
    for (name, subset), count in split.items():
        assert f"{name}, {SUBSETS[subset]}: {count}" in marks
    assert "test/0/broken.png" in page


def test_names_are_escaped_and_the_page_reaches_no_network(page: str) -> None:
    assert EVIL not in page
    assert EVIL_CLASS not in page
    assert "default-src 'none'" in page
    assert not re.search(r"""(?:src|href)=["'](?!data:|#)""", page)
    assert not re.search(r"https?://(?!www\.w3\.org/)", page)


def test_a_test_is_read_back_as_it_was_written(run: Path, tmp_path: Path) -> None:
    (folder,) = run.glob("test/*")
    result, images = read_test(folder)
    write_test(result, images, tmp_path)
    assert read_test(tmp_path) == (result, images)


def test_the_command_on_the_page_trains_the_same_again(run: Path, page: str, tmp_path: Path) -> None:
    found = re.search(r'<code id="command">(.*?)</code>', page, re.S)
    assert found is not None
    words = shlex.split(unescape(found[1]).replace("\\\n", " "))
    assert words[0] == "otx"
    assert main([*words[1:], "--work_dir", str(tmp_path)]) == 0
    ours, theirs = (
        json.loads((folder / "run.json").read_text())["epochs"] for folder in (run, latest_run(tmp_path).path)
    )
    assert [epoch["train_loss"] for epoch in ours] == [epoch["train_loss"] for epoch in theirs]


def test_options_give_the_recipe_back(capsys: pytest.CaptureFixture[str]) -> None:
    changes = {
        "training.early_stopping.patience": None,
        "optimizer.lr": 1e-5,
        "data.input_size": (64, 48),
        "data.check_images": False,
    }
    recipe = load_recipe("efficientnet_b0").override({**changes, "data_root": "my photos"})
    assert main(["train", *to_options(recipe), "--print_config"]) == 0
    import yaml

    assert yaml.safe_load(capsys.readouterr().out) == recipe.to_dict()


def test_a_page_that_cannot_be_written_does_not_fail_the_test(run: Path, tmp_path: Path, recorder: Recorder) -> None:
    copy = shutil.copytree(run, tmp_path / "run")
    (copy / "report.html").unlink()
    (copy / "report.html").mkdir()
    result = Engine(work_dir=tmp_path, checkpoint=copy / "model.safetensors", reporter=recorder).test()
    assert result.num_images == 50
    assert any("report.html was not written: cannot write" in warning for warning in recorder.warnings)


def test_a_run_that_was_killed_has_a_page_of_what_is_there(run: Path, tmp_path: Path) -> None:
    kept = ("configs.yaml", "split.csv", "metrics.csv", "bad_images.csv")
    for name in kept:
        shutil.copy(run / name, tmp_path / name)
    page = write_report(tmp_path).read_text()
    assert "Which classes it confuses is measured by <code>otx test</code>." in page
    assert "The training has not come to its end." in page
    for name in kept[1:]:
        (tmp_path / name).unlink()
    assert "no epoch of the training is over" in write_report(tmp_path).read_text()


def test_suspicions_are_shown_and_damaged_ones_are_named(run: Path, tmp_path: Path, recorder: Recorder) -> None:
    copy = shutil.copytree(run, tmp_path / "run")
    place = {"path": "train/0/0000.png", "label": "0", "subset": "train"}
    leak = {"first": place, "second": {**place, "path": f"test/{EVIL_CLASS}/{EVIL}"}, "exact": False, "likeness": 0.97}
    found = {
        "data_root": str(json.loads(next(run.glob("test/*/results.json")).read_text())["data_root"]),
        "num_images": 140,
        **{name: [] for name in ("broken", "empty", "tiny", "huge", "conflicts", "copies")},
        "odd": [{**place, "reason": "grey among colour"}],
        "leaks": [leak],
        "mislabelled": [{**place, "suggested": "3", "score": 0.91}],
    }
    (copy / "suspicions.json").write_text(json.dumps(found))
    page = write_report(copy).read_text()
    for text in ("Probably mislabelled: 1", "rather <b>3</b>", "likeness 0.97", "grey among colour"):
        assert text in page
    assert EVIL not in page
    (copy / "suspicions.json").write_text("{")
    Engine(work_dir=tmp_path, checkpoint=copy / "model.safetensors", reporter=recorder).test()
    assert any("suspicions.json is damaged" in warning for warning in recorder.warnings)


def test_report_is_the_same_from_both_sides(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(run), "--output", str(tmp_path / "cli.html")]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "cli.html")
    path = Engine().report(run / "model.safetensors", output=tmp_path / "engine.html")
    one, other = ((tmp_path / name).read_text().split("<footer>")[0] for name in ("cli.html", path.name))
    assert one == other


def test_several_runs_stand_side_by_side(run: Path, tmp_path: Path) -> None:
    other = shutil.copytree(run, tmp_path / "other")
    (folder,) = other.glob("test/*")
    result, images = read_test(folder)
    worse = tuple(replace(image, predicted="1" if image.label == "0" else "0") for image in images)
    write_test(replace(result, top1=0.0), worse, folder)
    path = Engine(work_dir=tmp_path / "ws").report([run, other])
    page = path.read_text()
    assert result.top1 > 0
    assert path.parent.parent == tmp_path / "ws" / "reports"
    assert f"<td><strong>{result.top1:.4f}</strong></td><td>0.0000</td>" in page
    gained = sum(image.is_right for image in images)
    assert f"is right on {gained} photos where “other” is wrong, and wrong on 0 where that is right" in unescape(page)


def test_an_export_is_put_into_the_page_and_leaves_the_rest_of_it(run: Path, page: str, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "run")
    result = Engine(work_dir=tmp_path, checkpoint=copy / "model.safetensors").export()
    new = (copy / "report.html").read_text(encoding="utf-8")
    assert (
        f'<span class="file">{result.path.name}</span></th><td class="n">{result.size_bytes / 1e6:.1f} MB</td>' in new
    )
    assert f"{result.latency_ms:.3g} ms a photo" in new
    parts = r"<!--(smallest export|exports)-->.*?<!--/\1-->"
    assert re.sub(parts, "", new, flags=re.S) == re.sub(parts, "", page, flags=re.S)


def test_nothing_but_a_report_is_overwritten(run: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.html").write_text("<p>mine</p>")
    with pytest.raises(UsageError, match=r"mine.html exists, and is no report of otx"):
        Engine().report(run, output=tmp_path / "mine.html")
    with pytest.raises(UsageError, match="there is no run .*gone"):
        Engine().report(tmp_path / "gone")
    with pytest.raises(UsageError, match="is no run folder"):
        Engine().report(tmp_path)
    for _ in range(2):
        Engine().report(run, output=tmp_path / "again.html")


def test_ten_thousand_images_stay_below_three_megabytes(run: Path, tmp_path: Path) -> None:
    copy, photos = shutil.copytree(run, tmp_path / "run"), tmp_path / "photos"
    (folder,) = copy.glob("test/*")
    result, _ = read_test(folder)
    names = [item.name for item in result.classes]
    rng = np.random.default_rng(0)
    noise = write_noise(tmp_path / "noise.jpg", (400, 300))
    images, confusion = [], np.zeros((5, 5), int)
    for number in range(10_000):
        true, guess = rng.integers(0, 5, 2).tolist()
        path = f"class {true}/{rng.bytes(20).hex()}_{number}.jpg"
        (photos / path).parent.mkdir(parents=True, exist_ok=True)
        os.link(noise, photos / path)
        confusion[true, guess] += 1
        images.append(ImageResult(path, names[true], names[guess], float(rng.uniform(0.2, 1)), 0.1, 1))
    result = replace(
        result, data_root=photos, num_images=10_000, confusion=ConfusionMatrix.from_rows(confusion.tolist())
    )
    write_test(result, images, folder)
    page = write_report(copy)
    assert page.stat().st_size < LIMIT
    data = data_of(page.read_text())
    assert len(data["photos"]) == 10_000
    assert len(data["thumbs"]) > 100


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if not (CHROMIUM and CHROMEDRIVER):
        pytest.skip(NO_BROWSER)
    with chromium(width=1200, height=900) as driver:
        yield driver


@pytest.fixture
def opened(browser: Any, run: Path) -> Any:
    """The browser with the page of the run; the console must stay empty."""
    browser.get("about:blank")
    browser.get((run / "report.html").as_uri())
    yield browser
    assert console_errors(browser) == []


def texts(browser: Any, selector: str) -> list[str]:
    found: list[str] = browser.execute_script(
        "return [...document.querySelectorAll(arguments[0])].map(e => e.textContent)", selector
    )
    return found


def test_a_click_on_the_matrix_shows_the_right_images(opened: Any, run: Path) -> None:
    names = sorted({row["label"] for row in answers(run)})
    links = opened.find_elements("css selector", ".plot a")
    assert len(links) == len({(row["label"], row["predicted"]) for row in answers(run)})
    for link in links:
        opened.execute_script(CLICK, link)
        row, column = map(int, link.get_dom_attribute("href").split("#cell-")[1].split("-"))
        wanted = {r["path"] for r in answers(run) if (r["label"], r["predicted"]) == (names[row], names[column])}
        assert set(texts(opened, "#cell li a")) == wanted
        assert len(opened.find_elements("css selector", "#cell li img")) == len(wanted)


def test_a_real_click_and_the_pointer_on_a_cell(opened: Any) -> None:
    from selenium.webdriver import ActionChains

    cell = opened.find_element("css selector", ".plot a path")
    opened.execute_script("arguments[0].scrollIntoView({block: 'center'})", cell)
    ActionChains(opened).move_to_element(cell).click().perform()
    assert opened.find_element("css selector", "#tip").text == cell.get_attribute("aria-label")
    assert opened.find_elements("css selector", "#cell .shots li")


def test_the_slider_shows_the_figures_of_python(opened: Any, run: Path) -> None:
    for step in (0, 37, 100):
        opened.execute_script(SLIDE, step)
        kept = [row for row in answers(run) if float(row["probability"]) >= step / 100]
        hits = sum(row["label"] == row["predicted"] for row in kept)
        assert texts(opened, "#threshold-value") == [f"{step} %"]
        assert texts(opened, "#covered") == [f"{percent(len(kept), 50)} ({len(kept)} of 50)"]
        assert texts(opened, "#accuracy") == [f"{percent(hits, len(kept))} ({hits} of {len(kept)})" if kept else "none"]


def test_a_column_is_sorted_with_the_keyboard(opened: Any) -> None:
    from selenium.webdriver import Keys

    button = opened.find_elements("css selector", "#classes th button")[4]
    button.send_keys(Keys.ENTER)
    falling = [float(text) for text in texts(opened, "#classes tbody td:nth-child(5)")]
    assert falling == sorted(falling, reverse=True)
    button.send_keys(Keys.ENTER)
    assert [float(text) for text in texts(opened, "#classes tbody td:nth-child(5)")] == falling[::-1] == sorted(falling)
    assert opened.find_elements("css selector", "#classes th")[4].get_attribute("aria-sort") == "ascending"


def test_a_cell_without_a_figure_is_sorted_before_all(opened: Any) -> None:
    opened.execute_script("document.querySelector('#classes tbody tr:nth-child(3) td:nth-child(5)').textContent = ''")
    button = opened.find_elements("css selector", "#classes th button")[4]
    for _ in range(2):
        opened.execute_script("arguments[0].click()", button)
    empty, *rest = texts(opened, "#classes tbody td:nth-child(5)")
    assert (empty, rest) == ("", sorted(rest, key=float))


@pytest.fixture
def phone(opened: Any) -> Iterator[Any]:
    show_as(opened, "light", 390)
    yield opened
    opened.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_nothing_scrolls_sideways_on_a_phone(phone: Any) -> None:
    assert phone.execute_script("return [innerWidth, document.documentElement.scrollWidth]") == [390, 390]


def test_a_phone_shows_six_mistakes_and_opens_more(phone: Any) -> None:
    def shown() -> int:
        return len([item for item in phone.find_elements("css selector", "#gallery li") if item.is_displayed()])

    assert shown() == 6
    phone.find_element("css selector", "#gallery summary").click()
    assert shown() > 6


@pytest.mark.skipif(not AXE.is_file(), reason=NO_AXE)
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", [1200, 390])
def test_everybody_can_read_the_page(opened: Any, scheme: str, width: int) -> None:
    show_as(opened, scheme, width)
    opened.execute_script("for (const each of document.querySelectorAll('details')) each.open = true")
    assert grave_faults(opened) == []
    opened.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_the_keyboard_reaches_every_part(opened: Any) -> None:
    """Tab from the top to the end, and Enter on a cell of the matrix and on the way back."""
    from selenium.webdriver import ActionChains, Keys

    reached = []
    for _ in range(150):
        ActionChains(opened).send_keys(Keys.TAB).perform()
        focused = opened.switch_to.active_element
        reached.append(focused.get_dom_attribute("id") or focused.get_dom_attribute("href") or focused.text)
        if focused.text == "The whole recipe":
            break
    cell = opened.find_element("css selector", ".plot a")
    for wanted in ("All figures", cell.get_dom_attribute("href"), "threshold", "Copy", "The whole recipe"):
        assert wanted in reached
    cell.send_keys(Keys.ENTER)
    assert opened.find_element("css selector", "#tip").text == cell.find_element("css selector", "path").accessible_name
    assert opened.find_elements("css selector", "#cell .shots li")
    opened.find_element("css selector", "#cell button").send_keys(Keys.ENTER)
    assert opened.find_element("css selector", "#cell h3").text == "Most frequent mistakes"


def test_the_command_is_copied_a_line_an_option(opened: Any) -> None:
    opened.find_element("css selector", "[data-copies]").click()
    WebDriverWait(opened, 20).until(lambda page: texts(page, "#copied") == ["copied"])
    lines = texts(opened, "#command")[0].split(" \\\n    ")
    assert lines[0] == "otx train"
    assert all(line.startswith("--") for line in lines[1:])


def test_the_table_of_thresholds_follows_from_the_predictions(opened: Any, run: Path) -> None:
    for row in opened.find_elements("css selector", "#choices tbody tr"):
        confidence, answered, right, mistakes = (cell.text for cell in row.find_elements("css selector", "th, td"))
        step = 0 if confidence == "any" else int(confidence.split()[1])
        kept = [each for each in answers(run) if float(each["probability"]) >= step / 100]
        wrong = sum(each["label"] != each["predicted"] for each in kept)
        assert (answered, right, mistakes) == (
            percent(len(kept), 50),
            percent(len(kept) - wrong, len(kept)),
            str(wrong),
        )


def test_names_that_bite_do_no_harm(opened: Any, run: Path) -> None:
    (label, predicted) = next((r["label"], r["predicted"]) for r in answers(run) if r["path"].endswith(EVIL))
    names = sorted({row["label"] for row in answers(run)})
    cell = f"[href='#cell-{names.index(label)}-{names.index(predicted)}']"
    opened.execute_script(CLICK, opened.find_element("css selector", f".plot a{cell}"))
    assert f"test/{EVIL_CLASS}/{EVIL}" in texts(opened, "#cell li a")
    assert opened.execute_script("return document.querySelectorAll('img[onerror], img[src=x]').length") == 0
    shown = opened.execute_script("return [...document.images].every(i => i.complete && i.naturalWidth > 0)")
    assert shown


def test_the_pictures_of_the_gallery_are_those_of_the_files(run: Path, digits: Path) -> None:
    import base64
    import io

    page = (run / "report.html").read_text()
    found = re.findall(r'<img src="data:image/webp;base64,([^"]*)" alt="(test/[^"]*)">', page)
    assert found
    for encoded, path in found:
        picture = Image.open(io.BytesIO(base64.b64decode(encoded))).convert("L").resize((8, 8), Image.Resampling.BOX)
        with Image.open(digits / unescape(path)) as photo:
            assert np.abs(np.asarray(picture, int) - np.asarray(photo.convert("L"), int)).mean() < 16
