"""Settings that go together, under one name: what is asked for by itself is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from conftest import SMALL, Recorder
from otx import Engine
from otx.catalogue import load_recipe
from otx.cli import main
from otx.errors import UsageError
from otx.workspace import latest_run

SOUP = "training.soup"


def trained(photos: Path, work_dir: Path, recorder: Recorder, **options: Any) -> int:
    """How many trainings the run asks for that a training with these options wrote."""
    overrides = {**SMALL, "max_epochs": 1, "data.num_workers": 0, **options.pop("overrides", {})}
    Engine(photos, work_dir=work_dir, overrides=overrides, reporter=recorder).train(**options)
    return load_recipe(latest_run(work_dir).config).training.soup


def test_quality_trains_several_times_and_says_so(photos: Path, tmp_path: Path) -> None:
    said, silent = Recorder(), Recorder()
    assert trained(photos, tmp_path / "plain", silent) == 1
    assert trained(photos, tmp_path / "quality", said, preset="quality") == 3
    note = f"--preset quality: {SOUP} 3."
    assert note in said.notes
    assert note not in silent.notes


def test_a_setting_that_was_asked_for_is_kept(photos: Path, tmp_path: Path) -> None:
    assert trained(photos, tmp_path, Recorder(), preset="quality", overrides={SOUP: 5}) == 5


def test_a_run_goes_on_with_a_preset(photos: Path, tmp_path: Path) -> None:
    trained(photos, tmp_path, Recorder())
    Engine(work_dir=tmp_path, overrides={"max_epochs": 2}).train(resume=True, preset="quality")
    assert load_recipe(latest_run(tmp_path).config).training.soup == 3


def test_an_unknown_preset_is_refused(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError, match="--preset fast"):
        Engine(photos, work_dir=tmp_path).train(preset="fast")
    for more in ([], ["--print_config"]):
        assert main(["train", str(photos), "--work_dir", str(tmp_path), "--preset", "fast", *more]) == 2
        assert "--preset fast\n  allowed: quality" in capsys.readouterr().err


def test_the_settings_are_shown(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", str(photos), "--preset", "Quality", "--print_config"]) == 0
    assert "soup: 3\n" in capsys.readouterr().out
