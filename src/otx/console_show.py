"""Show the result of a verb: as text for people, or as JSON for programs."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from otx import console, console_machine
from otx.results import Prediction

WRITERS = ("predict", "check", "test", "benchmark", "env")


def show(name: str, result: Any, given: Mapping[str, Any]) -> int:
    """Show the result of a verb; returns the exit code.

    Args:
        given: the arguments of the command.
    """
    if name == "predict":
        worked = console.show_predictions(result, console.ROWS_SHOWN if given.get("output") else None)
        _name_output(name, given)
        return 0 if worked else 1
    if name == "demo":
        # Ctrl-C ends a demo, even while the browser is starting
        with result as demo, contextlib.suppress(KeyboardInterrupt):
            console.show_demo(demo.url, browser=given.get("open", True))
            demo.wait()
        return 0
    shows: dict[str, Callable[[Any], None]] = {
        "find": console.show_models,
        "train": console.show_training,
        "check": console.show_check,
        "label": console_machine.show_labels,
        "test": console.show_test,
        "export": console.show_export,
        "optimize": console.show_optimized,
        "explain": console.show_explanations,
        "report": print,
        "benchmark": console_machine.show_benchmark,
        "env": console_machine.show_environment,
    }
    shows[name](result)
    _name_output(name, given)
    if "deploy" in given:
        print(f"To run elsewhere: {given['deploy']} (see its README.md)")
    return exit_code(name, result)


def _name_output(name: str, given: Mapping[str, Any]) -> None:
    """Say which file was written, for the verbs that do not show it anyway."""
    if name in WRITERS and given.get("output"):
        print(f"Written: {given['output']}")


def exit_code(name: str, result: Any) -> int:
    """3 if a test misses its target, 1 if none of the images could be explained."""
    if name == "test":
        return int(result.exit_code)
    return int(name == "explain" and all(each.error for each in result.explanations))


def show_json(name: str, result: Any) -> int:
    """Print one JSON value; returns the exit code. Predictions are a list, printed as they come."""
    if name == "predict":
        return 0 if _show_predictions(result) else 1
    if name == "demo":
        with result as demo:
            _print({"url": demo.url})
            demo.wait()
        return 0
    if name == "find":
        _print([entry.to_dict() for entry in result])
    else:
        _print({"path": str(result)} if isinstance(result, Path) else result.to_dict())
    return exit_code(name, result)


def _print(plain: Any) -> None:
    print(_json(plain, indent=2), flush=True)


def _json(plain: Any, indent: int | None = None) -> str:
    """JSON, with the escapes of JSON for what the output cannot hold; those of the output itself are Python's."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return json.dumps(plain, indent=indent, ensure_ascii=encoding.lower() not in ("utf-8", "utf8"))


def _show_predictions(predictions: Iterable[Prediction]) -> bool:
    """Print a list; returns whether an image was classified."""
    worked = False
    separator = "["
    for prediction in predictions:
        print(f"{separator}\n{_json(prediction.to_dict())}", end="", flush=True)
        separator, worked = ",", worked or prediction.error is None
    print("\n]" if separator == "," else "[]")
    return worked
