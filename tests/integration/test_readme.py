"""Run what the documents say: the README's commands, the quickstart's recipe, the rules of ARCHITECTURE.md."""

from __future__ import annotations

import ast
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import SMALL, SMALL_MODEL
from otx import Engine, list_models
from otx.catalogue import load_recipe
from otx.cli import VERBS, main
from otx.data.digits import resolve_data_root

ROOT = Path(__file__).parents[2]
# layer norm has no running statistics, which would be far off after a few steps
TINY = {"max_epochs": 1, "model.name": "deit_tiny", "optimizer.name": "adamw", "optimizer.lr": 1e-4}
NAMES = {"3": "daisy", "5": "rose", "7": "tulip"}


def commands(kind: str = "sh") -> list[list[str]]:
    blocks = re.findall(rf"```{kind}\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    lines = [line.removeprefix("$ ") for block in blocks for line in block.splitlines()]
    return [shlex.split(line.removeprefix("otx ")) for line in lines if line.startswith("otx ")]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folders `my_photos` and `more_photos` with some of the digits, under names of flowers."""
    digits = resolve_data_root("digits")
    for digit, name in NAMES.items():
        (tmp_path / "my_photos" / name).mkdir(parents=True)
        for image in sorted((digits / digit).iterdir())[:30]:
            shutil.copy(image, tmp_path / "my_photos" / name)
    for name in ("iris", "rose"):
        shutil.copytree(digits / {"iris": "1", "rose": "5"}[name], tmp_path / "more_photos" / name)
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def quick(arguments: list[str]) -> list[str]:
    """The same training in seconds: a small network, small images, one epoch."""
    small = {**SMALL, **TINY}
    return [*arguments, *(f"--{key}={value}" for key, value in small.items())]


@pytest.mark.slow
def test_the_commands_of_the_readme_lead_from_photos_to_a_deployed_model(folder: Path) -> None:
    (block,) = re.findall(r"deployed model:\n\n```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    lines = block.splitlines()
    assert len([*lines, "git clone", "pip install"]) < 15
    asked = commands()
    assert {arguments[0] for arguments in asked} >= {"train", "test", "predict", "export", "optimize", "explain"}
    for arguments in asked:
        assert main(quick(arguments) if arguments[0] == "train" else arguments) == 0, arguments
    assert (folder / "predictions.csv").read_text().count("\n") > 30
    (program,) = [line for line in lines if line.startswith("python ")]
    done = subprocess.run([sys.executable, *program.split()[1:]], capture_output=True, text=True, check=True)
    assert done.stdout.partition(" (")[0] in {f"my_model/sample.png: {name}" for name in NAMES.values()}
    assert (folder / "figures.json").is_file()


def test_the_python_of_the_readme_works(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (block,) = re.findall(r"```python\n(from otx.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    init = Engine.__init__

    def small_engine(self: Engine, *arguments: object, **options: object) -> None:
        changes = {**SMALL, **TINY}
        init(self, *arguments, **options, overrides=changes)  # type: ignore[arg-type]

    monkeypatch.setattr(Engine, "__init__", small_engine)
    exec(compile(ast.parse(block), "README.md", "exec"), {})
    assert list((folder / "otx-workspace" / ".latest" / "export").glob("*.onnx"))


def test_an_engine_of_a_config_trains_what_the_config_says(folder: Path) -> None:
    (folder / "my.yaml").write_text(f"model:\n  name: {SMALL_MODEL}\nmax_epochs: 2\n")
    changes = {key: value for key, value in SMALL.items() if key != "max_epochs"}
    engine = Engine.from_config("my.yaml", data_root="my_photos", work_dir="ws", overrides=changes)
    assert len(engine.train().epochs) == 2


def test_the_readme_names_every_verb_and_every_recipe() -> None:
    text = (ROOT / "README.md").read_text()
    assert [verb for verb in VERBS if f"`otx {verb}`" not in text] == []
    assert [name for name in list_models() if name not in text] == []


def test_the_example_recipe_loads() -> None:
    assert load_recipe(ROOT / "examples" / "digits.yaml").data_root == "digits"


def test_data_models_and_deploy_do_not_import_training() -> None:
    rooms = [
        path
        for room in ("data", "networks", "model", "inference", "evaluation", "export")
        for path in (ROOT / "src" / "otx" / room).glob("*.py")
    ]
    assert len(rooms) > 15
    assert [path.name for path in rooms if "otx.training" in path.read_text()] == []


def test_only_the_command_line_prints_and_only_the_recipe_knows_yaml() -> None:
    files = {path.name: path.read_text() for path in (ROOT / "src" / "otx").rglob("*.py")}
    assert {name for name, text in files.items() if re.search(r"^\s*print\(", text, re.MULTILINE)} == {
        "bundle.py",  # the program that it writes prints
        "cli.py",
        "console.py",
        "console_machine.py",
        "console_progress.py",
        "console_show.py",
    }
    assert {name for name, text in files.items() if "import yaml" in text} == {"yaml_text.py"}
