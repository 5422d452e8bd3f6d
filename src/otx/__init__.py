"""otx: a folder of images becomes a trained, measured and exported image classifier.

>>> from otx import Engine
>>> Engine(data_root="my_photos").train()  # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from otx.engine import Engine
    from otx.recipe import Recipe, list_models

__all__ = ["Engine", "Recipe", "list_models"]


def __getattr__(name: str) -> Any:
    """Import what is asked for only then, so that `otx --help` starts at once."""
    if name == "Engine":
        from otx.engine import Engine

        return Engine
    if name in ("Recipe", "list_models"):
        from otx import recipe

        return getattr(recipe, name)
    raise AttributeError(f"module 'otx' has no attribute {name!r}")
