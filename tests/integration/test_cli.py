"""The command line explains itself on one screen, answers other programs in JSON, and completes in the shell."""

from __future__ import annotations

import io
import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import SMALL_MODEL
from otx import Engine
from otx.cli import main, parser_of
from otx.commands import VERBS
from otx.console_show import show_json
from otx.errors import UsageError
from otx.results_machine import Environment

SCREEN = 50


def help_of(verb: str, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as ended:
        main([verb, *arguments])
    assert ended.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("verb", VERBS)
def test_the_help_of_a_verb_fits_a_screen_of_80_columns(
    verb: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lines = help_of(verb, capsys, "-h").splitlines()
    assert len(lines) <= SCREEN
    assert max(map(len, lines)) <= 80
    assert f"usage: otx {verb}" in lines[0]
    assert f"  {VERBS[verb].examples[0]}" in lines


@pytest.mark.parametrize("verb", VERBS)
def test_the_examples_of_a_verb_are_commands_that_it_takes(verb: str) -> None:
    for example in VERBS[verb].examples:
        program, name, *arguments = shlex.split(example, comments=True)
        assert (program, name) == ("otx", verb)
        parser_of(verb).parse(arguments)


def test_all_options_are_a_word_away(capsys: pytest.CaptureFixture[str]) -> None:
    short, whole = help_of("train", capsys, "-h"), help_of("train", capsys, "--help-all")
    assert "--training.label_smoothing" not in short
    assert "--training.label_smoothing" in whole
    assert "`otx train --help-all` shows all" in short
    assert main(["help"]) == 0
    assert "otx help VERB" in capsys.readouterr().out
    assert help_of("help", capsys, "train") == short


def test_the_defaults_are_those_of_the_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    assert "learning rate (default: 0.0058)" in help_of("train", capsys, "-h")
    assert "learning rate (default: 0.0049)" in help_of("train", capsys, "--config", "efficientnet_b0", "-h")
    assert "--engine.device {auto,cpu,gpu}" in help_of("test", capsys, "-h")


def test_find_takes_a_word_and_fits_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["find", "efficientnet"]) == 0
    shown = capsys.readouterr().out
    assert shown.count("Custom_") == 4
    assert main(["find"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert [line for line in lines if line.startswith("* mobilenet_v3_large")]


def test_a_result_is_json_on_standard_output(
    trained: Engine, files: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    work, model = ["--work_dir", str(tmp_path)], ["--checkpoint", str(files / "model.safetensors")]
    assert main(["find", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["name"] == "mobilenet_v3_large"
    assert main(["test", *work, *model, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["num_images"] == 18
    assert main(["check", str(photos), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["num_images"] == 91
    assert main(["export", *work, *model, "--json", "--output", str(tmp_path / "out")]) == 0
    assert Path(json.loads(capsys.readouterr().out)["path"]).is_file()
    assert main(["predict", str(photos / "cat"), *model, "--json"]) == 0
    predictions = json.loads(capsys.readouterr().out)
    assert len(predictions) == 31
    assert sum(item["error"] is not None for item in predictions) == 1


def test_quiet_says_nothing_but_results_and_warnings(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ["--model", SMALL_MODEL, "--data.input_size", "32", "--max_epochs", "1", "--model.pretrained", "false"]
    assert main(["train", str(photos), "--work_dir", str(tmp_path), *small, "--quiet", "--json"]) == 0
    shown = capsys.readouterr()
    assert Path(json.loads(shown.out)["model_path"]).is_file()
    assert all(line.startswith("warning: ") for line in shown.err.splitlines())


def test_a_verb_says_which_file_it_wrote(
    files: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, found, table = files / "model.safetensors", tmp_path / "found.json", tmp_path / "predictions.csv"
    assert main(["check", str(photos), "--output", str(found)]) == 0
    assert capsys.readouterr().out.endswith(f"\nWritten: {found}\n")
    assert main(["predict", str(photos / "cat"), "--checkpoint", str(model), "--output", str(table)]) == 0
    assert capsys.readouterr().out.endswith(f"\nWritten: {table}\n")


COMPLETES = {
    "otx tr": ["train"],
    "otx train --config efficientnet_v": ["efficientnet_v2"],
    "otx train --data.res": ["--data.resize"],
    "otx train --data.resize ": ["standard", "letterbox", "crop"],
    "otx export --export_format ": ["OPENVINO", "ONNX"],
    "otx test --json ": ["true", "false"],
    "otx predict pho": ["photos/"],
}


def test_bash_completes_verbs_options_choices_recipes_and_files(tmp_path: Path) -> None:
    if shutil.which("bash") is None:
        pytest.skip("needs bash")
    (tmp_path / "photos").mkdir()
    lines = ['eval "$(otx completion bash)"', "ask() {", '  COMP_LINE="$1" COMP_POINT=${#1} COMP_TYPE=9 COMPREPLY=()']
    lines += [
        "  _python_argcomplete otx '' ''",
        '  echo "${COMPREPLY[*]}"',
        "}",
        *(f'ask "{line}"' for line in COMPLETES),
    ]
    done = subprocess.run(
        ["bash", "-c", "\n".join(lines)], cwd=tmp_path, capture_output=True, text=True, timeout=100, check=True
    )
    answers = [sorted(line.split()) for line in done.stdout.splitlines()]
    for answer, (line, expected) in zip(answers, COMPLETES.items(), strict=True):
        assert set(expected) <= set(answer), (line, answer, done.stderr)


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_get_code_too(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    assert "otx" in capsys.readouterr().out


def test_an_unknown_shell_or_verb_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "tcsh"]) == 2
    assert "allowed: bash, zsh, fish" in capsys.readouterr().err
    assert main(["help", "trian"]) == 2
    assert "did you mean 'train'?" in capsys.readouterr().err
    with pytest.raises(UsageError, match="unknown argument '--jsn'"):
        parser_of("test").parse(["--jsn"])


def test_json_stays_json_where_the_output_cannot_hold_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii", errors="backslashreplace"))
    names = {"café", "😀", "\udcff"}
    show_json("env", Environment(dict.fromkeys(names, ""), ()))
    assert set(json.loads(written.getvalue())["lines"]) == names


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["find", "a", "--pattern", "b"], "two patterns: a and --pattern b"),
        (["train", "digits", "--rename", "a=b", "--rename", "a=c"], "--rename a=c: it is renamed to b already"),
        (["label", "nowhere", "--apply", "move"], "there is no folder nowhere"),
    ],
)
def test_no_option_is_dropped_and_the_reason_is_the_right_one(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert message in capsys.readouterr().err
