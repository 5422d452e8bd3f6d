"""Read and write settings as YAML: files (strictly) and command-line values. Nothing in them can run code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from otx.errors import LONGEST, RecipeError
from otx.recipe import Recipe

MAX_DEPTH = 20


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file of settings; nothing in it can run code.

    Raises:
        RecipeError: it cannot be read, is not YAML, or repeats a key.
    """
    import yaml

    try:
        text = path.read_text(encoding="utf-8")
        _check_depth(text)
        data = yaml.load(text, Loader=_strict_loader())
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        # a ValueError is an impossible date or number
        raise RecipeError(f"{path} is not a readable YAML file: {str(error)[:LONGEST]}") from error
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise RecipeError(f"{path} must hold settings (`key: value`), got {type(data).__name__}")
    return data


def _check_depth(text: str) -> None:
    """Raise YAMLError if YAML is nested so deep that the C loader would overflow its stack."""
    import yaml

    depth = 0
    for event in yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise yaml.YAMLError(f"it is nested more than {MAX_DEPTH} times")


def _strict_loader() -> type:
    """The safe YAML loader, which refuses a key given twice (YAML itself would keep the last, silently)."""
    import yaml

    class Loader(yaml.CSafeLoader if hasattr(yaml, "CSafeLoader") else yaml.SafeLoader):  # type: ignore[misc]
        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            seen: set[str] = set()
            for key in (str(key.value) for key, _ in node.value):
                if key in seen:
                    raise yaml.constructor.ConstructorError(None, None, f"key '{key}' is given twice", node.start_mark)
                seen.add(key)
            return super().construct_mapping(node, deep)

    return Loader


def parse_text(text: str, kind: Any) -> Any:
    """Read the text of a command-line option as the type of its setting; text that does not fit stays text."""
    import yaml

    if kind in (str, str | None) or text == "":
        # a name such as 2024-05-01, `Smith, John` or `a #b` is no YAML
        return None if kind is not str and text == "null" else text
    try:
        value = yaml.safe_load(text)
        if isinstance(value, str) and "," in value:
            value = [yaml.safe_load(part) for part in value.split(",")]
    except (ValueError, RecursionError, yaml.YAMLError):
        return text
    return value


def dump_yaml(recipe: Recipe) -> str:
    """The whole recipe as YAML; `load_recipe` reads it back unchanged."""
    import yaml

    return str(yaml.safe_dump(recipe.to_dict(), sort_keys=False, allow_unicode=True, default_flow_style=None))
