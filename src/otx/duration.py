"""A length of time as a person writes it."""

from __future__ import annotations

import re

# what follows hours or minutes has a unit: 1h30 is no 30 s
TIME = re.compile(r"(?:([\d.]+)h)?(?:([\d.]+)m(?:in)?)?(?:([\d.]+)s)?|([\d.]+)")
# of a training, in seconds: importing the libraries and writing the report alone take most of it
SHORTEST = 30


def seconds_of(text: str) -> float:
    """The seconds in `90s`, `20m`, `1h30m`, or a plain number of seconds.

    Raises:
        ValueError: it is no such time.
    """
    found = TIME.fullmatch(text.replace(" ", "").lower())
    if found is None or not any(found.groups()):
        raise ValueError(text)
    hours, minutes, seconds, alone = (float(part or 0) for part in found.groups())
    return 3600 * hours + 60 * minutes + seconds + alone


def is_bad_duration(text: str) -> bool:
    """Whether a text is no time, or too short a one for a training."""
    try:
        return seconds_of(text) < SHORTEST
    except ValueError:
        return True
