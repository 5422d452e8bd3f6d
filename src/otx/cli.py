"""The command line: turn the arguments into one `Engine` call, and print its result."""

from __future__ import annotations

import io
import itertools
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from otx.catalogue import load_recipe, note_of
from otx.commands import VERBS
from otx.errors import OtxError, StoppedError, UsageError, nearest
from otx.limits import limit_blas
from otx.networks.table import timm_networks
from otx.recipe import DEFAULT_RECIPE, Recipe
from otx.signals import name_of, signal_of, terminable
from otx.training.compute import find_shard

CONFIG_HELP = "take data_root and work_dir from this recipe; a model brings the rest"
FIND = "`otx find` lists all of them"
NAMED = 5


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the exit code is 0, 1 (failed), 2 (bad input), 3 (target missed), 130 (Ctrl-C), 143 (SIGTERM)."""
    if "_ARGCOMPLETE" in os.environ:
        from otx.completion import complete

        complete()
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    limit_blas()
    if isinstance(sys.stdout, io.TextIOWrapper):
        # file names may hold characters that the terminal cannot show
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        with terminable():
            return _run(arguments)
    except OtxError as error:
        if not isinstance(error, StoppedError) or find_shard().is_main:
            _complain(f"{error}\n  more: {error.page}" if error.page else str(error))
        return error.exit_code
    except KeyboardInterrupt as stop:
        number = signal_of(stop)
        if find_shard().is_main:
            print(f"Stopped by {name_of(number)}.", file=sys.stderr)
        return 128 + number
    except BrokenPipeError:
        sys.stderr.close()
        return 1
    except (OSError, MemoryError, RuntimeError) as error:
        from otx.memory import is_out_of_memory

        if isinstance(error, RuntimeError) and not is_out_of_memory(error):
            raise
        _complain(_machine_says(error))
        return 1


def _complain(message: str) -> None:
    from otx.console import show_error

    show_error(message)


def _machine_says(error: OSError | MemoryError | RuntimeError) -> str:
    if not isinstance(error, OSError):
        return f"there is not enough memory: {str(error).partition(chr(10))[0]}"
    return f"{error.filename}: {error.strerror}" if error.filename is not None else str(error)


def _run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help") or arguments == ["help"]:
        from otx.arguments import overview

        print(overview({name: verb.summary for name, verb in VERBS.items()}))
        return 0
    if arguments[0] in ("-v", "--version"):
        from importlib.metadata import version

        print(f"otx {version('otx')}")
        return 0
    name, *rest = arguments
    if name == "help":
        name, rest = rest[0], ["--help"]
    if name == "completion":
        return _print_completion(rest)
    if name not in VERBS:
        raise UsageError(f"unknown verb '{name}'{nearest(name, VERBS)}", allowed=VERBS)
    special: dict[str, Callable[[list[str]], int]] = {"find": _find, "train": _train}
    return special[name](rest) if name in special else _use(name, rest)


def parser_of(name: str, arguments: Sequence[str] = ()) -> Any:
    """The parser of a verb; the defaults in its help are those of the recipe that `arguments` name."""
    from otx.arguments import Parser
    from otx.engine import Engine

    verb = VERBS[name]
    if name == "find":
        parser = Parser(name, verb)
        parser.add_find()
        return parser
    if name != "train":
        parser = Parser(name, verb)
        parser.add_options(getattr(Engine, verb.method or name))
        if verb.takes_config:
            parser.add_config(CONFIG_HELP)
        if name == "demo":
            parser.add_flag("--open", "show the page in the browser (default: true, where there is a desktop)")
        parser.add_settings(verb.settings)
        return parser
    parser = Parser(name, verb, _recipe_in(arguments))
    parser.add_train(f"a recipe's name, ID or YAML file (default: {DEFAULT_RECIPE})")
    parser.add_options(Engine.train)
    parser.add_settings(None)
    return parser


def _recipe_in(arguments: Sequence[str]) -> Recipe | None:
    """The recipe that a command names, or the default one, if its help is asked for."""
    if not {"-h", "--help", "--help-all"} & set(arguments):
        return None
    names = [after for word, after in itertools.pairwise(arguments) if word in ("-c", "--config")]
    return load_recipe(names[-1] if names else DEFAULT_RECIPE)


def _print_completion(arguments: list[str]) -> int:
    from otx.completion import SHELLS, shell_code

    if len(arguments) != 1 or arguments[0] not in SHELLS:
        raise UsageError(
            f"otx completion takes the name of a shell, got {' '.join(arguments) or 'nothing'}",
            allowed=SHELLS,
            fix='eval "$(otx completion bash)"',
        )
    print(shell_code(arguments[0]))
    return 0


def _find(arguments: list[str]) -> int:
    from otx.verbs.find import find_models

    given = parser_of("find").parse(arguments)
    if given.get("pattern") and given.get("text"):
        raise UsageError(f"two patterns: {given['text']} and --pattern {given['pattern']}", fix="give one of them")
    pattern = given.get("pattern") or given.get("text")
    entries = find_models(given.get("task"), pattern)
    if not entries:
        others = [name for name in sorted(timm_networks(), key=len) if str(pattern).lower() in name][:NAMED]
        fix = f"timm has {', '.join(others)}: `otx train FOLDER --model {others[0]}`" if others else FIND
        raise UsageError(f"no recipe matches --pattern {pattern}", fix=fix)
    return _show("find", entries, given)


def _train(arguments: list[str]) -> int:
    from otx.arguments import options_in, renames_in, settings_in
    from otx.engine import Engine
    from otx.presets import preset_settings

    given = parser_of("train", arguments).parse(arguments)
    engine = Engine(
        given.get("data_root"),
        recipe=load_recipe(given["config"]) if "config" in given else None,
        model=given.get("model"),
        overrides=settings_in(given),
        checkpoint=given.pop("checkpoint", None),
        reporter=_reporter(given),
    )
    if note := note_of(engine.recipe, given.get("config")):
        engine.reporter.note(note)
    if given.get("print_config"):
        from otx.yaml_text import dump_yaml

        changes = preset_settings(given.get("preset"), settings_in(given), engine.reporter)
        print(dump_yaml(engine.recipe if given.get("resume") else engine.training_recipe(changes=changes)), end="")
        return 0
    options = options_in(given, Engine.train)
    result = engine.train(**options | {"rename": renames_in(given.get("rename", []))})
    if find_shard().is_main:
        _show("train", result, given)
    return result.stop.exit_code


def _use(name: str, arguments: list[str]) -> int:
    """Run any verb but `find` and `train`."""
    from otx.arguments import options_in
    from otx.engine import Engine

    given = parser_of(name).parse(arguments)
    method = VERBS[name].method or name
    result = getattr(_engine(given), method)(**options_in(given, getattr(Engine, method)))
    return _show(name, result, given)


def _engine(given: dict[str, Any]) -> Any:
    """The engine of any verb but `find` and `train`; a --config gives it data_root and work_dir only."""
    from otx.arguments import settings_in
    from otx.engine import Engine

    overrides: dict[str, Any] = {}
    if "config" in given:
        recipe = load_recipe(given["config"])
        overrides = {"data_root": recipe.data_root, "work_dir": recipe.work_dir}
    overrides.update(settings_in(given))
    return Engine(overrides=overrides, reporter=_reporter(given))


def _show(name: str, result: Any, given: dict[str, Any]) -> int:
    """Show the result of a verb, as text or as JSON; returns the exit code."""
    from otx.console_progress import clear_line
    from otx.console_show import show, show_json

    clear_line()
    return show_json(name, result) if given.get("json") else show(name, result, given)


def _reporter(given: dict[str, Any]) -> Any:
    from otx.console_progress import ConsoleReporter, QuietReporter

    return QuietReporter() if given.get("quiet") else ConsoleReporter()


if __name__ == "__main__":
    sys.exit(main())
