"""Turn frozen results into plain data (JSON, CSV), and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

Kind = TypeVar("Kind")


class Result:
    """Adds `to_dict` to a frozen dataclass; paths become strings."""

    def to_dict(self) -> dict[str, Any]:
        plain = asdict(self)  # type: ignore[call-overload]
        return {key: _plain(value) for key, value in plain.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def structured(kind: type[Kind], plain: Mapping[str, Any]) -> Kind:
    """Build a result from the output of its `to_dict`, or from a row of a CSV file, whose values are text.

    Raises:
        KeyError, TypeError, ValueError: the data does not fit; an unknown key is a KeyError.
    """
    hints = get_type_hints(kind)
    unknown = set(plain) - {item.name for item in fields(kind)}  # type: ignore[arg-type]
    if unknown:
        raise KeyError(f"{kind.__name__} has no {', '.join(sorted(unknown))}")
    return kind(**{name: _structured(hints[name], value) for name, value in plain.items()})


def _structured(hint: Any, value: Any) -> Any:
    options = [part for part in get_args(hint) if part is not NoneType] if isinstance(hint, UnionType) else [hint]
    kind = options[0]
    if value is None:
        return None
    if hasattr(kind, "from_plain"):
        return kind.from_plain(value)
    if is_dataclass(kind):
        return structured(kind, value)  # type: ignore[arg-type]
    if get_origin(kind) is tuple:
        return tuple(_structured(get_args(kind)[0], item) for item in value)
    if kind is Path:
        return Path(value)
    if kind is bool:
        return value in (True, "True")
    return kind(value) if kind in (int, float) else value
