"""Settings that go together, under one name."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from otx.errors import UsageError
from otx.events import Reporter

# measured in docs/accuracy.md
PRESETS: dict[str, dict[str, Any]] = {"quality": {"training.soup": 3}}


def preset_settings(name: str | None, asked: Collection[str], reporter: Reporter) -> dict[str, Any]:
    """The settings of a preset but for those that were asked for by themselves; none without a name.

    Raises:
        UsageError: there is no such preset.
    """
    if name is None:
        return {}
    if name.lower() not in PRESETS:
        raise UsageError(f"--preset {name}", allowed=list(PRESETS))
    settings = {key: value for key, value in PRESETS[name.lower()].items() if key not in asked}
    if settings:
        reporter.note(f"--preset {name}: {', '.join(f'{key} {value}' for key, value in settings.items())}.")
    return settings
