"""The options of the verbs. Each is a parameter of an `Engine` method, fully described by its annotation.

The command line, its help and the checks of values are derived from the signatures, so each option is defined once.
"""

from __future__ import annotations

import inspect
import typing
from argparse import ArgumentTypeError
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any

from otx.errors import UsageError
from otx.presets import PRESETS
from otx.workspace import model_of

TARGETS = "--explain_config.targets"
ALGORITHM = "--explain_config.algorithm"
EXPORT_FORMATS = ("OPENVINO", "ONNX")
EXPORT_PRECISIONS = ("FP32", "FP16")
PREPROCESSINGS = ("modelapi", "embedded")
COLORS = ("RGB", "BGR")
APPLY = ("move", "copy", "link", "table", "undo")
ALGORITHMS = ("auto", "recipro_cam", "activation_map", "vit_recipro_cam")


@dataclass(frozen=True)
class Option:
    """The annotation of an option: its help, and the allowed values.

    Args:
        flag: the name on the command line, if it is not `--` and the name of the parameter.
        low, high: the range of a number, both ends included.
        positional: the command line takes it without a flag.
        parse: converts the text of the command line, if the type alone does not say how.
    """

    help: str = ""
    metavar: str = "TEXT"
    flag: str = ""
    choices: tuple[str, ...] = ()
    low: float | None = None
    high: float | None = None
    positional: bool = False
    parse: Callable[[str], Any] | None = None


@dataclass(frozen=True)
class Parameter:
    """An option of a method: the parameter's name, its type without None, its default, and its annotation."""

    name: str
    kind: Any
    default: Any
    option: Option

    @property
    def flag(self) -> str:
        return self.option.flag or f"--{self.name}"


def numbers(text: str) -> list[int]:
    """Parse `1,8,32`.

    Raises:
        ArgumentTypeError: a part is not a number.
    """
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise ArgumentTypeError(f"must be numbers with commas between them, got {text!r}") from error


def words(text: str) -> list[str]:
    return text.split(",")


PathLike = str | Path
NEWEST = "(default: the newest training)"


File = PathLike | None
AnyModel = Annotated[File, Option(f"a model file, a checkpoint, an IR (.xml) or an ONNX file {NEWEST}", "FILE")]
MapsModel = Annotated[
    File, Option(f"a model file, a checkpoint, or a file that was exported with --explain true {NEWEST}", "FILE")
]
TorchModel = Annotated[File, Option(f"a model file or a checkpoint {NEWEST}", "FILE")]
DemoModel = Annotated[
    File, Option(f"a run folder, a model file, a checkpoint, an IR (.xml) or an ONNX file {NEWEST}", "FILE")
]
CheckModel = Annotated[
    File,
    Option(
        "also list what this model takes for mislabelled, and whether photos look like those it learned from", "FILE"
    ),
]
StartModel = Annotated[File, Option("begin from this model; with --resume: the run to go on with", "FILE")]
SourceModel = Annotated[File, Option("an IR, a model file or a checkpoint (default: the last export)", "FILE")]
CheckRoot = Annotated[
    File, Option("folder of photos, a table or an archive; the same as --data_root", "FOLDER", positional=True)
]
LabelModel = Annotated[
    File, Option("go through what the check finds with the features of this model (any model file)", "FILE")
]
Apply = Annotated[
    str | None,
    Option(
        "give the photos the places that their labels say: move, copy or link them, or only write a table; undo takes "
        "the last move, copy or link back",
        "HOW",
        choices=APPLY,
    ),
]
DryRun = Annotated[bool, Option("with --apply: show what it would do", "BOOL")]
SortedOutput = Annotated[
    File, Option("with --apply copy, link (default: FOLDER/sorted) or table (default: FOLDER/sorted.csv)", "PATH")
]
OpenBrowser = Annotated[bool, Option("show the page in the browser (default: true, where there is a desktop)", "BOOL")]
CheckOutput = Annotated[File, Option("also write all that was found to this .json or .csv file", "FILE")]
PredictOutput = Annotated[File, Option("write the predictions to this .csv (row by row) or .json file, too", "FILE")]
ExplainOutput = Annotated[File, Option("where to write (default: a new folder in the run folder)", "FOLDER")]
ReportOutput = Annotated[
    File,
    Option(
        "the HTML file to write (default: RUN/report.html; for several runs a new folder in WORK_DIR/reports)", "FILE"
    ),
]
ExportFolder = Annotated[File, Option("where to write it (default: the run folder)", "FOLDER")]
Deploy = Annotated[File, Option("also write a folder that runs with OpenVINO, ModelAPI and Pillow alone", "FOLDER")]
MinAccuracy = Annotated[
    float | None, Option("exit code 3 unless the test shows at least this top-1 accuracy, 0 to 1", "X", low=0, high=1)
]
MinRecall = Annotated[
    float | None, Option("exit code 3 unless it shows at least this recall of every class, 0 to 1", "X", low=0, high=1)
]
Strict = Annotated[
    bool, Option("refuse a folder with photos that the model was trained on, instead of leaving them out", "BOOL")
]
Images = Annotated[Any, Option("image files, folders and globs", "IMAGES", positional=True)]
ImagesOrTest = Annotated[
    Any, Option("image files, folders and globs (default: the test split)", "IMAGES", positional=True)
]
Runs = Annotated[Any, Option(f"run folders {NEWEST}", "RUN", positional=True)]
Renames = Annotated[
    Mapping[str, str] | None,
    Option(
        "with --checkpoint: a class of the model that the data calls otherwise; may be given several times", "OLD=NEW"
    ),
]
Preset = Annotated[
    str | None,
    Option(
        "settings that go together: quality is more accurate, in two to three times the time; each can still be set",
        "NAME",
        choices=tuple(PRESETS),
    ),
]
Resume = Annotated[bool, Option("go on with a run from its last checkpoint (default: the newest run)", "BOOL")]
ResumeRows = Annotated[
    bool, Option("go on with an --output .csv that is not complete, behind its last whole batch of images", "BOOL")
]
Reject = Annotated[
    bool, Option("answer `unknown` for images that are not of a class the model knows (default: false)", "BOOL")
]
UnknownFolder = Annotated[
    File, Option("also measure how well images of other things, in this folder, are told apart", "FOLDER")
]
ExportFormat = Annotated[str, Option("kind of file", "FORMAT", choices=EXPORT_FORMATS)]
ExportPrecision = Annotated[str, Option("number format of the weights", "PRECISION", choices=EXPORT_PRECISIONS)]
Where = Annotated[
    str, Option("modelapi: described in the file; embedded: in the graph", "WHERE", choices=PREPROCESSINGS)
]
InputColor = Annotated[str, Option("order of the colours that an embedded graph takes", "ORDER", choices=COLORS)]
WithMaps = Annotated[bool, Option("let the file also give saliency maps and feature vectors", "BOOL")]
Algorithm = Annotated[str, Option("how the saliency maps are made", "NAME", flag=ALGORITHM, choices=ALGORITHMS)]
Targets = Annotated[str, Option("predicted, true (test split), all, or the name of a class", "WHICH", flag=TARGETS)]
MaxDrop = Annotated[
    float | None, Option("accuracy it may lose, 0 to 1: turns layers back until that holds", "X", low=0, high=1)
]
SubsetSize = Annotated[int, Option("images of the training split to calibrate with", "N", low=1)]
BatchSize = Annotated[int, Option("images the file takes at a time", "N", low=1)]
Files = Annotated[
    Any, Option("model files, checkpoints, IRs (.xml) and ONNX files, side by side", "FILE", positional=True)
]
Device = Annotated[str, Option("CPU, GPU, NPU or another name of a device", "NAME")]
Batches = Annotated[
    Iterable[int], Option("batch sizes to measure the throughput of (default: 1,8)", "N,N", parse=numbers)
]
Streams = Annotated[
    Iterable[int | str],
    Option("batches that OpenVINO computes side by side, auto or numbers (default: auto)", "N,N", parse=words),
]
Seconds = Annotated[float, Option("how long each figure of each file is measured", "X")]
Decode = Annotated[bool, Option("read, decode and resize a photo for every image (default: false)", "BOOL")]
PhotosToDecode = Annotated[
    Any, Option("a file, folder or glob to decode (default: the test images of the first file's data set)", "IMAGES")
]
Memory = Annotated[bool, Option("also measure the memory that each file takes (default: true)", "BOOL")]
FiguresOutput = Annotated[File, Option("also write the figures to this JSON file", "FILE")]
EnvironmentOutput = Annotated[File, Option("also write it to this JSON file", "FILE")]
Port = Annotated[int, Option("port of 127.0.0.1 for the page; 0: one that is free", "N")]


def options_of(method: Callable[..., Any]) -> list[Parameter]:
    """The options of a method of `Engine`, in order: its parameters that are annotated with an `Option`."""
    found = []
    for name, parameter in inspect.signature(method).parameters.items():
        known = [item for item in getattr(parameter.annotation, "__metadata__", ()) if isinstance(item, Option)]
        if known:
            default = None if parameter.default is inspect.Parameter.empty else parameter.default
            found.append(Parameter(name, _without_none(parameter.annotation.__origin__), default, known[-1]))
    return found


def _without_none(kind: Any) -> Any:
    """The type of an option that may be left out; `str | Path` is Path."""
    if not isinstance(kind, UnionType):
        return kind
    parts = [part for part in typing.get_args(kind) if part is not NoneType]
    return Path if Path in parts else parts[0]


def checked(method: Callable[..., Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Take a method's options from its local variables, and check their values; paths become `Path`.

    Raises:
        UsageError: a value is not allowed; the error names the option, the value, and what is allowed.
    """
    values = {}
    for parameter in options_of(method):
        value = given[parameter.name]
        if value is not None:
            value = _as_spelt(parameter.option.choices, value)
            _check(parameter, value)
            value = Path(value) if parameter.kind is Path else value
            value = model_of(value) if parameter.name == "checkpoint" else value
        values[parameter.name] = value
    return values


def _as_spelt(choices: tuple[str, ...], value: Any) -> Any:
    """The choice that differs from a text by capitals alone, else the value itself."""
    return next((choice for choice in choices if isinstance(value, str) and choice.lower() == value.lower()), value)


def _check(parameter: Parameter, value: Any) -> None:
    known = parameter.option
    if known.choices and value not in known.choices:
        fix = "`otx optimize` makes an INT8 file" if str(value).upper() == "INT8" else ""
        raise UsageError(f"{parameter.flag} {value}", allowed=known.choices, fix=fix)
    if known.low is None and known.high is None:
        return
    # written so that NaN is outside of every range
    if not ((known.low is None or value >= known.low) and (known.high is None or value <= known.high)):
        span = f"at least {known.low:g}" if known.high is None else f"from {known.low or 0:g} to {known.high:g}"
        raise UsageError(f"{parameter.flag} {value:g}: must be {span}")
