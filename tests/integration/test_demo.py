"""The demo gives the answers of `otx predict`, only to this machine, and says what it cannot do."""

from __future__ import annotations

import base64
import csv
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
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
from images import write_classes, write_image, write_noise
from otx import Engine, local_server
from otx.cli import main
from otx.demo.server import PAGE, Demo
from otx.errors import UsageError
from otx.evaluation.evaluate import read_test, write_test
from otx.local_server import MAX_BYTES, UPLOADS
from otx.report.figures import percent_of
from otx.workspace import latest_run

CLASSES = ("<b>red", "blue & co", "green")
needs_chromium = pytest.mark.skipif(not (CHROMIUM and CHROMEDRIVER), reason=NO_BROWSER)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    """A network whose saliency maps are larger than one pixel, exported with them."""
    root = write_classes(tmp_path_factory.mktemp("colours"), dict.fromkeys(CLASSES, 20))
    changes = {**SMALL, "data.input_size": 64, "max_epochs": 1}
    engine = Engine(root, model="timm/resnet10t", work_dir=tmp_path_factory.mktemp("ws"), overrides=changes)
    engine.train()
    engine.export(explain=True)
    return engine


@pytest.fixture(scope="module")
def exported(engine: Engine) -> Path:
    return latest_run(engine.work_dir).path / "exported_model.xml"


@pytest.fixture(scope="module")
def demo(engine: Engine) -> Iterator[Demo]:
    with Engine(work_dir=engine.work_dir).demo() as demo:
        yield demo


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A photo with an EXIF rotation, larger than the network's input."""
    turned = Image.Exif()
    turned[0x0112] = 6
    rng = np.random.default_rng(3)
    pixels = (rng.normal(90, 60, (90, 128, 3)) + np.linspace(0, 90, 128)[:, None]).clip(0, 255).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.jpg", exif=turned)
    return tmp_path / "photo.jpg"


def ask(
    demo: Demo, method: str, path: str, body: bytes | None = None, **headers: str
) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of the answer to a request."""
    with closing(http.client.HTTPConnection(address(demo), timeout=20)) as connection:
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        return response.status, dict(response.getheaders()), response.read()


def address(demo: Demo) -> str:
    return demo.url.removeprefix("http://").rstrip("/")


def error_of(answer: tuple[int, dict[str, str], bytes]) -> tuple[int, str]:
    return answer[0], json.loads(answer[2])["error"]


def shares(candidates: list[dict[str, Any]]) -> dict[str, float]:
    return {each["label"]: each["probability"] for each in candidates}


def test_a_photo_is_classified_as_predict_does(demo: Demo, engine: Engine, exported: Path, photo: Path) -> None:
    (expected,) = engine.predict(photo, checkpoint=exported)
    status, _, body = ask(demo, "POST", "/classify", photo.read_bytes())
    answer = json.loads(body)
    assert (status, shares(answer["candidates"])) == (200, expected.probabilities)
    assert answer["candidates"][0]["label"] == expected.label
    assert answer["known"] == expected.known is not None
    assert (answer["width"], answer["height"], answer["num_classes"]) == (90, 128, 3)
    assert answer["decode_ms"] > 0
    assert answer["classify_ms"] > 0
    assert answer["map_ms"] > 0


def test_an_example_is_an_image_of_the_test_split(demo: Demo, engine: Engine, exported: Path) -> None:
    examples = json.loads(ask(demo, "GET", "/model")[2])["examples"]
    split = (exported.parent / "split.csv").read_text().splitlines()
    tests = [Path(engine.recipe.data_root or "") / line.split(",")[0] for line in split if line.endswith("test")]
    expected = [p.probabilities for p in engine.predict(tests, checkpoint=exported)]
    assert {each["label"] for each in examples} == set(CLASSES)
    for number in range(len(examples)):
        answer = json.loads(ask(demo, "POST", f"/examples/{number}")[2])
        assert shares(answer["candidates"]) in [pytest.approx(probabilities, abs=1e-6) for probabilities in expected]


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "127.0.0.1.evil.example:80"},
        {"Host": ""},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
    ids=str,
)
def test_other_sites_are_refused(headers: dict[str, str], demo: Demo, photo: Path) -> None:
    status, reason = error_of(ask(demo, "POST", "/classify", photo.read_bytes(), **headers))
    assert status == 403
    assert reason in ("this demo answers at 127.0.0.1 and localhost alone", "another site may not ask this demo")


def test_the_pages_own_posts_are_answered_through_a_tunnel_too(demo: Demo, photo: Path) -> None:
    own = {"Host": "localhost:8000", "Origin": "http://localhost:8000", "Sec-Fetch-Site": "same-origin"}
    assert ask(demo, "POST", "/classify", photo.read_bytes(), **own)[0] == 200
    assert ask(demo, "POST", "/classify", photo.read_bytes(), **{**own, "Host": "localhost:8001"})[0] == 403


@pytest.mark.parametrize(
    ("method", "path", "status", "allow"),
    [
        ("GET", "/classify", 405, "POST"),
        ("GET", "/examples/0", 405, "POST"),
        ("POST", "/", 405, "GET, HEAD"),
        ("DELETE", "/model", 405, "GET, HEAD"),
        ("OPTIONS", "/classify", 405, "POST"),
        ("GET", "/nothing", 404, None),
        ("HEAD", "/../page.html", 404, None),
        ("POST", "/examples/99", 404, None),
        ("POST", "/examples/-1", 404, None),
    ],
)
def test_other_pages_and_methods_are_refused(
    method: str, path: str, status: int, allow: str | None, demo: Demo
) -> None:
    answer = ask(demo, method, path, b"x" if method == "POST" else None)
    assert (answer[0], answer[1].get("Allow")) == (status, allow)


def test_the_page_refers_to_nothing_elsewhere(demo: Demo) -> None:
    status, headers, body = ask(demo, "GET", "/")
    assert (status, body) == (200, PAGE.read_bytes())
    assert b'<link rel="icon" href="data:' in body, "or the browser asks for one"
    assert set(re.findall(r"(?:https?:)?//[\w.]+", body.decode())) == {"http://www.w3.org"}, "a name, not an address"
    assert "unsafe" not in headers["Content-Security-Policy"]
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert ask(demo, "HEAD", "/")[1]["Content-Length"] == str(len(body))


def test_what_cannot_be_decoded_is_named(engine: Engine, tmp_path: Path) -> None:
    noise = write_noise(tmp_path / "noise.jpg", (50, 40)).read_bytes()
    with Engine(work_dir=engine.work_dir, overrides={"data.max_image_pixels": 1000}).demo() as small:
        assert error_of(ask(small, "POST", "/classify", b"no photo")) == (422, "not an image that can be read")
        assert error_of(ask(small, "POST", "/classify", b"")) == (422, "the file is empty")
        status, reason = error_of(ask(small, "POST", "/classify", noise))
        assert (status, "50x40 pixels are more than the limit of 1000" in reason) == (422, True)


def test_a_photo_that_is_cut_off_is_named(demo: Demo, tmp_path: Path) -> None:
    noise = write_noise(tmp_path / "noise.jpg").read_bytes()
    status, reason = error_of(ask(demo, "POST", "/classify", noise[:300]))
    assert status == 422
    assert "Traceback" not in reason


def test_uploads_are_bounded(demo: Demo) -> None:
    large = ask(demo, "POST", "/classify", bytes(MAX_BYTES + 1))
    assert error_of(large) == (413, "20.0 MB are more than the limit of 20 MB")
    for headers in ({"Transfer-Encoding": "chunked"}, {"Content-Length": "-1"}, {"Content-Length": "x"}):
        assert error_of(ask(demo, "POST", "/classify", **headers)) == (411, "the upload does not say how long it is")


def half_an_upload(demo: Demo) -> socket.socket:
    """A connection that has announced ten bytes and sent three."""
    host, port = address(demo).split(":")
    connection = socket.create_connection((host, int(port)), timeout=20)
    connection.sendall(f"POST /classify HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Length: 10\r\n\r\nabc".encode())
    return connection


def until(check: Any, seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_more_uploads_at_once_than_allowed_are_turned_away(demo: Demo, photo: Path) -> None:
    def ask_one() -> int:
        return ask(demo, "POST", "/classify", photo.read_bytes())[0]

    connections = [half_an_upload(demo) for _ in range(UPLOADS)]
    until(lambda: ask_one() == 503)
    answer = ask(demo, "POST", "/classify", photo.read_bytes())
    assert (answer[0], answer[1]["Retry-After"]) == (503, "1")
    assert ask(demo, "GET", "/")[0] == 200
    for connection in connections:
        connection.close()
    until(lambda: ask_one() == 200)


def test_slow_uploads_end(demo: Demo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_server._Handler, "timeout", 0.2)
    with closing(half_an_upload(demo)) as connection:
        answer = connection.makefile("rb").read()
    assert b" 408 " in answer.splitlines()[0]
    assert b"the upload takes too long" in answer
    monkeypatch.undo()
    monkeypatch.setattr(local_server, "BODY_SECONDS", 0.0)
    with closing(half_an_upload(demo)) as connection:
        assert b" 408 " in connection.recv(100)


def test_photos_at_once_get_their_own_answers(demo: Demo, engine: Engine, exported: Path, tmp_path: Path) -> None:
    files = [write_image(tmp_path / f"{number}.png", (20 * number, 255 - 20 * number, 99)) for number in range(12)]
    expected = [prediction.probabilities for prediction in engine.predict(files, checkpoint=exported)]
    with ThreadPoolExecutor(UPLOADS) as pool:
        answers = list(pool.map(lambda file: ask(demo, "POST", "/classify", file.read_bytes()), files))
    for answer, probabilities in zip(answers, expected, strict=True):
        assert shares(json.loads(answer[2])["candidates"]) == pytest.approx(probabilities, abs=1e-6)


def test_a_port_that_cannot_be_had_is_said_with_exit_code_2(
    demo: Demo, engine: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    port = address(demo).split(":")[1]
    for number, reason in ((port, "Address already in use"), ("70000", "must be from 0 to 65535")):
        assert main(["demo", "--work_dir", str(engine.work_dir), "--port", number]) == 2
        assert f"error: --port {number}: {reason}\n  fix: leave --port out" in capsys.readouterr().err


def test_a_closed_demo_frees_its_port(engine: Engine) -> None:
    with Engine(work_dir=engine.work_dir).demo() as demo:
        port = int(address(demo).split(":")[1])
    with pytest.raises(ConnectionRefusedError):
        ask(demo, "GET", "/")
    Engine(work_dir=engine.work_dir).demo(port=port).close()


def test_files_without_maps_and_runs_without_data_say_so(
    trained: Engine, engine: Engine, tmp_path: Path, photo: Path
) -> None:
    plain = engine.export(output=tmp_path, export_format="ONNX").path
    with Engine(checkpoint=plain, overrides={"data_root": str(tmp_path / "gone")}).demo() as demo:
        answer = json.loads(ask(demo, "POST", "/classify", photo.read_bytes())[2])
        about = json.loads(ask(demo, "GET", "/model")[2])
    assert answer["map_ms"] is None
    assert "`otx export --explain true` writes one that has them" in answer["no_maps"]
    assert about["examples"] == []
    assert f"there is no folder {tmp_path / 'gone'}" in about["no_examples"]
    single = trained.export(output=tmp_path, explain=True).path
    with Engine(checkpoint=single).demo() as demo:
        answer = json.loads(ask(demo, "POST", "/classify", photo.read_bytes())[2])
    assert answer["no_maps"] == "at its input size this network sees a photo as a single place"


def test_a_training_without_an_export_is_served_without_torch(engine: Engine, tmp_path: Path, photo: Path) -> None:
    """As a user starts it: another process exports the model, a browser opens, Ctrl-C ends it with exit code 0."""
    opened = tmp_path / "opened"
    (tmp_path / "browser").write_text(f'#!/bin/sh\necho "$1" > {opened}\n')
    (tmp_path / "browser").chmod(0o755)
    run = tmp_path / "run"
    shutil.copytree(latest_run(engine.work_dir).path, run, ignore=shutil.ignore_patterns("exported*", "checkpoints"))
    code = (
        "import sys; from otx.cli import main; "
        f"code = main(['demo', '--checkpoint', {str(run)!r}]); "
        "heavy = {'torch', 'timm', 'lightning', 'sklearn'} & set(sys.modules); "
        "sys.exit(code or (f'imported {heavy}' if heavy else 0))"
    )
    pipe = subprocess.PIPE
    desktop = {**os.environ, "DISPLAY": ":9", "BROWSER": f"{tmp_path / 'browser'} %s"}
    with subprocess.Popen([sys.executable, "-c", code], stdout=pipe, stderr=pipe, text=True, env=desktop) as process:
        assert process.stdout is not None
        said = process.stdout.readline()
        found = re.fullmatch(r"The demo is at (http://127\.0\.0\.1:\d+/) - Ctrl-C ends it\.\n", said)
        assert found, said
        with closing(http.client.HTTPConnection(found[1].split("/")[2], timeout=20)) as connection:
            connection.request("POST", "/classify", photo.read_bytes())
            answer = json.loads(connection.getresponse().read())
        until(lambda: opened.exists() and opened.read_text() == f"{found[1]}\n")
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
    assert (process.returncode, "Traceback" in errors) == (0, False), errors
    (expected,) = engine.predict(photo, checkpoint=run / "demo" / "exported_model.xml")
    assert shares(answer["candidates"]) == expected.probabilities
    assert answer["no_maps"] == ""


def test_an_export_older_than_its_model_is_not_served(
    engine: Engine, exported: Path, recorder: Recorder, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(exported.parent, run, ignore=shutil.ignore_patterns("checkpoints"))
    (run / "model.safetensors").write_bytes(b"damaged, and newer than its export")
    with pytest.raises(Exception, match="model.safetensors cannot be exported for the demo: .*no safetensors file"):
        Engine(checkpoint=run, reporter=recorder).demo()
    assert recorder.notes == [f"Exporting {run / 'model.safetensors'} once for the demo, to {run / 'demo'} ..."]


def test_what_is_no_model_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is a folder"):
        Engine(checkpoint=tmp_path).demo()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    fake = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
    with chromium(*fake) as driver:
        yield driver


def shown(browser: Any) -> dict[str, str]:
    """The classes on the page with the percentage beside each, once there is an answer."""
    WebDriverWait(browser, 20).until(lambda page: page.find_element(By.ID, "best").text)
    rows = browser.find_elements(By.CSS_SELECTOR, "#classes .class")
    return dict(row.text.split("\n") for row in rows)


def opened(browser: Any, demo: Demo) -> Any:
    browser.get(demo.url)
    WebDriverWait(browser, 20).until(lambda page: page.find_elements(By.CSS_SELECTOR, "body[data-ready]"))
    return browser


def printed(probabilities: dict[str, float]) -> dict[str, str]:
    """The probabilities in whole percents."""
    return {name: percent_of(value) for name, value in probabilities.items()}


TRANSFER = """
const [encoded, name, kind] = arguments;
const data = Uint8Array.from(atob(encoded), (letter) => letter.charCodeAt(0));
const transfer = new DataTransfer();
transfer.items.add(new File([data], name));
const target = document.elementFromPoint(200, 200);
const init = { bubbles: true, cancelable: true, dataTransfer: transfer, clipboardData: transfer };
if (kind === "drop") target.dispatchEvent(new DragEvent("dragover", init));
const event = kind === "drop" ? new DragEvent("drop", init) : new ClipboardEvent("paste", init);
return !target.dispatchEvent(event);
"""


def give(browser: Any, file: Path, kind: str) -> None:
    if kind == "choose":
        browser.find_element(By.ID, "file").send_keys(str(file))
    else:
        assert browser.execute_script(TRANSFER, base64.b64encode(file.read_bytes()).decode(), file.name, kind)


@needs_chromium
@pytest.mark.parametrize("kind", ["drop", "paste", "choose"])
def test_a_photo_given_to_the_page_is_classified_as_predict_does(
    kind: str, browser: Any, demo: Demo, engine: Engine, exported: Path, photo: Path
) -> None:
    (expected,) = engine.predict(photo, checkpoint=exported)
    page = opened(browser, demo)
    give(page, photo, kind)
    assert shown(page) == printed(expected.probabilities)
    assert page.find_element(By.ID, "best").text in (expected.label, "Not sure")
    assert re.match(r"[\d.]+ ms on the server: ", page.find_element(By.ID, "time").text)
    assert console_errors(page) == []


@needs_chromium
def test_the_map_stands_beside_the_photo_once_it_is_wanted(browser: Any, demo: Demo, photo: Path) -> None:
    page = opened(browser, demo)
    give(page, photo, "choose")
    shown(page)
    heat, preview = page.find_element(By.ID, "heat"), page.find_element(By.ID, "preview")
    assert preview.is_displayed()
    assert not heat.is_displayed()
    page.find_element(By.ID, "with-map").send_keys(Keys.SPACE)
    WebDriverWait(page, 20).until(lambda page: heat.is_displayed())
    assert heat.size == preview.size
    assert (heat.location["y"], heat.location["x"] > preview.location["x"]) == (preview.location["y"], True)
    middle = "const box = heat.getBoundingClientRect(); return document.elementFromPoint(box.x + 9, box.y + 9).id"
    assert page.execute_script(f"const heat = arguments[0]; {middle}", heat) == "heat", "not under the grey photo"
    assert page.find_element(By.ID, "legend").is_displayed()
    assert console_errors(page) == []


@needs_chromium
def test_another_class_and_its_map_are_chosen_with_the_keyboard(browser: Any, demo: Demo, photo: Path) -> None:
    page = opened(browser, demo)
    page.find_element(By.ID, "with-map").send_keys(Keys.SPACE)
    give(page, photo, "choose")
    shown(page)
    heat = page.find_element(By.ID, "heat")
    first = heat.get_attribute("src")
    second = page.find_elements(By.CSS_SELECTOR, "#classes button")[1]
    second.send_keys(Keys.ENTER)
    assert heat.get_attribute("src") != first
    assert second.get_attribute("aria-pressed") == "true"
    assert second.text.split("\n")[0] in page.find_element(By.ID, "maps").text
    assert console_errors(page) == []


def give_all(page: Any, files: list[Path]) -> None:
    page.find_element(By.ID, "file").send_keys("\n".join(map(str, files)))
    done = f"{len(files)} photos"
    WebDriverWait(page, 20).until(lambda page: page.find_element(By.ID, "progress").text == done)


@pytest.fixture
def three(tmp_path: Path, photo: Path) -> list[Path]:
    """A photo, a file that is none, and a photo whose name needs quotes in a CSV."""
    (tmp_path / "notes.jpg").write_text("no photo")
    return [photo, tmp_path / "notes.jpg", write_image(tmp_path / 'a, "b".png', (10, 200, 30))]


@needs_chromium
def test_several_photos_become_the_csv_of_predict(
    demo: Demo, engine: Engine, exported: Path, three: list[Path], tmp_path: Path
) -> None:
    with chromium() as page:
        page.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
        give_all(opened(page, demo), three)
        page.find_element(By.ID, "save").click()
        until(lambda: (tmp_path / "predictions.csv").is_file())
        rows = list(csv.DictReader((tmp_path / "predictions.csv").read_text(encoding="utf-8").splitlines()))
    assert [row.pop("sure") in ("true", "false", "") for row in rows] == [True] * 3
    expected = tmp_path / "expected.csv"
    list(engine.iter_predict(three, checkpoint=exported, output=expected))
    wanted = list(csv.DictReader(expected.read_text(encoding="utf-8").splitlines()))
    for row, other in zip(rows, wanted, strict=True):
        assert (row["path"], row["label"], row["known"]) == (Path(other["path"]).name, other["label"], other["known"])
        assert (row["probability"] == other["probability"], bool(row["error"])) == (True, bool(other["error"]))


@needs_chromium
def test_one_of_several_photos_is_looked_at_with_the_keyboard(browser: Any, demo: Demo, three: list[Path]) -> None:
    page = opened(browser, demo)
    give_all(page, three)
    buttons = page.find_elements(By.CSS_SELECTOR, "#rows button")
    assert [button.text for button in buttons] == [file.name for file in three]
    buttons[2].send_keys(Keys.ENTER)
    assert page.find_element(By.ID, "preview").get_attribute("alt") == three[2].name
    buttons[1].send_keys(Keys.ENTER)
    assert page.find_element(By.ID, "error").text == "notes.jpg: not an image that can be read"
    assert [line for line in console_errors(page) if "422" not in line] == []


@needs_chromium
def test_an_answer_below_the_threshold_is_not_sure(browser: Any, demo: Demo, photo: Path) -> None:
    page = opened(browser, demo)
    threshold = page.find_element(By.ID, "threshold")
    threshold.send_keys(Keys.HOME)
    give(page, photo, "choose")
    label, share = next(iter(shown(page).items()))
    assert page.find_element(By.ID, "best").text == label
    assert not page.find_element(By.ID, "unsure").is_displayed()
    threshold.send_keys(Keys.END)
    assert page.find_element(By.ID, "best").text == "Not sure"
    assert page.find_element(By.ID, "unsure").text == f"Perhaps {label}: {share} is below 100 %."


@needs_chromium
@pytest.mark.skipif(not AXE.is_file(), reason=NO_AXE)
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", [1100, 390])
def test_everybody_can_use_the_page(scheme: str, width: int, browser: Any, demo: Demo, three: list[Path]) -> None:
    show_as(browser, scheme, width)
    page = opened(browser, demo)
    assert grave_faults(page) == []
    page.find_element(By.ID, "with-map").click()
    give_all(page, three)
    assert grave_faults(page) == []
    assert page.execute_script("return document.documentElement.scrollWidth") <= width
    assert [line for line in console_errors(page) if "422" not in line] == []
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_known_mistakes_are_among_the_examples(engine: Engine, exported: Path, tmp_path: Path) -> None:
    """Every answer of the newest test is made wrong, and the demo is of a copy of its run."""
    run = shutil.copytree(exported.parent, tmp_path / "run")
    Engine(checkpoint=run / exported.name, work_dir=tmp_path, overrides={"report": False}).test()
    (folder,) = run.glob("test/*")
    result, images = read_test(folder)
    others = dict(zip(CLASSES, (*CLASSES[1:], CLASSES[0]), strict=True))
    write_test(result, tuple(replace(image, predicted=others[image.label]) for image in images), folder)
    with Engine(checkpoint=run / exported.name, work_dir=tmp_path).demo() as demo:
        examples = json.loads(ask(demo, "GET", "/model")[2])["examples"]
    mistakes = [each for each in examples if each["mistaken_for"]]
    assert len(mistakes) == 3
    assert all(each["mistaken_for"] == others[each["label"]] for each in mistakes)


def test_maps_are_made_only_if_they_are_wanted(demo: Demo, photo: Path) -> None:
    with_maps, without = (
        json.loads(ask(demo, "POST", path, photo.read_bytes())[2]) for path in ("/classify", "/classify?maps=false")
    )
    assert all(each["heat"].startswith("data:image/webp") for each in with_maps["candidates"])
    assert (without["map_ms"], {each["heat"] for each in without["candidates"]}) == (None, {None})
    assert shares(without["candidates"]) == shares(with_maps["candidates"])


@needs_chromium
def test_the_camera_and_the_examples_are_classified(browser: Any, demo: Demo) -> None:
    page = opened(browser, demo)
    page.find_element(By.ID, "open-camera").click()
    WebDriverWait(page, 20).until(lambda page: page.execute_script("return video.videoWidth > 0"))
    page.find_element(By.ID, "shoot").click()
    assert set(shown(page)) == set(CLASSES)
    assert page.execute_script("return video.srcObject") is None, "the camera is off again"
    page.find_element(By.CSS_SELECTOR, "#examples button").click()
    WebDriverWait(page, 20).until(lambda page: page.find_element(By.ID, "truth").text)
    assert page.find_element(By.ID, "truth").text.startswith(("Right", "Wrong"))
    assert console_errors(page) == []


@needs_chromium
def test_what_the_page_cannot_use_is_said_in_it(browser: Any, demo: Demo, tmp_path: Path) -> None:
    page = opened(browser, demo)
    (tmp_path / "notes.jpg").write_text("no photo")
    with (tmp_path / "large.jpg").open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    messages = {
        "notes.jpg": "notes.jpg: not an image that can be read",
        "large.jpg": "large.jpg: 20.0 MB are more than the limit of 20 MB",
    }
    for name, message in messages.items():
        give(page, tmp_path / name, "choose")
        WebDriverWait(page, 20).until(lambda page, text=message: page.find_element(By.ID, "error").text == text)
    page.execute_script("document.body.dispatchEvent(new ClipboardEvent('paste', {clipboardData: new DataTransfer()}))")
    assert page.find_element(By.ID, "error").is_displayed()
    assert not page.find_element(By.ID, "answer").is_displayed()
    assert [line for line in console_errors(page) if "422" not in line] == []


@needs_chromium
def test_without_a_camera_the_page_says_so(demo: Demo) -> None:
    with chromium() as driver:
        page = opened(driver, demo)
        page.find_element(By.ID, "open-camera").click()
        WebDriverWait(page, 20).until(lambda page: page.find_element(By.ID, "error").text)
        assert page.find_element(By.ID, "error").text == "There is no camera here."
        assert console_errors(page) == []
