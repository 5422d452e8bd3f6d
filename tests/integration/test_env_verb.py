"""`otx env` fills one screen about a machine, even if the machine is broken."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from otx import Engine
from otx.cli import main
from otx.machine import available_cores
from otx.verbs import env, libraries
from otx.verbs.env import describe_environment
from otx.verbs.probe import NoAnswer

SECRET = "hf_thisIsAToken"


def run(tmp_path: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    known = {**os.environ, "HF_HUB_OFFLINE": "1", **variables}
    source = os.pathsep.join([*filter(None, [variables.get("PYTHONPATH")]), *filter(None, sys.path)])
    command = [sys.executable, "-m", "otx", "env", "--output", str(tmp_path / "env.json")]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=120, cwd=tmp_path, env={**known, "PYTHONPATH": source}
    )


def test_everything_is_found_out_on_one_screen(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    secrets = {"HF_TOKEN": SECRET, "HUGGING_FACE_HUB_TOKEN": SECRET, "HTTPS_PROXY": f"http://me:{SECRET}@proxy:1"}
    home = str(tmp_path / "home")
    done = run(
        tmp_path,
        HOME=home,
        OTX_CACHE=f"{home}/.cache/otx",
        HF_ENDPOINT=f"https://me:{SECRET}@hub.test",
        OMP_NUM_THREADS="1",
        **secrets,
    )
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert 20 <= len(lines) <= 50
    # a long path is not wrapped, so that it can be copied
    assert [line for line in lines if len(line) > 80 and " " in line[17:]] == []
    found = json.loads((tmp_path / "env.json").read_text(encoding="utf-8"))
    assert found["problems"] == []
    about = found["lines"]
    assert about["cores"].startswith(f"{available_cores()} to use")
    assert "OMP_NUM_THREADS=1" in about["variables"]
    assert "HTTPS_PROXY is set" in about["variables"]
    assert "not asked, since HF_HUB_OFFLINE" in about["hub"]
    assert about["otx's cache"].startswith("~/.cache/otx")
    assert "torch 2." in about["libraries"] and "CPU" in about["OpenVINO"]
    assert re.match(r"in (32|16|bf16); kernels for \w+", about["training"])
    for name in about:
        assert f"{name}:" in done.stdout
    for text in (done.stdout, json.dumps(found)):
        assert SECRET not in text and home not in text


def test_it_works_where_torch_cannot_be_imported_and_another_library_crashes(tmp_path: Path) -> None:
    for name, text in (
        ("torch", "raise ImportError('libcudart.so.13: cannot open shared object file')"),
        ("onnxruntime", "import os\nos.abort()"),
    ):
        (tmp_path / "broken" / name).mkdir(parents=True)
        (tmp_path / "broken" / name / "__init__.py").write_text(text)
    done = run(tmp_path, PYTHONPATH=str(tmp_path / "broken"))
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "env.json").read_text(encoding="utf-8"))
    assert found["problems"] == ["training", "threads", "GPU", "ONNX Runtime"]
    problem = "cannot be found out: torch does not work: ImportError: libcudart.so.13: cannot open shared object file"
    assert found["lines"]["training"] == problem
    crashed = "cannot be found out: onnxruntime kills the process that imports it: SIGABRT"
    assert found["lines"]["ONNX Runtime"] == crashed
    assert "CPU" in found["lines"]["OpenVINO"]


def test_the_precision_is_the_one_that_a_training_picks() -> None:
    from otx.training.devices import pick_device, pick_precision

    picked = pick_precision("auto", pick_device("auto"))[0]
    assert libraries.torch_facts()["training"].startswith(f"in {picked}; kernels for ")


def test_a_hub_that_does_not_answer_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://me:secret@127.0.0.1:9")
    monkeypatch.delenv("http_proxy", raising=False)
    monkeypatch.delenv("HTTP_PROXY", raising=False)
    assert re.match(r"no: http://\*\*\*@127\.0\.0\.1:9: .*", env._hub())


def test_what_cannot_be_found_out_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(env, "SLOW", {name: lambda: NoAnswer("not asked") for name in env.SLOW})

    def unknown() -> str:
        raise OSError("there is no /proc here")

    monkeypatch.setattr(env, "_cpuinfo", unknown)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_PROCID", "1")
    monkeypatch.setenv("SLURM_NTASKS", "2")
    for name in ("TORCHELASTIC_RUN_ID", "RANK"):
        monkeypatch.delenv(name, raising=False)
    found = describe_environment(tmp_path / "not" / "there")
    assert found.lines["instructions"] == "cannot be found out: OSError: there is no /proc here"
    assert "instructions" in found.problems
    assert found.lines["started by"] == "SLURM, process 1 of 2"
    assert "free" in found.lines["work folder"]


def test_the_overview_lists_both_verbs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert "\n  benchmark  measure how fast" in shown
    assert "\n  env        show versions" in shown


def test_the_output_must_be_json(tmp_path: Path) -> None:
    from otx.errors import UsageError

    with pytest.raises(UsageError, match=r"env\.txt: environments are written as \.json"):
        Engine().env(output=tmp_path / "env.txt")
