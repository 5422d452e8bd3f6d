"""The command line: turn the arguments into one `Engine` call, and print its result."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from otx.catalogue import load_recipe
from otx.errors import OtxError, StoppedError, UsageError, nearest
from otx.limits import limit_blas
from otx.recipe import DEFAULT_RECIPE, TASK
from otx.signals import name_of, signal_of, terminable
from otx.training.compute import find_shard

MODEL_SETTINGS = ("work_dir", "engine.device", "data.max_image_pixels", "data.test_subset.batch_size")
DATA_SETTINGS = ("data_root", "work_dir", "data.split_file")
SPLIT_SETTINGS = ("seed", "data.test_share", "data.val_share")
READING_SETTINGS = ("data.input_size", "data.resize", "data.intensity", "data.bands")
PHOTO_SETTINGS = (*DATA_SETTINGS, "engine.device", "data.max_image_pixels")
CONFIG_HELP = "take data_root and work_dir from this recipe; a model brings the rest"


@dataclass(frozen=True)
class Verb:
    """A verb: its summary, the recipe settings it takes (None: all), its `Engine` method (if not named like it)."""

    summary: str
    settings: tuple[str, ...] | None = ()
    method: str = ""
    takes_config: bool = True


VERBS = {
    "check": Verb(
        "look at a folder of images before anyone trains: what is broken, double, leaking or odd",
        (*DATA_SETTINGS, *SPLIT_SETTINGS, *READING_SETTINGS, *MODEL_SETTINGS),
        takes_config=False,
    ),
    "find": Verb("list the recipes: what can be trained, and what it costs"),
    "train": Verb("train a model on a folder of images", None),
    "test": Verb("measure a model on test images", (*DATA_SETTINGS, *MODEL_SETTINGS)),
    "predict": Verb("classify images", MODEL_SETTINGS, method="iter_predict"),
    "export": Verb("write a model as OpenVINO IR or ONNX", DATA_SETTINGS),
    "optimize": Verb(
        "write a model as INT8 IR, and measure what it gains and costs", DATA_SETTINGS, takes_config=False
    ),
    "explain": Verb("draw where in an image a model sees a class", PHOTO_SETTINGS),
    "report": Verb("write the page of a run again, or compare several runs on one", ("work_dir",), takes_config=False),
    "demo": Verb("open a page on this machine that classifies the photos it is given", PHOTO_SETTINGS),
    "benchmark": Verb(
        "measure how fast model files are beside each other on this machine",
        (*DATA_SETTINGS, "data.max_image_pixels"),
        takes_config=False,
    ),
    "env": Verb("show versions, processor, memory and devices, for a report", ("work_dir",), takes_config=False),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the exit code is 0, 1 (failed), 2 (bad input), 3 (target missed), 130 (Ctrl-C), 143 (SIGTERM)."""
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
            _complain(str(error))
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
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        from otx.arguments import overview

        print(overview({name: verb.summary for name, verb in VERBS.items()}))
        return 0
    if arguments[0] in ("-v", "--version"):
        from importlib.metadata import version

        print(f"otx {version('otx')}")
        return 0
    name, *rest = arguments
    if name not in VERBS:
        raise UsageError(f"unknown verb '{name}'{nearest(name, VERBS)}", allowed=VERBS)
    special: dict[str, Callable[[list[str]], int]] = {"find": _find, "train": _train}
    return special[name](rest) if name in special else _use(name, rest)


def _find(arguments: list[str]) -> int:
    from otx.arguments import Parser

    parser = Parser("find", VERBS["find"].summary)
    parser.add_argument("--task", metavar="TASK", help=f"only recipes of this task ({TASK})")
    parser.add_argument(
        "--pattern", metavar="TEXT", help="only names and recipe IDs that contain it; * and ? are wildcards"
    )
    given = parser.parse(arguments)
    from otx.console import show_models
    from otx.verbs.find import find_models

    entries = find_models(given.get("task"), given.get("pattern"))
    if not entries:
        raise UsageError(f"no recipe matches --pattern {given['pattern']}", fix="`otx find` lists all of them")
    show_models(entries)
    return 0


def _train(arguments: list[str]) -> int:
    from otx.arguments import Parser, options_in, renames_in, settings_in
    from otx.engine import Engine

    parser = Parser("train", VERBS["train"].summary)
    parser.add_argument("data_root", nargs="?", metavar="DATA_ROOT", help="the same as --data_root")
    parser.add_argument(
        "-c", "--config", metavar="RECIPE", help=f"a recipe's name, ID or YAML file (default: {DEFAULT_RECIPE})"
    )
    parser.add_argument("--model", metavar="NAME", help="a recipe's name, or timm/NAME for any network of timm")
    parser.add_options(Engine.train)
    parser.add_flag("--print_config", "print the resolved recipe as YAML and stop")
    parser.add_settings(None)
    given = parser.parse(arguments)
    engine = Engine(
        given.get("data_root"),
        recipe=load_recipe(given["config"]) if "config" in given else None,
        model=given.get("model"),
        overrides=settings_in(given),
        checkpoint=given.pop("checkpoint", None),
        reporter=_reporter(),
    )
    if given.get("print_config"):
        from otx.yaml_text import dump_yaml

        print(dump_yaml(engine.recipe if given.get("resume") else engine.training_recipe()), end="")
        return 0
    options = options_in(given, Engine.train)
    result = engine.train(**options | {"rename": renames_in(given.get("rename", []))})
    from otx.console import show_training

    if find_shard().is_main:
        show_training(result)
    return result.stop.exit_code


def _use(name: str, arguments: list[str]) -> int:
    """Run any verb but `find` and `train`."""
    from otx.arguments import Parser, options_in
    from otx.engine import Engine

    verb = VERBS[name]
    method = getattr(Engine, verb.method or name)
    parser = Parser(name, verb.summary)
    parser.add_options(method)
    if verb.takes_config:
        parser.add_argument("-c", "--config", metavar="RECIPE", help=CONFIG_HELP)
    if name == "demo":
        parser.add_flag("--open", "show the page in the browser (default: true, where there is a desktop)")
    parser.add_settings(verb.settings)
    given = parser.parse(arguments)
    result = getattr(_engine(given), verb.method or name)(**options_in(given, method))
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
    return Engine(overrides=overrides, reporter=_reporter())


def _show(name: str, result: Any, given: dict[str, Any]) -> int:
    """Show the result of a verb; returns the exit code."""
    from otx import console, console_machine, console_progress

    console_progress.clear_line()
    if name == "predict":
        worked = console.show_predictions(result, console.ROWS_SHOWN if given.get("output") else None)
        return 0 if worked else 1
    if name == "demo":
        # Ctrl-C ends a demo, even while the browser is starting
        with result as demo, contextlib.suppress(KeyboardInterrupt):
            console.show_demo(demo.url, browser=given.get("open", True))
            demo.wait()
        return 0
    if name == "explain":
        console.show_explanations(result)
        return 1 if all(explanation.error for explanation in result.explanations) else 0
    shows: dict[str, Callable[[Any], None]] = {
        "check": console.show_check,
        "test": console.show_test,
        "export": console.show_export,
        "optimize": console.show_optimized,
        "report": print,
        "benchmark": console_machine.show_benchmark,
        "env": console_machine.show_environment,
    }
    shows[name](result)
    if "deploy" in given:
        print(f"To run elsewhere: {given['deploy']} (see its README.md)")
    return result.exit_code if name == "test" else 0


def _reporter() -> Any:
    from otx.console_progress import ConsoleReporter

    return ConsoleReporter()


if __name__ == "__main__":
    sys.exit(main())
