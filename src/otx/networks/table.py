"""The table of models: name, architecture, source of the weights, licence and cost of each.

`gflops` is 2 x the multiply-adds of convolutions and matrix products for one image, `params_m` millions of
parameters, both with a head of ten classes at the recipes' input of 224 x 224. They are stored so that `otx find`
needs no torch; `tests/integration/test_models.py` computes them again.
"""

from __future__ import annotations

import functools
import importlib.util
import re
from dataclasses import dataclass, replace
from pathlib import Path

from otx.errors import nearest

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)
TIMM_PREFIX = "timm/"
REGISTERED = re.compile(r"^@register_model\s*\ndef (\w+)\(", re.MULTILINE)


@dataclass(frozen=True)
class ModelInfo:
    """One network. `mean` and `std` are those its weights were trained with, for pixels from 0 to 1.

    `good_for` says in words when to take it.
    """

    name: str
    network: str
    weights: str
    licence: str
    gflops: float
    params_m: float
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    good_for: str = ""


_ENTRIES = (
    ModelInfo(
        "mobilenet_v3_large", "mobilenetv3_large_100", "timm/mobilenetv3_large_100.ra_in1k", "apache-2.0", 0.431, 4.21
    ),
    ModelInfo("efficientnet_b0", "efficientnet_b0", "timm/efficientnet_b0.ra_in1k", "apache-2.0", 0.769, 4.02),
    ModelInfo(
        "efficientnet_v2",
        "tf_efficientnetv2_s",
        "timm/tf_efficientnetv2_s.in21k_ft_in1k",
        "apache-2.0",
        5.697,
        20.19,
        HALF,
        HALF,
    ),
    ModelInfo(
        "mobilenet_v4",
        "mobilenetv4_conv_small",
        "timm/mobilenetv4_conv_small.e2400_r224_in1k",
        "apache-2.0",
        0.369,
        2.51,
    ),
    ModelInfo("deit_tiny", "deit_tiny_patch16_224", "timm/deit_tiny_patch16_224.fb_in1k", "apache-2.0", 2.507, 5.53),
    ModelInfo(
        "dino_v2", "vit_small_patch14_dinov2", "timm/vit_small_patch14_dinov2.lvd142m", "apache-2.0", 12.247, 21.63
    ),
    ModelInfo("tv_efficientnet_b3", "efficientnet_b3", "timm/efficientnet_b3.ra2_in1k", "apache-2.0", 1.922, 10.71),
    ModelInfo(
        "tv_efficientnet_v2_l",
        "tf_efficientnetv2_l",
        "timm/tf_efficientnetv2_l.in21k_ft_in1k",
        "apache-2.0",
        24.460,
        117.25,
        HALF,
        HALF,
    ),
    ModelInfo(
        "tv_mobilenet_v3_small",
        "mobilenetv3_small_100",
        "timm/mobilenetv3_small_100.lamb_in1k",
        "apache-2.0",
        0.111,
        1.53,
    ),
)
# what `otx find` says a network is good for
_GOOD_FOR = {
    "mobilenet_v3_large": "small and fast: start here",
    "efficientnet_b0": "better than MobileNet, twice its cost",
    "efficientnet_v2": "accurate; a GPU, or patience",
    "mobilenet_v4": "small and fast, for phones",
    "deit_tiny": "a small vision transformer",
    "dino_v2": "a transformer trained without labels",
    "tv_efficientnet_b3": "between EfficientNet-B0 and V2-S",
    "tv_efficientnet_v2_l": "the largest; training needs a GPU",
    "tv_mobilenet_v3_small": "the smallest and fastest",
}
MODELS = {entry.name: replace(entry, good_for=_GOOD_FOR[entry.name]) for entry in _ENTRIES}


def network_of(name: str) -> str:
    """timm's name of the network that a recipe calls `name`: an entry of the table, or `timm/NETWORK`."""
    return name.removeprefix(TIMM_PREFIX) if name.startswith(TIMM_PREFIX) else MODELS[name].network


@functools.cache
def timm_networks() -> frozenset[str]:
    """The names of timm's networks, from its source: importing it takes seconds, which a wrong name should not cost."""
    timm = importlib.util.find_spec("timm")
    sources = Path(timm.origin).parent.glob("models/*.py") if timm is not None and timm.origin is not None else ()
    return frozenset(name for source in sources for name in REGISTERED.findall(source.read_text(encoding="utf-8")))


def full_name(name: str) -> str:
    """`timm/NAME` where a name that is not in the table is exactly a network of timm, with or without a weights tag."""
    if name in MODELS or name.startswith(TIMM_PREFIX) or name.partition(".")[0] not in timm_networks():
        return name
    return f"{TIMM_PREFIX}{name}"


def similar(name: str) -> str:
    """The end of a message about an unknown network: the nearest one of the table, else of timm."""
    return nearest(name, MODELS) or nearest(name, sorted(timm_networks()))


# `weights_file.fingerprint` of each network: tells whose weights a file holds before timm is imported
FINGERPRINTS = {
    "mobilenetv3_large_100": "518e2fc572b26e5e",
    "efficientnet_b0": "fc9a1d8e9438f7c5",
    "tf_efficientnetv2_s": "2a5ab441d40ff45c",
    "mobilenetv4_conv_small": "b5f1d441b86a1f67",
    "deit_tiny_patch16_224": "8b56c8f6331040a8",
    "vit_small_patch14_dinov2": "705461d1c3788ff9",
    "efficientnet_b3": "988496a2147304c4",
    "tf_efficientnetv2_l": "4f0580fe75d9022a",
    "mobilenetv3_small_100": "8a7fbf4d02f4e1c4",
    "mobilenetv2_100": "372c46296171c72d",
    "tf_efficientnet_lite0": "981285915dbdd107",
    "resnet18": "804c0cdcc273681a",
    "resnet50": "6f8d71cd701134f7",
}
