"""The parser of a verb, made from the signature of its `Engine` method and from the settings of the recipe."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NoReturn

from otx.errors import UsageError, nearest
from otx.options import Parameter, options_of
from otx.recipe import Recipe
from otx.schema import SettingInfo, all_settings, describe
from otx.yaml_text import parse_text

SETTING = "setting "
OVERVIEW = """usage: otx VERB [options]

A folder of images becomes a trained, measured and exported image classifier.

{verbs}

  otx train FOLDER    train the default recipe on a folder of class folders
  otx train digits    try it without any images of your own
  otx VERB --help     the options of a verb
  otx --version"""


class Parser(argparse.ArgumentParser):
    """argparse that raises its errors as UsageError; for an unknown option it suggests the nearest one."""

    def __init__(self, verb: str, summary: str) -> None:
        super().__init__(
            prog=f"otx {verb}",
            description=f"{summary[0].upper()}{summary[1:]}.",
            allow_abbrev=False,
            argument_default=argparse.SUPPRESS,
            formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=44, width=120),
        )

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{self.prog}: {message}", fix=f"`{self.prog} --help` lists the options")

    def parse(self, arguments: Sequence[str]) -> dict[str, Any]:
        known, unknown = self.parse_known_args(arguments)
        if unknown:
            word = unknown[0].split("=")[0]
            options = [option for action in self._actions for option in action.option_strings]
            self.error(f"unknown argument {word!r}{nearest(word, options)}")
        return vars(known)

    def add_flag(self, flag: str, help: str) -> None:
        """An option that is true or false; without a value it is true."""
        self.add_argument(flag, nargs="?", const=True, type=_yes_no, metavar="BOOL", help=help)

    def add_options(self, method: Callable[..., Any]) -> None:
        """The options of a method of `Engine`, under the names of its parameters."""
        for parameter in options_of(method):
            self._add_option(parameter)

    def _add_option(self, parameter: Parameter) -> None:
        known = parameter.option
        text = f"{known.help}{_choices(known.choices)}{_default_of(parameter)}".replace("%", "%%")
        if known.positional:
            # a parameter that takes one path or several takes one or several on the command line, too
            many = {"nargs": "+" if parameter.default is None and "default" not in known.help else "*"}
            single = {"nargs": "?"} if parameter.kind is not Any else many
            self.add_argument(parameter.name, metavar=known.metavar, help=text, **single)  # type: ignore[arg-type]
        elif parameter.kind is bool:
            self.add_flag(parameter.flag, text)
        elif known.metavar == "OLD=NEW":
            self.add_argument(parameter.flag, action="append", dest=parameter.name, metavar=known.metavar, help=text)
        else:
            kind = known.parse or (parameter.kind if parameter.kind in (int, float) else str)
            self.add_argument(parameter.flag, dest=parameter.name, type=kind, metavar=known.metavar, help=text)

    def add_settings(self, keys: Collection[str] | None) -> None:
        """Settings of the recipe; None: all of them."""
        group = self.add_argument_group("settings of the recipe")
        for info in all_settings(Recipe):
            if keys is None or info.key in keys:
                default = "" if info.default is None or info.default == "" else f" (default: {_default(info)})"
                boolean: dict[str, Any] = {"nargs": "?", "const": "true"} if info.kind is bool else {}
                choices = _choices(info.choices) if info.kind is str else ""
                text = f"{info.help}{choices}{default}".replace("%", "%%")
                group.add_argument(
                    f"--{info.key}", dest=f"{SETTING}{info.key}", metavar=_metavar(info), help=text, **boolean
                )


def overview(verbs: Mapping[str, str]) -> str:
    """What `otx --help` prints: the verbs, and what each does."""
    width = max(map(len, verbs))
    return OVERVIEW.format(verbs="\n".join(f"  {name:<{width}}  {summary}" for name, summary in verbs.items()))


def settings_in(given: dict[str, Any]) -> dict[str, Any]:
    """The settings of the recipe among parsed arguments, by their dotted keys.

    Raises:
        UsageError: the folder of images is given twice, with and without `--data_root`.
    """
    kinds = {info.key: info.kind for info in all_settings(Recipe)}
    texts = {name.removeprefix(SETTING): value for name, value in given.items() if name.startswith(SETTING)}
    settings = {key: parse_text(value, kinds[key]) for key, value in texts.items()}
    if "data_root" in given and "data_root" in settings:
        raise UsageError(
            f"two folders: {given['data_root']} and --data_root {settings['data_root']}", fix="give one of them"
        )
    return settings


def options_in(given: dict[str, Any], method: Callable[..., Any]) -> dict[str, Any]:
    """The options of a method among parsed arguments, by the names of its parameters."""
    return {each.name: given[each.name] for each in options_of(method) if given.get(each.name) not in (None, [])}


def renames_in(pairs: Sequence[str]) -> dict[str, str]:
    """Parse the values of `--rename OLD=NEW`."""
    renames = {}
    for pair in pairs:
        old, equals, new = pair.partition("=")
        if not old or not equals or not new:
            raise UsageError(f"--rename {pair}: must be OLD=NEW", fix="--rename rose=roses")
        renames[old] = new
    return renames


def _yes_no(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"must be true or false, got {text!r}")
    return text.lower() == "true"


def _choices(choices: Sequence[str]) -> str:
    return f" [{', '.join(choices)}]" if choices else ""


def _default_of(parameter: Parameter) -> str:
    shown = parameter.default not in (None, "") and isinstance(parameter.default, (str, int, float))
    shown = shown and not isinstance(parameter.default, bool)
    return f" (default: {parameter.default})" if shown else ""


def _default(info: SettingInfo) -> str:
    return " ".join(f"{item:g}" for item in info.default) if isinstance(info.default, tuple) else str(info.default)


def _metavar(info: SettingInfo) -> str:
    words = {"a whole number": "N", "a number": "X", "text": "TEXT", "true or false": "BOOL", "2 whole numbers": "H,W"}
    return words.get(describe(info.kind).removesuffix(" or null"), "X,X")
