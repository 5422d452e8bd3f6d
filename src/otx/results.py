"""What the verbs return: frozen values that turn into JSON with `to_dict`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from otx.confusion import ConfusionMatrix
from otx.findings import UnknownResult
from otx.plain import Result


@dataclass(frozen=True)
class ModelEntry(Result):
    """One line of `otx find`."""

    task: str
    recipe_id: str
    name: str
    gflops: float
    params_m: float
    recipe_path: Path


BEFORE_TRAINING = -1


@dataclass(frozen=True)
class EpochResult(Result):
    """One epoch of training, from 0; at BEFORE_TRAINING only the classifier was fitted. `seconds` is all of it."""

    epoch: int
    train_loss: float
    val_loss: float
    val_accuracy: float
    lr: float
    images_per_second: float
    seconds: float
    is_best: bool

    @property
    def is_trained(self) -> bool:
        """Whether this is an epoch of training, and not BEFORE_TRAINING."""
        return self.epoch != BEFORE_TRAINING


class StopReason(StrEnum):
    """Why a training ended, stored in `run.json` as `stop`; `stop_reason` beside it is the sentence for people."""

    ALL_EPOCHS = "all_epochs"
    EARLY_STOPPING = "early_stopping"
    CLASSIFIER_ONLY = "classifier_only"
    CTRL_C = "ctrl_c"
    SIGTERM = "sigterm"

    @classmethod
    def of(cls, summary: Mapping[str, Any], max_epochs: int) -> StopReason:
        """The reason in a `run.json`; for an old one without `stop`, it is derived from the figures.

        Args:
            max_epochs: from the run's recipe.
        """
        if "stop" in summary:
            return cls(summary["stop"])
        if summary["interrupted"]:
            return cls.CTRL_C
        done = sum(epoch["epoch"] != BEFORE_TRAINING for epoch in summary["epochs"])
        if done >= max_epochs:
            return cls.ALL_EPOCHS if done else cls.CLASSIFIER_ONLY
        return cls.EARLY_STOPPING

    @property
    def exit_code(self) -> int:
        """The exit code of `otx train`: 0, or 128 plus the signal's number, as in shells."""
        return {StopReason.CTRL_C: 130, StopReason.SIGTERM: 143}.get(self, 0)

    @property
    def interrupted(self) -> bool:
        """Whether a signal ended the training, so that some of it is left to do."""
        return self.exit_code != 0


@dataclass(frozen=True)
class TrainResult(Result):
    """The result of a training. `best_accuracy` is top-1 on the validation images, 0 to 1.

    `stop_reason` is a sentence, `stop` the same for programs; `interrupted`: by Ctrl-C or SIGTERM.
    """

    run_dir: Path
    model_path: Path
    best_epoch: int
    best_accuracy: float
    epochs: tuple[EpochResult, ...]
    stop_reason: str
    origin: str
    precision: str
    interrupted: bool
    stop: StopReason


@dataclass(frozen=True)
class ClassResult(Result):
    """One class of a test. A class without any prediction has precision 0; `count` is its number of images."""

    name: str
    precision: float
    recall: float
    f1: float
    count: int


@dataclass(frozen=True)
class BadImage(Result):
    """An image that could not be decoded: `path` as it was given, and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class OldAndNew(Result):
    """Top-1 (0 to 1) of a model that classes were added to; None if there is no such image.

    `old_before` is the top-1 of the previous model on the same images of the old classes; `forgetting` is what was
    lost there.
    """

    num_old: int
    old_before: float | None
    old_after: float | None
    new_after: float | None
    forgetting: float | None


@dataclass(frozen=True)
class ImageResult(Result):
    """The answer of a test for one image, a row of `predictions.csv`.

    `path` is relative to the data root. `probability` is that of the predicted class, `true_probability` that of the
    true one, and `true_rank` (from 1) the rank of the true class among all classes.
    """

    path: str
    label: str
    predicted: str
    probability: float
    true_probability: float
    true_rank: int

    @property
    def is_right(self) -> bool:
        return self.label == self.predicted


@dataclass(frozen=True)
class TestResult(Result):
    """Figures of a test, all from 0 to 1 except `loss` (nats), `num_images` and `images_per_second`.

    `top5` is None with five classes or fewer. `confusion[i][j]` counts the images of class i that were predicted as
    class j. `macro_f1` is the mean over the classes that have an image. See `ConfusionMatrix.to_plain` for its JSON.
    """

    __test__ = False

    checkpoint: Path
    data_root: Path
    subset: str
    num_images: int
    top1: float
    top5: float | None
    macro_f1: float
    loss: float
    calibration_error: float
    images_per_second: float
    classes: tuple[ClassResult, ...]
    confusion: ConfusionMatrix
    bad_images: tuple[BadImage, ...]
    old_and_new: OldAndNew | None = None
    unknown: UnknownResult | None = None

    def to_dict(self) -> dict[str, Any]:
        return {**super().to_dict(), "confusion": self.confusion.to_plain()}


@dataclass(frozen=True)
class Prediction(Result):
    """The answer for one image: either `label`, `probability`, `probabilities` and `known`, or `error`.

    `probabilities` has every class; beyond 1,000 classes the 100 most probable ones, those first. `known` says whether
    the image is of a class that the model knows; None if it cannot tell.
    """

    path: str
    label: str | None
    probability: float | None
    probabilities: dict[str, float]
    error: str | None = None
    known: bool | None = None


@dataclass(frozen=True)
class ExportResult(Result):
    """An exported file. `max_difference` is the largest |logit - PyTorch logit| over `num_checked` images."""

    path: Path
    export_format: str
    export_precision: str
    preprocessing: str
    max_difference: float
    tolerance: float
    num_checked: int
    size_bytes: int


@dataclass(frozen=True)
class Explanation(Result):
    """Where one image shows one class: `probability` of that class, the picture and the raw map; or `error`."""

    path: str
    label: str | None
    probability: float | None
    predicted: str | None
    overlay: Path | None
    saliency_map: Path | None
    error: str | None = None


@dataclass(frozen=True)
class ExplainResult(Result):
    """What `otx explain` wrote, and where."""

    folder: Path
    explanations: tuple[Explanation, ...]


@dataclass(frozen=True)
class Variant(Result):
    """One precision of a model. `top1` on validation images (0 to 1), `size_bytes` on disk, latency of a batch of one.

    `images_per_second` uses all cores. All but the size was measured on this machine, in turns, in one run.
    """

    precision: str
    path: Path | None
    top1: float
    size_bytes: int
    latency_ms: float
    latency_p95_ms: float
    images_per_second: float


@dataclass(frozen=True)
class OptimizeResult(Result):
    """An INT8 file. `drop` is its loss of accuracy against the first variant, `max_drop` the largest one allowed."""

    path: Path
    drop: float
    max_drop: float | None
    num_calibration: int
    num_validation: int
    variants: tuple[Variant, ...]


@dataclass(frozen=True)
class Throughput(Result):
    """Images a second at one batch size; None if the file or the runtime cannot do it (`why_not`).

    `streams` is how many batches are computed in parallel: `auto`, a number, or empty for a runtime without streams;
    `requests` is how many were in flight at a time.
    """

    batch: int
    streams: str
    images_per_second: float | None
    requests: int = 1
    why_not: str = ""


@dataclass(frozen=True)
class BenchmarkedFile(Result):
    """How fast one file is. Latency is of one image at a time, `num_timed` of them.

    Args:
        name: its file name, with the folders that tell it apart from the other files.
        runtime: what computes it, with its version.
        weights: `FP32`, `FP16` or `INT8`, as they are stored.
        computes_in: the type that floats are computed in.
        threads: processors that compute one image; None if the runtime does not say.
        memory_bytes: peak growth of a separate process that loaded the file and classified one image at a time, without
            its libraries; None if unknown.
    """

    name: str
    path: Path
    runtime: str
    device: str
    weights: str
    computes_in: str
    input_size: tuple[int, int]
    size_bytes: int
    threads: int | None
    latency_ms: float
    latency_p95_ms: float
    num_timed: int
    throughput: tuple[Throughput, ...]
    memory_bytes: int | None


@dataclass(frozen=True)
class BenchmarkResult(Result):
    """Files measured in turns on one machine. `decoding` says which photos were decoded; empty if none were."""

    processor: str
    cores: int
    seconds: float
    rounds: int
    decoding: str
    files: tuple[BenchmarkedFile, ...]


@dataclass(frozen=True)
class Environment(Result):
    """Facts about a machine and an installation: text by name; `problems` names those that could not be found out."""

    lines: dict[str, str]
    problems: tuple[str, ...]
