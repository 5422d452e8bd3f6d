"""otx: a folder of images becomes a trained, measured, exported, quantised and explained image classifier.

>>> from otx import Engine
>>> Engine(data_root="my_photos").train()  # doctest: +SKIP
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from otx.catalogue import list_models
    from otx.engine import Engine
    from otx.recipe import Recipe
    from otx.training.losses import InfluenceBalancedLoss

# OpenVINO and NNCF would report to Google Analytics each time they are imported and used, from a process forked beside
# running threads; without this package they report nothing
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

__all__ = ["Engine", "InfluenceBalancedLoss", "Recipe", "list_models"]
_MODULES = {
    "Engine": "otx.engine",
    "InfluenceBalancedLoss": "otx.training.losses",
    "Recipe": "otx.recipe",
    "list_models": "otx.catalogue",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that `otx --help` starts at once."""
    if name not in _MODULES:
        raise AttributeError(f"module 'otx' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
