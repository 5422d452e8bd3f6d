"""The one schema: every setting exists once, here; help, YAML and the command line follow from it."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from otx.errors import LONGEST, RecipeError, UsageError, nearest
from otx.models.table import MODELS, TIMM_PREFIX
from otx.schema import all_settings, build, setting, to_plain

TASK = "MULTI_CLASS_CLS"
DEFAULT_RECIPE = "mobilenet_v3_large"
AUTO = "auto"
BATCH_SIZE = 64
LABELS = ("recipe_id", "name", "work_dir")
MAX_DEPTH = 20
RECIPES = Path(__file__).resolve().parent / "recipes"


@dataclass(frozen=True)
class EngineSettings:
    device: str = setting("auto", "where to compute", choices=("auto", "cpu", "gpu"))
    num_devices: int = setting(1, "processes on this machine, one a device", low=1)
    num_nodes: int = setting(1, "machines, each started with torchrun", low=1)


@dataclass(frozen=True)
class ModelSettings:
    name: str = setting(DEFAULT_RECIPE, "a network of `otx find`, or timm/NAME for any network of timm")
    pretrained: bool = setting(True, "begin from weights of the Hugging Face hub")
    weights: str | None = setting(None, "begin from this file instead (safetensors or state dict, timm's names)")


@dataclass(frozen=True)
class AugmentationSettings:
    scale: tuple[float, float] = setting((0.08, 1.0), "share of the image's area that a random crop takes", low=0.0)
    ratio: tuple[float, float] = setting((3 / 4, 4 / 3), "width over height of a random crop", low=0.01, high=100.0)
    flip: float = setting(0.5, "probability of a horizontal flip", low=0.0, high=1.0)


@dataclass(frozen=True)
class TrainSubsetSettings:
    batch_size: int | str = setting(
        BATCH_SIZE,
        "images a step, in each process; auto: as many as fit into a GPU's memory (at most 1024), with the learning "
        "rate times the root of how many times 64 that is; on a CPU 64",
        low=1,
        choices=(AUTO,),
    )
    sampler: str = setting("balanced", "balanced draws every class equally often", choices=("balanced", "random"))
    efficient: bool = setting(True, "balanced sampler: shorten the epoch where the smallest class allows it")
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
    name: str = setting("sgd", "the optimizer", choices=("sgd", "adamw"))
    lr: float = setting(0.0058, "learning rate", low=0.0)
    momentum: float = setting(0.9, "momentum of SGD", low=0.0, high=1.0)
    weight_decay: float = setting(1e-4, "weight decay", low=0.0)
    clip_norm: float | None = setting(
        None, "larger gradients are scaled down to this norm; default: 1 after `head_first`, else never", low=1e-6
    )


@dataclass(frozen=True)
class SchedulerSettings:
    factor: float = setting(
        0.5, "the learning rate is multiplied by this on a plateau of val/accuracy", low=0.0, high=1.0
    )
    patience: int = setting(1, "epochs without a better val/accuracy before that", low=0)
    num_warmup_steps: int = setting(0, "steps in which the learning rate rises linearly to its start value", low=0)


@dataclass(frozen=True)
class EarlyStoppingSettings:
    patience: int | None = setting(
        3, "epochs without a better val/accuracy before the training ends; null: never", low=1
    )
    min_delta: float = setting(0.0, "what val/accuracy must gain to count as better", low=0.0, high=1.0)
    warmup_epochs: int = setting(0, "epochs that are not counted", low=0)


@dataclass(frozen=True)
class TrainingSettings:
    loss: str = setting(
        "auto",
        "what is minimised; auto: cross_entropy, but influence_balanced where classes join a model and its old ones",
        choices=("auto", "cross_entropy", "influence_balanced", "class_balanced"),
    )
    head_first: bool = setting(
        True, "with pretrained weights: begin with a classifier fitted to features computed once (logistic regression)"
    )
    freeze_statistics: bool | None = setting(
        None, "keep the running statistics of batch norm as they are; default: after `head_first`"
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
    seed: int = setting(0, "seed of the split, the order, the augmentation and the weights", low=0, high=2**31 - 1)
    report: bool = setting(True, "measure the best model on the validation images and write report.html")
    deterministic: bool = setting(False, "use only algorithms that give the same result twice (slower on a GPU)")
    precision: str = setting(
        "auto", "number format of the training; auto: bf16 where it is native", choices=("auto", "32", "bf16", "16")
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
        """The recipe with other values: `{"data.train_subset.batch_size": 4}`.

        Raises:
            RecipeError: a key is unknown or a value wrong; all of them are named.
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
    """Build a recipe from plain data; what is absent keeps its default.

    Raises:
        RecipeError: keys are unknown or values wrong; all of them are named at once.
    """
    problems: list[str] = []
    recipe = build(Recipe, data, problems)
    if recipe is not None:
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
    scale, ratio = recipe.data.train_subset.augmentation.scale, recipe.data.train_subset.augmentation.ratio
    for key, (low, high) in (("scale", scale), ("ratio", ratio)):
        if low > high:
            problems.append(f"'data.train_subset.augmentation.{key}' must rise, got {[low, high]}")
    if 0 < recipe.max_epochs <= recipe.training.growing_epochs:
        problems.append(
            f"'training.growing_epochs' must be less than max_epochs ({recipe.max_epochs}), to end at the whole size"
        )
    if not 0 < scale[1] <= 1:
        problems.append(f"'data.train_subset.augmentation.scale' must end between 0 and 1, got {list(scale)}")
    if not recipe.model.name.startswith(TIMM_PREFIX) and recipe.model.name not in MODELS:
        known = ", ".join(MODELS)
        problems.append(
            f"unknown model '{recipe.model.name}'{nearest(recipe.model.name, MODELS)} (known: {known}, and timm/NAME)"
        )
    return problems


def load_recipe(reference: str | Path) -> Recipe:
    """Load a recipe by its name, its ID or the path of a YAML file.

    Raises:
        RecipeError: there is no such recipe, or the file has errors.
    """
    shipped = _shipped(str(reference))
    path = shipped or Path(reference)
    if not path.is_file():
        if path.suffix in (".yaml", ".yml") or "/" in str(reference):
            raise RecipeError(f"no such recipe file: {reference}", fix="`otx find` lists the recipes there are")
        names = recipe_names()
        raise RecipeError(f"unknown recipe '{reference}'{nearest(str(reference), names)}", allowed=names)
    return from_dict(read_yaml(path), str(reference))


def recipe_names() -> list[str]:
    """The names of the shipped recipes, sorted; the default comes first."""
    names = sorted(path.stem for path in RECIPES.glob("*.yaml"))
    return sorted(names, key=lambda name: name != DEFAULT_RECIPE)


def _shipped(reference: str) -> Path | None:
    """The file of a shipped recipe that a name, an ID or a path of OTX's own source tree stands for."""
    if Path(reference).is_file():
        return None
    name = Path(reference).stem if "recipe/classification/multi_class_cls/" in reference else reference
    for path in RECIPES.glob("*.yaml"):
        if name.removeprefix("otx_") == path.stem:
            return path
    # OTX spells one of its recipe IDs "EfficinetNet"; both spellings name it
    wanted = reference.replace("EfficinetNet", "EfficientNet")
    if reference.startswith("Custom_"):
        for path in RECIPES.glob("*.yaml"):
            if str(read_yaml(path).get("recipe_id")).replace("EfficinetNet", "EfficientNet") == wanted:
                return path
    return None


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file of settings; nothing in it can run code.

    Raises:
        RecipeError: it cannot be read, is no YAML, or repeats a key.
    """
    import yaml

    try:
        text = path.read_text(encoding="utf-8")
        _check_depth(text)
        data = yaml.load(text, Loader=_strict_loader())
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        # a ValueError is a date or a number that there is not
        raise RecipeError(f"{path} is not a readable YAML file: {str(error)[:LONGEST]}") from error
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise RecipeError(f"{path} must hold settings (`key: value`), got {type(data).__name__}")
    return data


def _check_depth(text: str) -> None:
    """Raise YAMLError where YAML is nested so deep that the C loader would overflow its stack."""
    import yaml

    depth = 0
    for event in yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise yaml.YAMLError(f"it is nested more than {MAX_DEPTH} times")


def _strict_loader() -> type:
    """The safe YAML loader, which refuses a key given twice (YAML itself would keep the last, silently)."""
    import yaml

    class Loader(yaml.CSafeLoader if hasattr(yaml, "CSafeLoader") else yaml.SafeLoader):  # type: ignore[misc]
        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            seen: set[str] = set()
            for key in (str(key.value) for key, _ in node.value):
                if key in seen:
                    raise yaml.constructor.ConstructorError(None, None, f"key '{key}' is given twice", node.start_mark)
                seen.add(key)
            return super().construct_mapping(node, deep)

    return Loader


def parse_text(text: str, kind: Any) -> Any:
    """Read the text of a command-line option as the type of its setting; what does not fit stays text."""
    import yaml

    if kind is str or text == "":
        return text
    try:
        value = yaml.safe_load(text)
        if isinstance(value, str) and "," in value:
            value = [yaml.safe_load(part) for part in value.split(",")]
    except (ValueError, RecursionError, yaml.YAMLError):
        return text
    return value


def dump_yaml(recipe: Recipe) -> str:
    """The whole recipe as YAML; `load_recipe` reads it back unchanged."""
    import yaml

    return str(yaml.safe_dump(recipe.to_dict(), sort_keys=False, allow_unicode=True, default_flow_style=None))


def to_options(recipe: Recipe) -> list[str]:
    """The options of `otx train` for the same training: `["--config", "efficientnet_b0", "--max_epochs", "7"]`.

    What the recipe is called, and where the run goes, are left out.
    """
    shipped = recipe.name if recipe.name in recipe_names() else DEFAULT_RECIPE
    base, options = load_recipe(shipped), ["--config", shipped]
    for info in all_settings(Recipe):
        value = _get(recipe, info.key)
        if info.key not in LABELS and value != _get(base, info.key):
            options += [f"--{info.key}", _option(value)]
    return options


def _get(recipe: Recipe, dotted: str) -> Any:
    value: Any = recipe
    for name in dotted.split("."):
        value = getattr(value, name)
    return value


def _option(value: Any) -> str:
    """A value as `parse_text` reads it."""
    if isinstance(value, tuple):
        return ",".join(map(_option, value))
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def with_model(recipe: Recipe, name: str) -> Recipe:
    """The same training for another network."""
    return replace(recipe, name=name, recipe_id="", model=replace(recipe.model, name=name))


def list_models(task: str | None = TASK, pattern: str | None = None) -> list[str]:
    """Names of the shipped recipes, as `Engine(model=...)` and `--config` take them.

    Args:
        task: only `MULTI_CLASS_CLS` has recipes.
        pattern: keep names or recipe IDs that contain it; `*` and `?` stand for any text and any letter.

    Raises:
        UsageError: there is no such task.
    """
    if task not in (None, TASK):
        raise UsageError(f"unknown task '{task}'{nearest(str(task), [TASK])}", allowed=[TASK])
    wanted = f"*{(pattern or '').lower()}*"
    return [name for name in recipe_names() if any(fnmatch.fnmatch(word.lower(), wanted) for word in _words(name))]


def _words(name: str) -> tuple[str, str]:
    return name, str(read_yaml(RECIPES / f"{name}.yaml").get("recipe_id", ""))
