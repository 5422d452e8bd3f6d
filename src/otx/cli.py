"""The command line: arguments become one `Engine` call, and its result becomes what a person sees."""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from otx.errors import OtxError, StoppedError, UsageError, nearest
from otx.limits import limit_blas
from otx.recipe import DEFAULT_RECIPE, TASK, Recipe, load_recipe, parse_text
from otx.schema import SettingInfo, all_settings, describe
from otx.signals import name_of, signal_of, terminable
from otx.training.compute import find_shard

VERBS = {
    "check": "look at a folder of images before anyone trains: what is broken, double, leaking or odd",
    "find": "list the recipes: what can be trained, and what it costs",
    "train": "train a model on a folder of images",
    "test": "measure a model on test images",
    "predict": "classify images",
    "export": "write a model as OpenVINO IR or ONNX",
    "optimize": "write a model as INT8 IR, and measure what it gains and costs",
    "explain": "draw where in an image a model sees a class",
    "report": "write the page of a run again, or compare several runs on one",
    "demo": "open a page on this machine that classifies the photos it is given",
    "benchmark": "measure how fast model files are beside each other on this machine",
    "env": "show versions, processor, memory and devices, to paste into a report",
}
USE_SETTINGS = (
    "data_root",
    "work_dir",
    "engine.device",
    "data.split_file",
    "data.max_image_pixels",
    "data.test_subset.batch_size",
)
PREDICT_SETTINGS = ("work_dir", "engine.device", "data.max_image_pixels", "data.test_subset.batch_size")
CHECK_SETTINGS = (
    "data_root",
    "work_dir",
    "seed",
    "engine.device",
    "data.split_file",
    "data.test_share",
    "data.val_share",
    "data.max_image_pixels",
    "data.test_subset.batch_size",
)
EXPORT_SETTINGS = ("data_root", "work_dir", "data.split_file")
EXPLAIN_SETTINGS = (*EXPORT_SETTINGS, "engine.device", "data.max_image_pixels")
BENCHMARK_SETTINGS = ("data_root", "work_dir", "data.split_file", "data.max_image_pixels")
TARGETS = "--explain_config.targets"
ALGORITHM = "--explain_config.algorithm"
OVERVIEW = """usage: otx VERB [options]

A folder of images becomes a trained, measured and exported image classifier.

{verbs}

  otx train --data_root FOLDER    train the default recipe on a folder of class folders
  otx train --data_root digits    try it without any images of your own
  otx VERB --help                 the options of a verb
  otx --version"""


class Parser(argparse.ArgumentParser):
    """argparse, whose complaints are raised as UsageError and name the option that was probably meant."""

    def __init__(self, verb: str, **options: Any) -> None:
        super().__init__(
            prog=f"otx {verb}",
            description=f"{VERBS[verb][0].upper()}{VERBS[verb][1:]}.",
            allow_abbrev=False,
            argument_default=argparse.SUPPRESS,
            formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=44, width=120),
            **options,
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


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Returns:
        The exit code: 0, 1 (the work failed), 2 (the input cannot be used), 130 (Ctrl-C) or 143 (SIGTERM).
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    limit_blas()
    if isinstance(sys.stdout, io.TextIOWrapper):
        # names of files may hold what a terminal cannot show
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        with terminable():
            return _run(arguments)
    except OtxError as error:
        from otx.console import show_error

        if not isinstance(error, StoppedError) or find_shard().is_main:
            show_error(str(error))
        return error.exit_code
    except KeyboardInterrupt as stop:
        number = signal_of(stop)
        if find_shard().is_main:
            print(f"Stopped by {name_of(number)}.", file=sys.stderr)
        return 128 + number
    except BrokenPipeError:
        sys.stderr.close()
        return 1
    except (OSError, MemoryError) as error:
        from otx.console import show_error

        show_error(_machine_says(error))
        return 1
    except RuntimeError as error:
        from otx.memory import is_out_of_memory

        if not is_out_of_memory(error):
            raise
        from otx.console import show_error

        show_error(_machine_says(error))
        return 1


def _machine_says(error: OSError | MemoryError | RuntimeError) -> str:
    if not isinstance(error, OSError):
        return f"there is not enough memory: {str(error).partition(chr(10))[0]}"
    return f"{error.filename}: {error.strerror}" if error.filename is not None else str(error)


def _run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        width = max(map(len, VERBS))
        print(OVERVIEW.format(verbs="\n".join(f"  {verb:<{width}}  {text}" for verb, text in VERBS.items())))
        return 0
    if arguments[0] in ("-v", "--version"):
        from importlib.metadata import version

        print(f"otx {version('otx')}")
        return 0
    verb, *rest = arguments
    if verb not in VERBS:
        raise UsageError(f"unknown verb '{verb}'{nearest(verb, VERBS)}", allowed=VERBS)
    commands: dict[str, Callable[[list[str]], int]] = {
        "check": _check,
        "find": _find,
        "train": _train,
        "test": _test,
        "predict": _predict,
        "export": _export,
        "optimize": _optimize,
        "explain": _explain,
        "report": _report,
        "demo": _demo,
        "benchmark": _benchmark,
        "env": _env,
    }
    return commands[verb](rest)


def _check(arguments: list[str]) -> int:
    parser = Parser("check")
    parser.add_argument("folder", nargs="?", metavar="DATA_ROOT", help="the same as --data_root")
    parser.add_argument(
        "--checkpoint", metavar="FILE", help="also list images that this model takes for mislabelled (any model file)"
    )
    parser.add_argument("--output", metavar="FILE", help="also write all that was found to this .json or .csv file")
    _add_settings(parser, CHECK_SETTINGS)
    options = parser.parse(arguments)
    overrides = _overrides(options)
    if "folder" in options:
        if "data_root" in overrides:
            raise UsageError(f"two folders: {options['folder']} and --data_root {overrides['data_root']}")
        overrides["data_root"] = options["folder"]
    from otx.console import show_suspicions
    from otx.engine import Engine

    engine = Engine(overrides=overrides, checkpoint=options.get("checkpoint"), reporter=_reporter())
    show_suspicions(engine.check(output=options.get("output")))
    return 0


def _find(arguments: list[str]) -> int:
    parser = Parser("find")
    parser.add_argument("--task", metavar="TASK", help=f"only recipes of this task ({TASK})")
    parser.add_argument(
        "--pattern", metavar="TEXT", help="only names and recipe IDs that contain it; * and ? are wildcards"
    )
    options = parser.parse(arguments)
    from otx.console import show_models
    from otx.engine import find_models

    entries = find_models(options.get("task"), options.get("pattern"))
    if not entries:
        raise UsageError(f"no recipe matches --pattern {options['pattern']}", fix="`otx find` lists all of them")
    show_models(entries)
    return 0


def _train(arguments: list[str]) -> int:
    parser = Parser("train")
    parser.add_argument(
        "-c", "--config", metavar="RECIPE", help=f"a recipe's name, ID or YAML file (default: {DEFAULT_RECIPE})"
    )
    parser.add_argument("--model", metavar="NAME", help="a recipe's name, or timm/NAME for any network of timm")
    parser.add_argument(
        "--checkpoint", metavar="FILE", help="begin from this model; with --resume: the run to go on with"
    )
    parser.add_argument(
        "--rename",
        action="append",
        metavar="OLD=NEW",
        help="with --checkpoint: a class of the model that the data calls otherwise; may be given several times",
    )
    _add_flag(parser, "--resume", "go on with a run from its last checkpoint (default: the newest run)")
    _add_flag(parser, "--print_config", "print the resolved recipe as YAML and stop")
    _add_settings(parser, None)
    options = parser.parse(arguments)
    overrides = _overrides(options)
    from otx.engine import Engine

    engine = Engine(
        recipe=load_recipe(options["config"]) if "config" in options else None,
        model=options.get("model"),
        overrides=overrides,
        checkpoint=options.get("checkpoint"),
        reporter=_reporter(),
    )
    if options.get("print_config"):
        from otx.recipe import dump_yaml

        print(dump_yaml(engine.recipe if options.get("resume") else engine.training_recipe()), end="")
        return 0
    result = engine.train(resume=options.get("resume", False), rename=_renames(options.get("rename", [])))
    from otx.console import show_training

    if find_shard().is_main:
        show_training(result)
    return result.stop.exit_code


def _renames(pairs: list[str]) -> dict[str, str]:
    renames = {}
    for pair in pairs:
        old, equals, new = pair.partition("=")
        if not old or not equals or not new:
            raise UsageError(f"--rename {pair}: must be OLD=NEW", fix="--rename rose=roses")
        renames[old] = new
    return renames


def _test(arguments: list[str]) -> int:
    parser = Parser("test")
    _add_model_options(parser, "a model file, a checkpoint, an IR (.xml) or an ONNX file")
    parser.add_argument("--output", metavar="FILE", help="also write the figures to this JSON file")
    _add_settings(parser, USE_SETTINGS)
    options = parser.parse(arguments)
    engine = _engine(options)
    result = engine.test(output=options.get("output"))
    from otx.console import show_test

    show_test(result)
    return 0


def _predict(arguments: list[str]) -> int:
    parser = Parser("predict")
    parser.add_argument("images", nargs="+", metavar="IMAGES", help="image files, folders and globs")
    _add_model_options(parser, "a model file, a checkpoint, an IR (.xml) or an ONNX file")
    parser.add_argument(
        "--output", metavar="FILE", help="write the predictions to this .csv (row by row) or .json file, too"
    )
    _add_flag(parser, "--resume", "go on with an --output .csv that is not complete, behind its last whole row")
    _add_settings(parser, PREDICT_SETTINGS)
    options = parser.parse(arguments)
    output = options.get("output")
    from otx.console import ROWS_SHOWN, show_predictions

    predictions = _engine(options).iter_predict(options["images"], **_some(options, "output", "resume"))
    return 0 if show_predictions(predictions, ROWS_SHOWN if output else None) else 1


def _export(arguments: list[str]) -> int:
    parser = Parser("export")
    _add_model_options(parser, "a model file or a checkpoint")
    parser.add_argument("--export_format", metavar="FORMAT", help="OPENVINO or ONNX (default: OPENVINO)")
    parser.add_argument("--export_precision", metavar="PRECISION", help="FP32 or FP16 weights (default: FP32)")
    parser.add_argument(
        "--preprocessing",
        metavar="WHERE",
        help="modelapi: described in the file; embedded: in the graph (default: modelapi)",
    )
    parser.add_argument(
        "--input_color", metavar="ORDER", help="what an embedded graph takes: RGB or BGR (default: RGB)"
    )
    _add_flag(parser, "--explain", "let the file also give saliency maps and feature vectors")
    _add_algorithm(parser)
    parser.add_argument("--output", metavar="FOLDER", help="where to write it (default: the run folder)")
    parser.add_argument(
        "--deploy", metavar="FOLDER", help="also write a folder that runs with OpenVINO, ModelAPI and Pillow alone"
    )
    _add_settings(parser, EXPORT_SETTINGS)
    options = parser.parse(arguments)
    names = ("export_format", "export_precision", "preprocessing", "input_color", "explain", "output", "deploy")
    result = _engine(options).export(**_some(options, *names, algorithm=ALGORITHM))
    from otx.console import show_export

    show_export(result)
    if "deploy" in options:
        print(f"To run elsewhere: {options['deploy']} (see its README.md)")
    return 0


def _optimize(arguments: list[str]) -> int:
    parser = Parser("optimize")
    parser.add_argument(
        "--checkpoint", metavar="FILE", help="an IR, a model file or a checkpoint (default: the last export)"
    )
    parser.add_argument(
        "--max_drop", type=float, metavar="X", help="accuracy it may lose, 0 to 1: turns layers back until that holds"
    )
    parser.add_argument(
        "--subset_size", type=int, metavar="N", help="images of the training split to calibrate with (default: 300)"
    )
    _add_flag(parser, "--explain", "let the file also give saliency maps and feature vectors")
    parser.add_argument("--batch_size", type=int, metavar="N", help="images the file takes at a time (default: 1)")
    parser.add_argument("--output", metavar="FOLDER", help="where to write it (default: the run folder)")
    _add_settings(parser, EXPORT_SETTINGS)
    options = parser.parse(arguments)
    names = ("max_drop", "subset_size", "explain", "batch_size", "output")
    result = _engine(options).optimize(**_some(options, *names))
    from otx.console import show_optimized

    show_optimized(result)
    return 0


def _explain(arguments: list[str]) -> int:
    parser = Parser("explain")
    parser.add_argument(
        "images", nargs="*", metavar="IMAGES", help="image files, folders and globs (default: the test split)"
    )
    _add_model_options(parser, "a model file, a checkpoint, or a file that was exported with --explain true")
    parser.add_argument(
        TARGETS, dest=TARGETS, metavar="WHICH", help="predicted, true, all, or the name of a class (default: predicted)"
    )
    _add_algorithm(parser)
    parser.add_argument("--output", metavar="FOLDER", help="where to write (default: a new folder in the run folder)")
    _add_settings(parser, EXPLAIN_SETTINGS)
    options = parser.parse(arguments)
    sources = options.get("images") or None
    result = _engine(options).explain(sources, **_some(options, "output", targets=TARGETS, algorithm=ALGORITHM))
    from otx.console import show_explanations

    show_explanations(result)
    return 1 if all(explanation.error for explanation in result.explanations) else 0


def _report(arguments: list[str]) -> int:
    parser = Parser("report")
    parser.add_argument("runs", nargs="*", metavar="RUN", help="run folders (default: the newest training)")
    parser.add_argument(
        "--output",
        metavar="FILE",
        help="the HTML file to write (default: RUN/report.html; for several runs a new folder in WORK_DIR/reports)",
    )
    _add_settings(parser, ("work_dir",))
    options = parser.parse(arguments)
    path = _engine(options).report(options.get("runs") or None, **_some(options, "output"))
    print(path)
    return 0


def _demo(arguments: list[str]) -> int:
    parser = Parser("demo")
    _add_model_options(parser, "a run folder, a model file, a checkpoint, an IR (.xml) or an ONNX file")
    parser.add_argument("--port", type=int, metavar="N", help="of 127.0.0.1 (default: 0, one that is free)")
    _add_flag(parser, "--open", "show the page in the browser (default: true, where there is a desktop)")
    _add_settings(parser, EXPLAIN_SETTINGS)
    options = parser.parse(arguments)
    from otx.console import show_demo

    # Ctrl-C is how a demo ends, also while the browser still starts
    with _engine(options).demo(**_some(options, "port")) as demo, contextlib.suppress(KeyboardInterrupt):
        show_demo(demo.url, browser=options.get("open", True))
        demo.wait()
    return 0


def _benchmark(arguments: list[str]) -> int:
    parser = Parser("benchmark")
    parser.add_argument(
        "files", nargs="+", metavar="FILE", help="model files, checkpoints, IRs (.xml) and ONNX files, side by side"
    )
    parser.add_argument("--device", metavar="NAME", help="CPU, GPU, NPU or another name of a device (default: CPU)")
    parser.add_argument(
        "--batch", type=_counts, metavar="N,N", help="batch sizes to measure the throughput of (default: 1,8)"
    )
    parser.add_argument(
        "--streams",
        type=lambda text: text.split(","),
        metavar="N,N",
        help="batches that OpenVINO computes side by side, auto or numbers (default: auto)",
    )
    parser.add_argument(
        "--seconds", type=float, metavar="X", help="how long each figure of each file is measured (default: 2)"
    )
    _add_flag(parser, "--decode", "read, decode and resize a photo for every image (default: false)")
    parser.add_argument(
        "--images",
        metavar="IMAGES",
        help="a file, folder or glob to decode (default: the test images of the first file's data set)",
    )
    _add_flag(parser, "--memory", "also measure the memory that each file takes (default: true)")
    parser.add_argument("--output", metavar="FILE", help="also write the figures to this JSON file")
    _add_settings(parser, BENCHMARK_SETTINGS)
    options = parser.parse(arguments)
    names = ("device", "batch", "streams", "seconds", "decode", "images", "memory", "output")
    result = _engine(options).benchmark(options["files"], **_some(options, *names))
    from otx.console_machine import show_benchmark

    show_benchmark(result)
    return 0


def _counts(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"must be numbers with commas between them, got {text!r}") from error


def _env(arguments: list[str]) -> int:
    parser = Parser("env")
    parser.add_argument("--output", metavar="FILE", help="also write it to this JSON file")
    _add_settings(parser, ("work_dir",))
    options = parser.parse(arguments)
    from otx.console_machine import show_environment

    show_environment(_engine(options).env(**_some(options, "output")))
    return 0


def _add_algorithm(parser: Parser) -> None:
    parser.add_argument(
        ALGORITHM,
        dest=ALGORITHM,
        metavar="NAME",
        help="auto, recipro_cam, vit_recipro_cam or activation_map (default: auto, what suits the network)",
    )


def _some(options: dict[str, Any], *names: str, **renamed: str) -> dict[str, Any]:
    """The options that were given, as arguments of a method; `renamed` maps an argument to its option."""
    arguments = {**{name: name for name in names}, **renamed}
    return {argument: options[name] for argument, name in arguments.items() if name in options}


def _add_flag(parser: Parser, option: str, text: str) -> None:
    parser.add_argument(option, nargs="?", const=True, type=_yes_no, metavar="BOOL", help=text)


def _yes_no(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"must be true or false, got {text!r}")
    return text.lower() == "true"


def _add_model_options(parser: Parser, what: str) -> None:
    parser.add_argument("--checkpoint", metavar="FILE", help=f"{what} (default: the newest training)")
    parser.add_argument(
        "-c", "--config", metavar="RECIPE", help="take data_root and work_dir from this recipe; a model brings the rest"
    )


def _add_settings(parser: Parser, keys: tuple[str, ...] | None) -> None:
    group = parser.add_argument_group("settings of the recipe")
    for info in all_settings(Recipe):
        if keys is None or info.key in keys:
            default = "" if info.default is None or info.default == "" else f" (default: {_default(info)})"
            choices = f" [{', '.join(info.choices)}]" if info.choices and info.kind is str else ""
            boolean: dict[str, Any] = {"nargs": "?", "const": "true"} if info.kind is bool else {}
            text = f"{info.help}{choices}{default}".replace("%", "%%")
            group.add_argument(
                f"--{info.key}", dest=f"setting {info.key}", metavar=_metavar(info), help=text, **boolean
            )


def _default(info: SettingInfo) -> str:
    return " ".join(f"{item:g}" for item in info.default) if isinstance(info.default, tuple) else str(info.default)


def _metavar(info: SettingInfo) -> str:
    words = {"a whole number": "N", "a number": "X", "text": "TEXT", "true or false": "BOOL", "2 whole numbers": "H,W"}
    return words.get(describe(info.kind).removesuffix(" or null"), "X,X")


def _overrides(options: dict[str, Any]) -> dict[str, Any]:
    kinds = {info.key: info.kind for info in all_settings(Recipe)}
    given = {name.removeprefix("setting "): value for name, value in options.items() if name.startswith("setting ")}
    return {key: parse_text(value, kinds[key]) for key, value in given.items()}


def _engine(options: dict[str, Any]) -> Any:
    """The engine of a verb that uses a model; of a --config it takes where the data and the runs are."""
    from otx.engine import Engine

    overrides: dict[str, Any] = {}
    if "config" in options:
        recipe = load_recipe(options["config"])
        overrides = {"data_root": recipe.data_root, "work_dir": recipe.work_dir}
    overrides.update(_overrides(options))
    return Engine(overrides=overrides, checkpoint=options.get("checkpoint"), reporter=_reporter())


def _reporter() -> Any:
    from otx.console import ConsoleReporter

    return ConsoleReporter()


if __name__ == "__main__":
    sys.exit(main())
