"""What the resize to the network's input does to long and to small images."""

from __future__ import annotations

from otx.data.preprocessing import Preprocessing
from otx.recipe import LETTERBOX, STANDARD

TINY = 32


def is_small(width: int, height: int, size: Preprocessing) -> bool:
    """Whether an image has to be enlarged for the network, and is not tiny (a side under 32 pixels) anyway."""
    return min(width, height) >= TINY and height < size.height and width < size.width


def resize_in_words(aspect: float, size: Preprocessing) -> str:
    """What the resize does to an image whose longer side is `aspect` times the shorter one."""
    if size.resize_type == STANDARD:
        return f"squeezed to {shown_size(size)} (--data.resize letterbox keeps its shape)"
    if size.resize_type == LETTERBOX:
        return f"shrunk into {shown_size(size)} with black beside it"
    return f"of which 1/{aspect:.0f} is seen (--data.resize letterbox shows all of it)"


def shown_size(size: Preprocessing) -> str:
    """Width x height of the network's input, as image sizes are written."""
    return f"{size.width}x{size.height}"
