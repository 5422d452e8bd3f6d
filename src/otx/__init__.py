"""otx: a folder of images becomes a trained, measured, exported, quantised and explained image classifier.

>>> from otx import Engine
>>> Engine(data_root="my_photos").train()  # doctest: +SKIP
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from otx.engine import Engine
    from otx.recipe import Recipe, list_models
    from otx.training.losses import InfluenceBalancedLoss

# OpenVINO and NNCF would report to Google Analytics each time they are imported and used, from a process forked beside
# running threads; without this package they report nothing
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

__all__ = ["Engine", "InfluenceBalancedLoss", "Recipe", "list_models"]


def __getattr__(name: str) -> Any:
    """Import what is asked for only then, so that `otx --help` starts at once."""
    if name == "Engine":
        from otx.engine import Engine

        return Engine
    if name == "InfluenceBalancedLoss":
        from otx.training.losses import InfluenceBalancedLoss

        return InfluenceBalancedLoss
    if name in ("Recipe", "list_models"):
        from otx import recipe

        return getattr(recipe, name)
    raise AttributeError(f"module 'otx' has no attribute {name!r}")
