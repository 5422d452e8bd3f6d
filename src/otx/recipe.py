"""The schema of recipes: every setting is defined once, here; help, YAML and the command line are derived from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from otx.duration import SHORTEST, is_bad_duration
from otx.errors import RecipeError
from otx.networks.table import MODELS, TIMM_PREFIX, full_name, similar
from otx.schema import build, setting, to_plain

TASK = "MULTI_CLASS_CLS"
DEFAULT_RECIPE = "mobilenet_v3_large"
AUTO = "auto"
BATCH_SIZE = 64
ACCURACY, LOSS, PROBABILITY = FIGURES = ("accuracy", "loss", "probability")
CROSS_ENTROPY, INFLUENCE_BALANCED, CLASS_BALANCED = LOSSES = ("cross_entropy", "influence_balanced", "class_balanced")
STANDARD, LETTERBOX, CROP = RESIZE_TYPES = ("standard", "letterbox", "crop")


@dataclass(frozen=True)
class EngineSettings:
    device: str = setting(
        AUTO, "where to compute", choices=(AUTO, "cpu", "gpu"), also={"cuda": "gpu", "cuda:0": "gpu", "0": "gpu"}
    )
    num_devices: int = setting(1, "processes on this machine, one a device", low=1)
    num_nodes: int = setting(1, "machines, each started with torchrun", low=1)


@dataclass(frozen=True)
class ModelSettings:
    name: str = setting(DEFAULT_RECIPE, "a network of `otx find`, timm/NAME, or auto: the best for these images")
    pretrained: bool = setting(True, "begin from weights of the Hugging Face hub")
    weights: str | None = setting(None, "begin from this file instead (timm's names); model auto: a folder of them")


@dataclass(frozen=True)
class AugmentationSettings:
    scale: tuple[float, float] | None = setting(
        None, "share of the image's area that a random crop takes; default: 0.3 to 1 after `head_first`, else 0.08 to 1"
    )
    ratio: tuple[float, float] = setting((3 / 4, 4 / 3), "width over height of a random crop", low=0.01, high=100.0)
    flip: float = setting(0.5, "probability of a horizontal flip", low=0.0, high=1.0)


@dataclass(frozen=True)
class TrainSubsetSettings:
    batch_size: int | str | None = setting(
        None,
        "images a step, in each process; default: 64, 16 after `head_first` with fewer than 1000 images; auto: as many "
        "as fit into a GPU's memory (at most 1024), with the learning rate times the root of how many times 64 that is",
        low=1,
        choices=(AUTO,),
    )
    sampler: str = setting("balanced", "balanced draws every class equally often", choices=("balanced", "random"))
    efficient: bool = setting(
        False,
        "balanced sampler: shorten the epoch where the smallest class allows it; patience and early stopping's warm-up "
        "are then as many more epochs, to see as many images",
    )
    reduce_large: bool = setting(
        True,
        "keep photos whose shorter side is four times the input or more at twice the input: more fit into memory",
    )
    augmentation: AugmentationSettings = field(default_factory=AugmentationSettings)


@dataclass(frozen=True)
class SubsetSettings:
    batch_size: int = setting(64, "images a step", low=1)


@dataclass(frozen=True)
class DataSettings:
    input_size: tuple[int, int] = setting((224, 224), "height and width of the network's input, in pixels", low=16)
    resize: str = setting(
        "standard",
        "how images become that size: standard changes their aspect ratio, letterbox keeps it with black beside the "
        "image, crop takes the square in the middle",
        choices=RESIZE_TYPES,
    )
    intensity: tuple[float, float] | None = setting(
        None, "values that become black and white in images of more than 8 bits (TIFF, PNG, DICOM); default: measured"
    )
    bands: tuple[int, int, int] | None = setting(
        None, "bands of the files that become red, green and blue, counted from 1; default: as the files say", low=1
    )
    mean: tuple[float, float, float] | None = setting(None, "channel means, 0 to 1; default: those of the weights")
    std: tuple[float, float, float] | None = setting(
        None, "channel standard deviations, 0 to 1; default: those of the weights", low=1e-6
    )
    split_file: str | None = setting(None, "CSV file (path, class, subset) that says which image is in which subset")
    test_share: float = setting(0.2, "share of the images split off for testing", low=0.0, high=0.9)
    val_share: float = setting(0.1, "share of the remaining images split off for validation", low=0.0, high=0.9)
    check_images: bool = setting(
        True, "decode every image once before training, to name those that are broken, or in train and test alike"
    )
    max_image_pixels: int = setting(100_000_000, "larger images are refused", low=1)
    num_workers: int | None = setting(
        None, "processes that decode images; default: one a spare core (large files: one a core), at most 8", low=0
    )
    cache_mb: int = setting(
        1024,
        "megabytes to keep decoded images in, for each of engine.num_devices; at most an eighth of the memory in all",
        low=0,
    )
    train_subset: TrainSubsetSettings = field(default_factory=TrainSubsetSettings)
    val_subset: SubsetSettings = field(default_factory=SubsetSettings)
    test_subset: SubsetSettings = field(default_factory=SubsetSettings)


@dataclass(frozen=True)
class OptimizerSettings:
    name: str = setting(AUTO, "the optimizer; auto: sgd, adamw after `head_first`", choices=(AUTO, "sgd", "adamw"))
    lr: float = setting(0.0058, "learning rate; adamw in place of `auto` takes a twentieth of it", low=0.0)
    momentum: float = setting(0.9, "momentum of SGD", low=0.0, high=1.0)
    weight_decay: float = setting(1e-4, "weight decay", low=0.0)
    clip_norm: float | None = setting(
        None, "larger gradients are scaled down to this norm; default: 1 after `head_first`, else never", low=1e-6
    )


@dataclass(frozen=True)
class SchedulerSettings:
    factor: float = setting(
        0.5, "the learning rate is multiplied by this on a plateau of training.monitor", low=0.0, high=1.0
    )
    patience: int = setting(1, "epochs without a better figure before that", low=0)
    num_warmup_steps: int = setting(0, "steps in which the learning rate rises linearly to its start value", low=0)


@dataclass(frozen=True)
class EarlyStoppingSettings:
    patience: int | None = setting(
        3, "epochs without a better training.monitor before the training ends; null: never", low=1
    )
    min_delta: float = setting(
        0.0, "what val/accuracy, or exp(-val/loss), must gain to count as better", low=0.0, high=1.0
    )
    warmup_epochs: int = setting(0, "epochs that are not counted", low=0)


@dataclass(frozen=True)
class TrainingSettings:
    loss: str = setting(CROSS_ENTROPY, "what is minimised", choices=LOSSES, also={AUTO: CROSS_ENTROPY})
    head_first: bool = setting(
        True, "with pretrained weights: begin with a classifier fitted to features computed once (logistic regression)"
    )
    best_by: str = setting(
        AUTO,
        "which validation figure chooses the epoch that is kept; auto: probability (of the true class, the mean) after "
        "`head_first` with fewer than 500 validation images, else accuracy; a resumed run keeps its own",
        choices=(AUTO, *FIGURES),
    )
    monitor: str = setting(
        AUTO,
        "which validation figure lowers the learning rate on a plateau and stops early; as best_by",
        choices=(AUTO, *FIGURES),
    )
    average_epochs: float | None = setting(
        None,
        "measure and keep a moving average of the weights over this many epochs, which begins with the weights before "
        "the training; 0: those of the last step; default: 1 after `head_first`, else 0",
        low=0.0,
    )
    freeze_statistics: bool | None = setting(
        None, "keep the running statistics of batch norm; default: after `head_first`, where it beats chance"
    )
    soup: int = setting(
        1,
        "train so many times from the same fitted classifier, with other crops in another order, and keep the mean of "
        "their weights (a model soup)",
        low=1,
        high=20,
    )
    freeze_stages: int = setting(
        0, "how many of the first stages of the network keep their weights; its stem is the first", low=0
    )
    growing_epochs: int = setting(
        0, "epochs in which the images to train on grow to data.input_size (progressive resizing)", low=0
    )
    start_size: float = setting(0.6, "with growing_epochs: share of data.input_size in the first", low=0.1, high=1.0)
    label_smoothing: float = setting(0.0, "share of a label that is spread over all classes", low=0.0, high=0.99)
    alpha: float = setting(1000.0, "influence_balanced: scale of the influence", low=0.0)
    start_epoch: int = setting(5, "influence_balanced: epochs of plain cross-entropy before it", low=0)
    distillation: bool | None = setting(
        None,
        "keep a model's old classes by its own answers (learning without forgetting); default: where they lack images",
    )
    distillation_weight: float = setting(1.0, "weight of the old model's answers", low=0.0)
    calibrate: bool = setting(True, "at the end, fit a temperature, so that probabilities mean what they say")
    known_share: float = setting(0.95, "share of validation images that `otx predict` calls known", low=0.5, high=1.0)
    unlabelled: bool = setting(
        False, "photos to which the table gives no label join the training where a classifier is sure of their class"
    )
    early_stopping: EarlyStoppingSettings = field(default_factory=EarlyStoppingSettings)


@dataclass(frozen=True)
class Recipe:
    """Everything that decides how a model is trained."""

    task: str = setting(TASK, "the task", choices=(TASK,))
    recipe_id: str = setting("", "identity of a shipped recipe")
    name: str = setting("custom", "name of the recipe")
    data_root: str | None = setting(None, "folder of images, or `digits` for scikit-learn's handwritten digits")
    work_dir: str = setting("otx-workspace", "folder that holds the run folders")
    max_epochs: int = setting(
        90, "epochs at most; 0 fits the classifier alone, to features of a pretrained network", low=0
    )
    max_time: str | None = setting(
        None,
        "end within this time, the report included: 90s, 20m, 1h30m; how many epochs, and whether the whole network is "
        "trained at all, follows from the measured speed",
    )
    seed: int = setting(0, "seed of the split, the order, the augmentation and the weights", low=0, high=2**31 - 1)
    report: bool = setting(True, "measure the best model on the validation images and write report.html")
    deterministic: bool = setting(False, "use only algorithms that give the same result twice (slower on a GPU)")
    precision: str = setting(
        "auto",
        "number format of the training; auto: bf16 where it is native",
        choices=("auto", "32", "bf16", "16"),
        also={"fp32": "32", "32-true": "32", "bf16-mixed": "bf16", "fp16": "16", "16-mixed": "16"},
    )
    engine: EngineSettings = field(default_factory=EngineSettings)
    model: ModelSettings = field(default_factory=ModelSettings)
    data: DataSettings = field(default_factory=DataSettings)
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    scheduler: SchedulerSettings = field(default_factory=SchedulerSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)

    def to_dict(self) -> dict[str, Any]:
        plain: dict[str, Any] = to_plain(asdict(self))
        return plain

    def override(self, changes: Mapping[str, Any], source: str = "the arguments") -> Recipe:
        """A copy of the recipe with other values: `{"data.train_subset.batch_size": 4}`.

        Raises:
            RecipeError: a key is unknown or a value wrong; the error names all of them.
        """
        data = self.to_dict()
        for key, value in changes.items():
            _put(data, key, value)
        return from_dict(data, source)


def _put(data: dict[str, Any], dotted: str, value: Any) -> None:
    *sections, last = dotted.split(".")
    for section in sections:
        inner = data.setdefault(section, {})
        if not isinstance(inner, dict):
            raise RecipeError(f"'{dotted}' is not a setting: '{section}' has no parts")
        data = inner
    data[last] = value


def from_dict(data: Mapping[str, Any], source: str) -> Recipe:
    """Build a recipe from plain data; a missing setting keeps its default.

    Raises:
        RecipeError: keys are unknown or values wrong; the error names all of them.
    """
    problems: list[str] = []
    recipe = build(Recipe, data, problems)
    if recipe is not None:
        recipe = replace(recipe, model=replace(recipe.model, name=full_name(recipe.model.name)))
        problems += _relations(recipe)
    if problems or recipe is None:
        count = "a problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise RecipeError(
            "\n  ".join([f"{count} in {source}:", *problems]), fix="`otx train --print_config` shows every setting"
        )
    return recipe


def _relations(recipe: Recipe) -> list[str]:
    """Rules that tie several settings together."""
    problems = []
    augmentation = recipe.data.train_subset.augmentation
    scale, ratio = augmentation.scale or (0.0, 1.0), augmentation.ratio
    for key, (low, high) in (("scale", scale), ("ratio", ratio)):
        if low > high:
            problems.append(f"'data.train_subset.augmentation.{key}' must rise, got {[low, high]}")
    if 0 < recipe.max_epochs <= recipe.training.growing_epochs:
        problems.append(
            f"'training.growing_epochs' must be less than max_epochs ({recipe.max_epochs}), to end at the whole size"
        )
    problems += _preprocessing_relations(recipe.data)
    if recipe.max_time is not None and is_bad_duration(recipe.max_time):
        problems.append(
            f"'max_time' must be a time of {SHORTEST} s at least (90s, 20m, 1h30m), got {recipe.max_time!r}"
        )
    if not 0 < scale[1] <= 1:
        problems.append(f"'data.train_subset.augmentation.scale' must end between 0 and 1, got {list(scale)}")
    if not recipe.model.name.startswith(TIMM_PREFIX) and recipe.model.name not in (AUTO, *MODELS):
        known = ", ".join(MODELS)
        problems.append(
            f"unknown model '{recipe.model.name}'{similar(recipe.model.name)} (known: {known}, and timm/NAME)"
        )
    return problems


def _preprocessing_relations(data: DataSettings) -> list[str]:
    problems = []
    if data.intensity is not None and not data.intensity[0] < data.intensity[1]:
        problems.append(f"'data.intensity' must rise, from black to white, got {list(data.intensity)}")
    if data.resize == CROP and data.input_size[0] != data.input_size[1]:
        problems.append(f"'data.resize' crop takes a square, and data.input_size is {list(data.input_size)}")
    return problems
