"""The parser of a verb, made from the signature of its `Engine` method and from the settings of the recipe."""

from __future__ import annotations

import argparse
import re
import shutil
import sys
import textwrap
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NoReturn

from otx.commands import Verb
from otx.elsewhere import elsewhere
from otx.errors import UsageError, nearest
from otx.options import Parameter, options_of
from otx.recipe import TASK, Recipe
from otx.schema import SettingInfo, all_settings, describe
from otx.yaml_text import parse_text

SETTING = "setting "
OVERVIEW = """usage: otx VERB [options]

A folder of images becomes a trained, measured and exported image classifier.

{verbs}

  otx train FOLDER    train the default recipe on a folder of class folders
  otx train digits    try it without any images of your own
  otx help VERB       examples and the usual options of a verb
  otx completion bash completion of commands and options in the shell (bash, zsh, fish)
  otx --version"""
GROUPS = ("Data", "Model", "Training", "Hardware", "Output")
# the group of an option by the start of its name; the longest start counts
PLACES = {
    "data": "Data", "data_root": "Data", "sources": "Data", "images": "Data", "data.num_workers": "Hardware",
    "data.cache_mb": "Hardware", "data.train_subset": "Training", "data.val_subset": "Hardware",
    "data.test_subset": "Hardware", "config": "Model", "model": "Model", "checkpoint": "Model", "rename": "Model",
    "files": "Model", "task": "Model", "pattern": "Model", "resume": "Training", "preset": "Training",
    "max_epochs": "Training", "seed": "Training", "optimizer": "Training", "scheduler": "Training",
    "training": "Training", "deterministic": "Training", "recipe_id": "Model", "name": "Model", "engine": "Hardware",
    "precision": "Hardware", "device": "Hardware", "port": "Hardware",
}  # fmt: skip
WIDEST = 120


class Help(argparse.Action):
    """Prints the usual options, or all of them, and ends the program."""

    def __init__(self, option_strings: Sequence[str], dest: str, **options: Any) -> None:
        super().__init__(option_strings, dest, nargs=0, **options)

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        assert isinstance(parser, Parser)
        sys.stdout.write(f"{parser.help_text(whole=self.const)}\n")
        parser.exit()


class Parser(argparse.ArgumentParser):
    """argparse that raises its errors as UsageError; for an unknown option it suggests the nearest one.

    Args:
        recipe: its values are the defaults that the help shows.
    """

    def __init__(self, name: str, verb: Verb, recipe: Recipe | None = None) -> None:
        self.verb, self.recipe = verb, recipe
        super().__init__(
            prog=f"otx {name}",
            allow_abbrev=False,
            add_help=False,
            argument_default=argparse.SUPPRESS,
            formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=34, width=_width()),
        )
        # a value such as -1000,400 is no option either
        self._negative_number_matcher = re.compile(r"-\.?\d")
        self.places = {title: self.add_argument_group(title) for title in GROUPS}
        self.places["Output"].add_argument(
            "-h", "--help", action=Help, const=False, help="show the usual options and stop"
        )
        self.places["Output"].add_argument("--help-all", action=Help, const=True, help="show all options and stop")
        self.add_flag("--quiet", "show results, warnings and errors only")
        self.add_flag("--json", "print the result as JSON on standard output")

    def group_of(self, name: str) -> Any:
        """The group of options that an option belongs to."""
        starts = [start for start in PLACES if name == start or name.startswith(f"{start}.")]
        return self.places[PLACES[max(starts, key=len)] if starts else "Output"]

    def help_text(self, *, whole: bool) -> str:
        """The help: what the verb does, examples, and all options or the usual ones."""
        short = () if whole else self.verb.short
        shown = {action: action.help for action in self._actions}
        hidden = [each for each in shown if short and not self._is_usual(each)]
        for action in hidden:
            action.help = argparse.SUPPRESS
        for action in set(shown) - set(hidden) if short else ():
            action.help = re.sub(r";(?! default: )[^;]*?(?=;| \(default|$)", "", str(action.help))
        try:
            formatter = self._get_formatter()
            for group in self._action_groups:
                formatter.start_section(group.title)
                formatter.add_arguments(group._group_actions)
                formatter.end_section()
            options = formatter.format_help().strip("\n")
        finally:
            for action, text in shown.items():
                action.help = text
        places = " ".join(f"[{_metavar_of(each)}]" for each in self._actions if not each.option_strings)
        head = [
            f"usage: {' '.join([self.prog, places, '[options]']).replace('  ', ' ')}",
            "",
            *textwrap.wrap(self.summary, _width()),
            "",
        ]
        examples = ["Examples", *(f"  {example}" for example in self.verb.examples), ""] if self.verb.examples else []
        more = ["", f"`{self.prog} --help-all` shows all {len(shown)} options."] if hidden else []
        return "\n".join([*head, *examples, options, *more])

    def _is_usual(self, action: argparse.Action) -> bool:
        """Whether the short help shows an option; a folder that has a place of its own is not listed again."""
        places = {each.dest for each in self._actions if not each.option_strings}
        is_twice = bool(action.option_strings) and _name_of(action) in places
        return _name_of(action) in (*self.verb.short, "output", "help") and not is_twice

    @property
    def summary(self) -> str:
        return f"{self.verb.summary[0].upper()}{self.verb.summary[1:]}."

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{self.prog}: {message}", fix=f"`{self.prog} --help-all` lists the options")

    def parse(self, arguments: Sequence[str]) -> dict[str, Any]:
        known, unknown = self.parse_known_args(arguments)
        if unknown:
            word = unknown[0].split("=")[0]
            options = [option for action in self._actions for option in action.option_strings]
            here = elsewhere(word, [option.removeprefix("--") for option in options])
            meant = f": here it is '--{here}'" if here else nearest(word, options)
            self.error(f"unknown argument {word!r}{meant}")
        return vars(known)

    def add_flag(self, flag: str, help: str) -> None:
        """An option that is true or false; without a value it is true."""
        group = self.group_of(flag.removeprefix("--"))
        group.add_argument(flag, nargs="?", const=True, type=_yes_no, metavar="BOOL", help=help)

    def add_find(self) -> None:
        group = self.group_of("pattern")
        text = "only names and recipe IDs that contain it; * and ? are wildcards"
        group.add_argument("text", nargs="?", metavar="TEXT", help=text)
        group.add_argument("--task", metavar="TASK", help=f"only recipes of this task ({TASK})")
        group.add_argument("--pattern", metavar="TEXT", help="the same as TEXT")

    def add_config(self, help: str) -> None:
        self.group_of("config").add_argument("-c", "--config", metavar="RECIPE", help=help)

    def add_train(self, config_help: str) -> None:
        """What a training takes besides the options of `Engine.train` and the settings."""
        self.group_of("data_root").add_argument(
            "data_root", nargs="?", metavar="FOLDER", help="folder of class folders, a table or an archive, or `digits`"
        )
        self.add_config(config_help)
        text = "a recipe's name, or timm/NAME for any network of timm"
        self.group_of("model").add_argument("--model", metavar="NAME", help=text)
        self.add_flag("--print_config", "print the resolved recipe as YAML and stop")

    def add_options(self, method: Callable[..., Any]) -> None:
        """The options of a method of `Engine`, under the names of its parameters."""
        for parameter in options_of(method):
            self._add_option(parameter)

    def _add_option(self, parameter: Parameter) -> None:
        known, group = parameter.option, self.group_of(parameter.name)
        text = f"{known.help}{_default_of(parameter)}".replace("%", "%%")
        if known.positional:
            # a parameter that takes one path or several takes one or several on the command line, too
            many = {"nargs": "+" if parameter.default is None and "default" not in known.help else "*"}
            single = {"nargs": "?"} if parameter.kind is not Any else many
            group.add_argument(parameter.name, metavar=known.metavar, help=text, **single)
        elif parameter.kind is bool:
            self.add_flag(parameter.flag, text)
        elif known.metavar == "OLD=NEW":
            group.add_argument(parameter.flag, action="append", dest=parameter.name, metavar=known.metavar, help=text)
        else:
            kind = known.parse or (parameter.kind if parameter.kind in (int, float) else str)
            metavar = _alternatives(known.choices) or known.metavar
            group.add_argument(parameter.flag, dest=parameter.name, type=kind, metavar=metavar, help=text)

    def add_settings(self, keys: Collection[str] | None) -> None:
        """Settings of the recipe; None: all of them."""
        for info in all_settings(Recipe):
            if keys is None or info.key in keys:
                default = _default(self._value_of(info))
                boolean: dict[str, Any] = {"nargs": "?", "const": "true"} if info.kind is bool else {}
                metavar = _alternatives(info.choices if info.kind is str else ()) or _metavar(info)
                text = f"{info.help}{default}".replace("%", "%%")
                self.group_of(info.key).add_argument(
                    f"--{info.key}", dest=f"{SETTING}{info.key}", metavar=metavar, help=text, **boolean
                )

    def _value_of(self, info: SettingInfo) -> Any:
        """The value of a setting in the recipe."""
        value: Any = self.recipe
        for part in info.key.split(".") if value is not None else ():
            value = getattr(value, part)
        return info.default if self.recipe is None else value


def _width() -> int:
    return min(WIDEST, shutil.get_terminal_size().columns) - 2


def _name_of(action: argparse.Action) -> str:
    return action.dest.removeprefix(SETTING)


def _metavar_of(action: argparse.Action) -> str:
    dots = " ..." if action.nargs in ("+", "*") else ""
    return f"{action.metavar}{dots}"


def _alternatives(choices: Sequence[str]) -> str:
    """Choices as a help shows them; an empty text if there are none, or too many to read."""
    return f"{{{','.join(choices)}}}" if choices else ""


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
    renames: dict[str, str] = {}
    for pair in pairs:
        old, equals, new = pair.partition("=")
        if not old or not equals or not new:
            raise UsageError(f"--rename {pair}: must be OLD=NEW", fix="--rename rose=roses")
        if renames.get(old, new) != new:
            raise UsageError(f"--rename {pair}: it is renamed to {renames[old]} already", fix="give one of them")
        renames[old] = new
    return renames


def _yes_no(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"must be true or false, got {text!r}")
    return text.lower() == "true"


def _default_of(parameter: Parameter) -> str:
    shown = parameter.default not in (None, "") and isinstance(parameter.default, (str, int, float))
    shown = shown and not isinstance(parameter.default, bool)
    return f" (default: {parameter.default})" if shown else ""


def _default(value: Any) -> str:
    if value is None or value == "":
        return ""
    text = ",".join(f"{item:g}" for item in value) if isinstance(value, tuple) else str(value)
    return f" (default: {text})"


def _metavar(info: SettingInfo) -> str:
    words = {"a whole number": "N", "a number": "X", "text": "TEXT", "true or false": "BOOL", "2 whole numbers": "H,W"}
    return words.get(describe(info.kind).removesuffix(" or null"), "X,X")
