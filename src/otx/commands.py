"""The table of verbs: what each does, which settings it takes, and what its short help shows."""

from __future__ import annotations

from dataclasses import dataclass

MODEL_SETTINGS = ("work_dir", "engine.device", "data.max_image_pixels", "data.test_subset.batch_size")
DATA_SETTINGS = ("data_root", "work_dir", "data.split_file")
SPLIT_SETTINGS = ("seed", "data.test_share", "data.val_share")
READING_SETTINGS = ("data.input_size", "data.resize", "data.intensity", "data.bands")
NETWORK_SETTINGS = ("model.name", "model.pretrained", "model.weights")
PHOTO_SETTINGS = (*DATA_SETTINGS, "engine.device", "data.max_image_pixels")


@dataclass(frozen=True)
class Verb:
    """A verb of the command line.

    Args:
        settings: the settings of the recipe that it takes; None: all.
        method: the method of `Engine`, if it is not called like the verb.
        takes_config: whether `--config` gives it the folder of images and the work folder.
        examples: up to five commands that people type.
        short: the options that `-h` shows; none: all.
    """

    summary: str
    settings: tuple[str, ...] | None = ()
    method: str = ""
    takes_config: bool = True
    examples: tuple[str, ...] = ()
    short: tuple[str, ...] = ()


VERBS = {
    "check": Verb(
        "look at a folder of images before anyone trains: what is broken, double, leaking or odd",
        (*DATA_SETTINGS, *SPLIT_SETTINGS, *READING_SETTINGS, *MODEL_SETTINGS),
        takes_config=False,
        examples=(
            "otx check my_photos",
            "otx check my_photos --output found.csv",
            "otx check my_photos --checkpoint model.safetensors   # also wrong labels",
        ),
        short=("data_root", "checkpoint", "output", "data.split_file", "data.input_size", "data.resize", "data.bands"),
    ),
    "label": Verb(
        "open a page to label a pile of photos, or to mend a data set",
        (*DATA_SETTINGS, *SPLIT_SETTINGS, *READING_SETTINGS, *NETWORK_SETTINGS, *MODEL_SETTINGS),
        takes_config=False,
        examples=(
            "otx label my_photos",
            "otx label my_photos --checkpoint model.safetensors   # what otx check suspects",
            "otx label my_photos --apply move --dry_run",
            "otx label my_photos --apply undo",
        ),
        short=("data_root", "checkpoint", "apply", "dry_run", "output", "port", "open", "model.weights"),
    ),
    "find": Verb(
        "list the recipes: what can be trained, and what it costs",
        examples=("otx find", "otx find efficientnet", "otx find --task MULTI_CLASS_CLS"),
    ),
    "train": Verb(
        "train a model on a folder of images",
        None,
        examples=(
            "otx train my_photos                     # the default recipe",
            "otx train my_photos --max_epochs 0      # a first model in a minute",
            "otx train my_photos --preset quality    # takes longer, and is more accurate",
            "otx train my_photos --config efficientnet_b0",
            "otx train my_photos --model.weights weights.safetensors",
            "otx train more --checkpoint model.safetensors   # adds classes to a model",
        ),
        short=(
            "data_root", "config", "model", "model.weights", "checkpoint", "resume", "preset", "max_epochs",
            "optimizer.lr", "data.input_size", "data.train_subset.batch_size", "data.split_file", "engine.device",
            "work_dir",
        ),
    ),
    "test": Verb(
        "measure a model on test images",
        (*DATA_SETTINGS, *MODEL_SETTINGS),
        examples=(
            "otx test                                # the newest model, on its test split",
            "otx test --data_root new_photos         # on another folder of class folders",
            "otx test --checkpoint optimized_model.xml   # an exported file",
        ),
    ),
    "predict": Verb(
        "classify images",
        MODEL_SETTINGS,
        method="iter_predict",
        examples=(
            "otx predict photo.jpg",
            "otx predict photos/ --output predictions.csv",
            "otx predict 'photos/**/*.jpg' --checkpoint exported_model.xml",
        ),
    ),
    "export": Verb(
        "write a model as OpenVINO IR or ONNX",
        DATA_SETTINGS,
        examples=(
            "otx export                                  # OpenVINO IR",
            "otx export --export_format ONNX --export_precision FP16",
            "otx export --deploy my_model                # a folder that runs without otx",
        ),
    ),
    "optimize": Verb(
        "write a model as INT8 IR, and measure what it gains and costs",
        DATA_SETTINGS,
        takes_config=False,
        examples=("otx optimize", "otx optimize --max_drop 0.01   # lose no more than 0.01 of the accuracy"),
    ),
    "explain": Verb(
        "draw where in an image a model sees a class",
        PHOTO_SETTINGS,
        examples=("otx explain photo.jpg", "otx explain   # the test images", "otx explain photos/ --output maps"),
    ),
    "report": Verb(
        "write the page of a run again, or compare several runs on one",
        ("work_dir",),
        takes_config=False,
        examples=("otx report", "otx report otx-workspace/20261123_101500 otx-workspace/20261124_093000"),
    ),
    "demo": Verb(
        "open a page on this machine that classifies the photos it is given",
        PHOTO_SETTINGS,
        examples=("otx demo", "otx demo --checkpoint exported_model.xml --port 8080"),
    ),
    "benchmark": Verb(
        "measure how fast model files are beside each other on this machine",
        (*DATA_SETTINGS, "data.max_image_pixels"),
        takes_config=False,
        examples=("otx benchmark exported_model.xml optimized_model.xml", "otx benchmark model.xml --batch 1,8,32"),
    ),
    "env": Verb(
        "show versions, processor, memory and devices, for a report",
        ("work_dir",),
        takes_config=False,
        examples=("otx env", "otx env --output env.json"),
    ),
}  # fmt: skip
