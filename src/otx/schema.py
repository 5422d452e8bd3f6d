"""Frozen dataclasses as a schema: their fields hold type, range and help. All problems in plain data are found at once.

jsonargparse does the same and more; but it stops at the first error, and importing it alone takes longer than
`otx --help` may (ARCHITECTURE.md, "Parts").
"""

from __future__ import annotations

import reprlib
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

from otx.elsewhere import elsewhere
from otx.errors import nearest

NAMED_AT_MOST = 20
Section = TypeVar("Section")


def setting(
    default: Any,
    help: str,
    *,
    choices: tuple[str, ...] = (),
    also: Mapping[str, str] | None = None,
    low: float | None = None,
    high: float | None = None,
) -> Any:
    """A field of the schema, with its one line of documentation and what it may hold (`low` to `high`, inclusive).

    Args:
        choices: the allowed texts; for a setting that is a number or text, those allowed besides numbers.
        also: other names of choices, which are taken as these: `{"cuda": "gpu"}`.
    """
    limits = {"help": help, "choices": choices, "also": also or {}, "low": low, "high": high}
    return field(default=default, metadata=limits)


def to_plain(value: Any) -> Any:
    """Turn tuples into lists, as in YAML and JSON."""
    if isinstance(value, dict):
        return {key: to_plain(item) for key, item in value.items()}
    return [to_plain(item) for item in value] if isinstance(value, tuple) else value


@dataclass(frozen=True)
class SettingInfo:
    """One setting of the schema: its dotted key, its type, its default and its line of documentation."""

    key: str
    kind: Any
    default: Any
    help: str
    choices: tuple[str, ...]


def all_settings(schema: type, prefix: str = "") -> Iterator[SettingInfo]:
    """Every setting, including those in sections."""
    hints = typing.get_type_hints(schema)
    for item in fields(schema):
        kind = hints[item.name]
        if is_dataclass(kind):
            yield from all_settings(typing.cast(type, kind), f"{prefix}{item.name}.")
        else:
            default = None if item.default is MISSING else item.default
            yield SettingInfo(f"{prefix}{item.name}", kind, default, item.metadata["help"], item.metadata["choices"])


def build(
    schema: type[Section], data: Any, problems: list[str], *, root: type | None = None, prefix: str = ""
) -> Section | None:
    """Make an instance of a schema from plain data; each problem is added to `problems`, as a sentence."""
    root = root or schema
    if not isinstance(data, Mapping):
        problems.append(f"'{prefix.rstrip('.') or 'the recipe'}' must hold settings, got {shown(data)}")
        return None
    known = {item.name: item for item in fields(schema)}  # type: ignore[arg-type]
    hints = typing.get_type_hints(schema)
    unknown = [f"{prefix}{key}" for key in data if key not in known]
    problems += [f"unknown key {shown(key)}{_meant(key, root)}" for key in unknown[:NAMED_AT_MOST]]
    if len(unknown) > NAMED_AT_MOST:
        problems.append(f"{len(unknown) - NAMED_AT_MOST} more unknown keys")
    values: dict[str, Any] = {}
    for name, item in known.items():
        if name in data:
            kind = hints[name]
            if is_dataclass(kind):
                values[name] = build(typing.cast(Any, kind), data[name], problems, root=root, prefix=f"{prefix}{name}.")
            else:
                values[name] = _check(data[name], kind, item.metadata, f"{prefix}{name}", problems)
    return None if problems else schema(**values)


def _meant(key: str, root: type) -> str:
    """The end of a message about an unknown key: the setting that other tools call so, else the nearest one."""
    keys = [item.key for item in all_settings(root)]
    here = elsewhere(key, keys)
    sections = {key.rpartition(".")[0] for key in keys} - {""}
    return f": here it is '{here}'" if here else nearest(key, [*keys, *sorted(sections)])


def shown(value: Any) -> str:
    """A value as Python would write it, cut short if it is long or nested."""
    return _SHORT.repr(value)


_SHORT = reprlib.Repr()
_SHORT.maxlevel = 2
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 300


def _check(value: Any, kind: Any, limits: Mapping[str, Any], key: str, problems: list[str]) -> Any:
    try:
        checked = convert(value, kind)
    except (TypeError, ValueError):
        problems.append(f"'{key}' must be {_wanted(kind, limits)}, got {shown(value)}")
        return value
    if isinstance(checked, str):
        checked = _choice(checked, limits)
    if limits["choices"] and isinstance(checked, str) and checked not in limits["choices"]:
        allowed = _wanted(kind, limits)
        problems.append(f"'{key}' must be {allowed}, got {shown(value)}{nearest(str(value), limits['choices'])}")
    numbers = checked if isinstance(checked, tuple) else (checked,)
    for number in numbers:
        if isinstance(number, (int, float)) and not isinstance(number, bool) and not _within(number, limits):
            problems.append(f"'{key}' must be {_range(limits)}, got {shown(value)}")
            break
    return checked


def _choice(text: str, limits: Mapping[str, Any]) -> str:
    """The choice that a text names, by another name or in other capitals; else the text itself."""
    names = {**{choice.lower(): choice for choice in limits["choices"]}, **limits["also"]}
    return str(names.get(text.lower(), text))


def _wanted(kind: Any, limits: Mapping[str, Any]) -> str:
    if is_number_or_word(kind):
        return " or ".join([describe(int), *limits["choices"]])
    return f"one of {', '.join(limits['choices'])}" if limits["choices"] and kind is str else describe(kind)


def _within(number: float, limits: Mapping[str, Any]) -> bool:
    low = -float("inf") if limits["low"] is None else limits["low"]
    high = float("inf") if limits["high"] is None else limits["high"]
    return bool(low <= number <= high) and abs(number) != float("inf")


def _range(limits: Mapping[str, Any]) -> str:
    if limits["low"] is None:
        return "a finite number"
    return f"at least {limits['low']}" if limits["high"] is None else f"from {limits['low']} to {limits['high']}"


def convert(value: Any, kind: Any) -> Any:
    """Turn plain data into the type of a setting; a single value fills a tuple; text is parsed only for a float.

    Raises:
        TypeError, ValueError: it does not fit.
    """
    if is_number_or_word(kind) and value is not None:
        return _scalar(value, str if isinstance(value, str) else int)
    options = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    if value is None:
        if type(None) in options:
            return None
        raise TypeError("null")
    kind = next(option for option in options if option is not type(None))
    if typing.get_origin(kind) is tuple:
        inner = typing.get_args(kind)
        items = list(value) if isinstance(value, (list, tuple)) else [value] * len(inner)
        if len(items) != len(inner):
            raise ValueError("length")
        return tuple(convert(item, each) for item, each in zip(items, inner, strict=True))
    return _scalar(value, kind)


def _scalar(value: Any, kind: type) -> Any:
    if kind is str:
        if isinstance(value, (Path, int)) and not isinstance(value, bool):
            value = str(value)
        if not isinstance(value, str):
            raise TypeError
        return value
    if kind is float and isinstance(value, (int, str)) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not kind:
        raise TypeError
    return value


def is_number_or_word(kind: Any) -> bool:
    """Whether a setting takes a whole number or one of some words."""
    return bool(kind in (int | str, int | str | None))


def describe(kind: Any) -> str:
    """The type of a setting in words: "a whole number", "two numbers", ..."""
    if is_number_or_word(kind):
        return describe(int)
    words = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
    if isinstance(kind, types.UnionType):
        return " or null".join([describe(typing.get_args(kind)[0]), ""])
    if typing.get_origin(kind) is tuple:
        inner = typing.get_args(kind)
        return f"{len(inner)} {'whole numbers' if inner[0] is int else 'numbers'}"
    return words[kind]
