"""Completion in the shell: verbs, options, choices, recipes, classes and files, by argcomplete."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from typing import Any

import argcomplete
from argcomplete.completers import FilesCompleter
from argcomplete.shell_integration import shellcode

from otx.arguments import SETTING
from otx.catalogue import recipe_names
from otx.commands import VERBS
from otx.errors import OtxError
from otx.recipe import Recipe
from otx.schema import all_settings

SHELLS = ("bash", "zsh", "fish")
BOOLEANS = ("true", "false")
Completer = Callable[..., Any]


def shell_code(shell: str) -> str:
    """What a shell has to evaluate: `eval "$(otx completion bash)"`."""
    return str(shellcode(["otx"], shell=shell))


def complete() -> None:
    """Answer a shell that asks for completions; ends the program.

    The shell asks by `COMP_LINE` and `COMP_POINT`, which argcomplete reads. A verb has a parser of its own, so its name
    is joined to that of the program first.
    """
    line, point = os.environ["COMP_LINE"], int(os.environ["COMP_POINT"])
    words = line[:point].split()
    if len(words) < 2 or (len(words) == 2 and not line[:point].endswith(" ")):
        argcomplete.autocomplete(_verbs(), always_complete_options=False)
    verb = words[1]
    if verb in VERBS:
        from otx.cli import parser_of

        place = line.index(verb, line.index(words[0]) + len(words[0]))
        os.environ["COMP_LINE"] = f"{line[: place - 1]}_{line[place:]}"
        parser = parser_of(verb)
        add_completers(parser)
        argcomplete.autocomplete(parser, always_complete_options=False)
    raise SystemExit(0)


def _verbs() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("verb", choices=[*VERBS, "help", "completion"])
    return parser


def add_completers(parser: argparse.ArgumentParser) -> None:
    """Say for each option what its value may be."""
    settings = {info.key: info for info in all_settings(Recipe)}
    own: dict[str, Completer] = {"config": _recipes, "model": _recipes, "targets": _classes}
    for action in parser._actions:
        name = action.dest.removeprefix(SETTING)
        choices = settings[name].choices if name in settings else ()
        choices = choices or _braced(action.metavar) or (BOOLEANS if action.metavar == "BOOL" else ())
        files: Completer = FilesCompleter()
        action.completer = own.get(name, _one_of(choices) if choices else files)  # type: ignore[attr-defined]


def _one_of(choices: Sequence[str]) -> Completer:
    def complete(**_: Any) -> list[str]:
        return list(choices)

    return complete


def _recipes(**_: Any) -> list[str]:
    return recipe_names()


def _braced(metavar: Any) -> tuple[str, ...]:
    text = str(metavar)
    return tuple(text[1:-1].split(",")) if text.startswith("{") else ()


def _classes(**_: Any) -> list[str]:
    """The classes of the newest model, and what stands for several."""
    from otx.model.modelfile import read_card
    from otx.workspace import find_work_dir, latest_run

    try:
        return ["predicted", "true", "all", *read_card(latest_run(find_work_dir(None)).model).classes]
    except OtxError:
        return ["predicted", "true", "all"]
