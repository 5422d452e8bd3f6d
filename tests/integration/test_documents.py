"""The documents are true: their commands work, their output is today's, their links and messages are there.

Blocks of `sh` and `python` are run here, in the order of a page. Those of `bash` need what this machine may lack.
"""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file

from conftest import SMALL
from documents import ELIDED, run, sessions, shape
from otx import errors
from otx.cli import main, parser_of
from otx.commands import VERBS
from otx.data.digits import resolve_data_root

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([ROOT / "README.md", ROOT / "examples" / "README.md", *DOCS.rglob("*.md")])
# pages whose commands are run with the fast tests; those of the others take a minute each
FAST = {"training.md", "modelapi.md", "onnx-runtime.md", "openvino.md"}
HOW_TO = sorted([DOCS / "training.md", DOCS / "explain.md", *(DOCS / "how-to").glob("*.md")])
BLOCKS = re.compile(r"```(sh|python)\n(.*?)```", re.DOTALL)
NAMES = {"3": "daisy", "5": "rose", "7": "tulip"}
# the same trainings in seconds; what a command says itself is not changed
QUICK = {
    **{key: value for key, value in SMALL.items() if key != "model.pretrained"},
    "model.name": "timm/test_resnet",
    "model.weights": "weights.safetensors",
    "max_epochs": 1,
}


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folders of photos, weights and examples under the names that the documents use."""
    import timm

    digits = resolve_data_root("digits")
    for digit, name in NAMES.items():
        (tmp_path / "my_photos" / name).mkdir(parents=True)
        for image in sorted((digits / digit).iterdir())[:30]:
            shutil.copy(image, tmp_path / "my_photos" / name)
    for digit, name in {"1": "iris", "5": "rose"}.items():
        shutil.copytree(digits / digit, tmp_path / "more_photos" / name)
    shutil.copy(next((digits / "5").iterdir()), tmp_path / "photo.jpg")
    save_file(timm.create_model("test_resnet", pretrained=False).state_dict(), tmp_path / "weights.safetensors")
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def quick(arguments: list[str]) -> list[str]:
    """A command with the settings of a short training, where it does not say something else."""
    if arguments[0] != "train":
        return arguments
    given = {word.partition("=")[0].removeprefix("--") for word in arguments if word.startswith("--")}
    left = {key: value for key, value in QUICK.items() if key not in given}
    if "checkpoint" in given or "model.pretrained" in given:
        del left["model.weights"]
    if "checkpoint" in given:
        del left["model.name"]
    return [*arguments, *(f"--{key}={value}" for key, value in left.items())]


def run_line(line: str, folder: Path) -> None:
    """Run a line of a `sh` block: a command of otx in this process, unless it starts others."""
    words = shlex.split(line, comments=True)
    program, arguments = words[0], words[1:]
    several = "--engine.num_devices" in words
    if program == "otx" and not several:
        arguments = arguments[: arguments.index("||")] if "||" in arguments else arguments
        assert main(quick(arguments)) in ((0, 3) if "||" in words else (0,)), line
        return
    if "train" in words:
        start = words[: words.index("train")] if program == "torchrun" else [sys.executable, "-m", "otx"]
        line = shlex.join([*start, *quick(words[words.index("train") :])])
    run(line, folder)


def run_block(kind: str, block: str, folder: Path) -> None:
    if kind == "python":
        exec(compile(ast.parse(block), "block", "exec"), {})
        return
    for line in block.replace("\\\n", " ").splitlines():
        if line.strip():
            run_line(line, folder)


@pytest.mark.parametrize(
    "page", [pytest.param(page, marks=[] if page.name in FAST else pytest.mark.slow, id=page.name) for page in HOW_TO]
)
def test_the_commands_of_a_page_work(page: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = page.read_text(encoding="utf-8")
    if "cmake" in text and (shutil.which("cmake") is None or shutil.which("g++") is None):
        pytest.skip("needs cmake and a compiler")
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if "otx train" not in text:
        run_line("otx train my_photos", folder)
    for kind, block in BLOCKS.findall(text):
        run_block(kind, block, folder)


def otx_commands(page: Path) -> list[list[str]]:
    """The arguments of every otx command in the code blocks of a page."""
    blocks = re.findall(r"```(?:sh|bash|console)\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    lines = [line.removeprefix("$ ") for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    found = []
    for line in lines:
        words = shlex.split(line.partition(" || ")[0].partition(" > ")[0], comments=True)
        if words[:1] == ["otx"]:
            found.append(words[1:])
        elif "-m" in words and words[words.index("-m") + 1] == "otx":
            found.append(words[words.index("-m") + 2 :])
    return found


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_command_in_a_document_is_one(page: Path) -> None:
    for verb, *arguments in otx_commands(page):
        parser_of(verb).parse([word for word in arguments if word != "..."])


def test_the_options_that_moving_from_otx_calls_supported_are_known() -> None:
    text = (DOCS / "moving-from-otx.md").read_text(encoding="utf-8")
    options = {option for verb in VERBS for each in parser_of(verb)._actions for option in each.option_strings}
    rows = [line.split("|")[1:3] for line in text.splitlines() if line.startswith("| `-")]
    assert len(rows) > 30
    for names, verdict in rows:
        flags = set(re.findall(r"`(--?[\w.-]+)", names))
        if verdict.strip().startswith("supported"):
            assert flags <= options
        elif verdict.strip() == "absent":
            assert not flags & (options - {"-v", "--model"})


def short(command: str) -> str:
    """A command of a document with a small input, or of a small training."""
    return f"{command} --data.input_size 32" if " train " in command else command


@pytest.mark.slow
def test_the_sample_output_of_the_readme_is_todays(tmp_path: Path) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    for session in sessions((ROOT / "README.md").read_text(encoding="utf-8")):
        printed = shape(run(short(session.command).replace("otx ", f"{sys.executable} -m otx ", 1), tmp_path))
        assert_same(session.lines, printed)


def assert_same(document: tuple[str, ...], printed: list[str]) -> None:
    """Compare the shape of an output with that in a document, which may leave out lines (`...`)."""
    if ELIDED not in document:
        assert shape(document) == printed
        return
    place = document.index(ELIDED)
    before, after = shape(document[:place]), shape(document[place + 1 :])
    assert printed[: len(before)] == before
    assert printed[len(printed) - len(after) :] == after


@pytest.fixture
def tutorial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files of the tutorial: small photos of five classes, and weights of its network."""
    import timm

    digits = resolve_data_root("digits")
    for digit, name in enumerate(["daisy", "dandelion", "roses", "sunflowers", "tulips"]):
        (tmp_path / "flowers" / name).mkdir(parents=True)
        for image in sorted((digits / str(digit)).iterdir())[:40]:
            shutil.copy(image, tmp_path / "flowers" / name)
    for named in re.findall(r"flowers/\w+/\w+\.jpg", (DOCS / "tutorial.md").read_text()):
        shutil.copy(next((digits / "0").iterdir()), tmp_path / named)
    state = timm.create_model("mobilenetv2_100", pretrained=False).state_dict()
    save_file(state, tmp_path / "mobilenetv2_100.safetensors")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("until", ["## Export", pytest.param("", marks=pytest.mark.slow)])
def test_the_output_in_the_tutorial_is_todays(until: str, tutorial: Path, capfd: pytest.CaptureFixture[str]) -> None:
    text = (DOCS / "tutorial.md").read_text(encoding="utf-8")
    settings = {"data.input_size": 32, "data.num_workers": 0, "max_epochs": 2}
    for session in sessions(text.partition(until)[0] if until else text):
        program, verb, *arguments = session.arguments
        if program != "otx" or verb == "env":
            continue
        more = [f"--{key}={value}" for key, value in settings.items()] if verb == "train" else []
        capfd.readouterr()
        assert main([verb, *arguments, *more]) == 0
        out, err = capfd.readouterr()
        lines = shape([*err.splitlines(), *out.splitlines()])
        # rows of tables hold what was found in the photos
        assert {line for line in lines if line[0] not in "│┃"} - set(shape(session.lines)) == set(), session.command


def test_the_messages_in_troubleshooting_are_those_of_the_code() -> None:
    text = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    messages = re.findall(r"^- `([^`]+)`:", text, re.MULTILINE)
    code = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "src" / "otx").rglob("*.py"))
    system = {"No space left on device"}
    assert len(messages) > 20
    assert [message for message in messages if message not in code and message not in system] == []


def test_an_error_names_the_section_that_explains_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", str(tmp_path), "--checkpoint", str(tmp_path / "none.onnx")]) == 2
    assert main(["check", str(tmp_path)]) == 2
    assert "\n  more: docs/troubleshooting.md#photos" in capsys.readouterr().err
    text = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    sections = {heading.lower().replace(" ", "-") for heading in re.findall(r"^## (.*)", text, re.MULTILINE)}
    kinds = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, errors.OtxError)]
    assert {each.section for each in kinds} - {""} <= sections


@pytest.mark.parametrize("name", sorted(path.name for path in (ROOT / "examples").glob("*.yaml")))
def test_an_example_recipe_trains(name: str, folder: Path) -> None:
    first = (folder / "examples" / name).read_text(encoding="utf-8").splitlines()[0]
    words = shlex.split(first.removeprefix("# "))
    assert words[:4] == ["otx", "train", "--config", f"examples/{name}"]
    data = ["--data_root", "my_photos"]
    assert main(quick([*words[1:4], *data])) == 0


def example(name: str) -> dict[str, Any]:
    found: dict[str, Any] = {"__name__": name}
    exec(compile((ROOT / "examples" / name).read_text(encoding="utf-8"), name, "exec"), found)
    return found


@pytest.mark.slow
def test_the_example_in_python_works(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    example("python_api.py")["main"]("my_photos", "ws", {**SMALL, "max_epochs": 1})
    assert "optimized_model.xml" in capsys.readouterr().out


@pytest.mark.slow
def test_the_notebook_runs_from_top_to_bottom(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = json.loads((ROOT / "examples" / "notebook.ipynb").read_text(encoding="utf-8"))["cells"]
    names: dict[str, Any] = {"__name__": "notebook"}
    for cell in cells:
        assert not cell.get("outputs")
        source = "".join(cell["source"]) if cell["cell_type"] == "code" else ""
        exec(compile(source.replace('"digits"', '"my_photos"').replace('"8"', '"rose"'), "cell", "exec"), names)
    assert names["test"].num_images > 0
