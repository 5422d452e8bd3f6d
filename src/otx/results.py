"""What the verbs return: frozen values that turn into JSON with `to_dict`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from otx.confusion import ConfusionMatrix
from otx.findings import LearningCurve, UnknownResult
from otx.plain import Result


@dataclass(frozen=True)
class ModelEntry(Result):
    """A recipe as `otx find` lists it; `good_for` says in words when to take it."""

    task: str
    recipe_id: str
    name: str
    gflops: float
    params_m: float
    recipe_path: Path
    good_for: str = ""
    is_default: bool = False


BEFORE_TRAINING = -1


@dataclass(frozen=True)
class EpochResult(Result):
    """One epoch of training, from 0; at BEFORE_TRAINING only the classifier was fitted. `seconds` is all of it.

    `val_probability` is the mean probability, 0 to 1, that the network gives to the true class of a validation image;
    None in runs of before it was measured.
    """

    epoch: int
    train_loss: float
    val_loss: float
    val_accuracy: float
    lr: float
    images_per_second: float
    seconds: float
    is_best: bool
    val_probability: float | None = None

    @property
    def is_trained(self) -> bool:
        """Whether this is an epoch of training, and not BEFORE_TRAINING."""
        return self.epoch != BEFORE_TRAINING


class StopReason(StrEnum):
    """Why a training ended, stored in `run.json` as `stop`; `stop_reason` beside it is the sentence for people."""

    ALL_EPOCHS = "all_epochs"
    EARLY_STOPPING = "early_stopping"
    CLASSIFIER_ONLY = "classifier_only"
    MAX_TIME = "max_time"
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

    `stop_reason` is a sentence, `stop` the same for programs; `interrupted`: by Ctrl-C or SIGTERM. `learning_curve` is
    None if no classifier was fitted to features.
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
    learning_curve: LearningCurve | None = None


@dataclass(frozen=True)
class ClassResult(Result):
    """One class of a test. A class without any prediction has precision 0; `count` is its number of images.

    `recall_low` and `recall_high` are the ends of the 95 % interval of the recall; None without images, and in results
    of older versions.
    """

    name: str
    precision: float
    recall: float
    f1: float
    count: int
    recall_low: float | None = None
    recall_high: float | None = None


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
class Verdict(Result):
    """Whether the lower ends of the intervals of a test reach what was asked for, and a sentence that says so.

    `min_accuracy` and `min_recall` (of every class) are the targets, 0 to 1; None: not asked for.
    """

    min_accuracy: float | None
    min_recall: float | None
    is_met: bool
    sentence: str


@dataclass(frozen=True)
class TestResult(Result):
    """Figures of a test, all from 0 to 1 except `loss` (nats), `num_images` and `images_per_second`.

    `top5` is None with five classes or fewer. `confusion[i][j]` counts the images of class i that were predicted as
    class j. `macro_f1` is the mean over the classes that have an image. See `ConfusionMatrix.to_plain` for its JSON.
    `top1_low` and `top1_high` are the ends of the 95 % interval of `top1`; None in results of older versions.
    `num_known` images were left out, since the model was trained or validated on them; `is_compared`: the images were
    compared with all of those.
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
    top1_low: float | None = None
    top1_high: float | None = None
    verdict: Verdict | None = None
    num_known: int = 0
    is_compared: bool = False
    unknown: UnknownResult | None = None

    @property
    def exit_code(self) -> int:
        """The exit code of `otx test`: 3 if a target is missed."""
        return 0 if self.verdict is None or self.verdict.is_met else 3

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
    """An exported file. `max_difference` is the largest |logit - PyTorch logit| over `num_checked` images.

    `latency_ms` is the median of one image at a time on this machine; None if the file takes no single image.
    """

    path: Path
    export_format: str
    export_precision: str
    preprocessing: str
    max_difference: float
    tolerance: float
    num_checked: int
    size_bytes: int
    latency_ms: float | None = None


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
