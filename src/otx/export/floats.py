"""The layers that an INT8 file computes in floats."""

from __future__ import annotations

from typing import Any

UNKNOWN_SCORE = r".*module\.unknown/.*"
STRETCHING = ("Divide", "Maximum", "Subtract", "ReduceMax", "ReduceMin")


def left_in_floats(model: Any) -> Any:
    """What NNCF must not touch, as its `IgnoredScope`.

    That is the unknown score (`otx.inference.scored`), since squares of small differences need more than 8 bits, and
    what stretches saliency maps from 0 to 1 (`otx.inference.saliency`): a flat map would become 0 / 0.
    """
    import nncf

    return nncf.IgnoredScope(names=_stretching(model), patterns=[UNKNOWN_SCORE], validate=False)


def _stretching(model: Any) -> list[str]:
    """The names of the layers in front of the output `saliency_map`, if there is one, that stretch the maps."""
    found: list[str] = []
    waiting = [output.get_node() for output in model.outputs if "saliency_map" in output.get_names()]
    while waiting:
        for entry in waiting.pop().input_values():
            node = entry.get_node()
            if node.get_type_name() in STRETCHING and node.get_friendly_name() not in found:
                found.append(node.get_friendly_name())
                waiting.append(node)
    return found
