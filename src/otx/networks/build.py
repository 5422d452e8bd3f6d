"""Build a network of timm for a number of classes and an input size."""

from __future__ import annotations

import inspect
import warnings
from typing import TYPE_CHECKING, Any

from otx.errors import ModelError, nearest
from otx.networks.table import MODELS, TIMM_PREFIX, ModelInfo, network_of

if TYPE_CHECKING:
    from torch import nn

HEAD_STD = 0.01


def build_network(network: str, num_classes: int, height: int, width: int) -> nn.Module:
    """Build a network of timm with random weights.

    Args:
        network: timm's name of the architecture, without a weights tag or with one.
        num_classes: length of the logits; the network maps images (N, 3, height, width) to (N, num_classes).

    Raises:
        ModelError: timm has no such network, or it cannot take this input size.
    """
    return create(network, num_classes, height, width)


def create(network: str, num_classes: int, height: int, width: int, **options: Any) -> nn.Module:
    """`timm.create_model`, with the input size given to the networks whose shape depends on it."""
    import timm

    check_network(network)
    if _depends_on_size(network):
        options["img_size"] = (height, width)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model: nn.Module = timm.create_model(network, num_classes=num_classes, **options)
    except (AssertionError, TypeError, ValueError, RuntimeError) as error:
        raise ModelError(
            f"{network} cannot be built for images of {height}x{width}: {error}",
            fix="choose another --data.input_size (a multiple of the patch size for transformers)",
        ) from error
    if getattr(model, "num_classes", num_classes) != num_classes:
        raise ModelError(
            f"{network} has no classifier head", fix="choose a network of `timm.list_models()` that has one"
        )
    _start_head_small(model)
    return model


def _start_head_small(model: Any) -> None:
    """Initialise the classifier with small weights, so that every class begins about equally likely.

    timm's EfficientNet family draws the head from +-1/sqrt(num_classes). With a few classes the random logits are so
    large that the first training steps wreck pretrained weights.
    """
    from torch import nn

    head = model.get_classifier()
    for layer in head if isinstance(head, (tuple, list)) else (head,):
        if isinstance(layer, (nn.Linear, nn.Conv2d)):
            nn.init.normal_(layer.weight, std=HEAD_STD)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def head_names(model: Any) -> set[str]:
    """The names of the classifier's weights in a network; their first dimension is the classes."""
    names = model.pretrained_cfg.get("classifier") or ()
    prefixes = (names,) if isinstance(names, str) else tuple(names)
    return {f"{prefix}.{part}" for prefix in prefixes for part in ("weight", "bias")}


def check_network(network: str) -> None:
    """Raise ModelError, with the nearest name, if timm has no such network or no such weights tag."""
    import timm

    base, _, tag = network.partition(".")
    if not timm.is_model(base):
        raise ModelError(
            f"timm has no network '{network}'{nearest(base, timm.list_models())}",
            fix="`python -c 'import timm; print(timm.list_models())'` lists them",
        )
    tags = [name.partition(".")[2] for name in timm.list_pretrained(f"{base}.*")]
    if tag and tag not in tags:
        raise ModelError(f"timm has no weights '{tag}' of {base}{nearest(tag, tags)}", allowed=tags)


def _depends_on_size(network: str) -> bool:
    import timm

    return "img_size" in inspect.getsource(timm.model_entrypoint(network)) or bool(
        getattr(timm.get_pretrained_cfg(network), "fixed_input_size", False)
    )


def model_info(name: str) -> ModelInfo:
    """The record of a recipe's model: from the table, or for `timm/NAME` from timm's own record (cost unknown: 0).

    Raises:
        ModelError: timm has no such network.
    """
    if name in MODELS:
        return MODELS[name]
    import timm

    network = network_of(name)
    check_network(network)
    config = timm.get_pretrained_cfg(network)
    if config is None:
        return ModelInfo(name, network, "", "", 0.0, 0.0)
    weights = f"{TIMM_PREFIX}{network.split('.')[0]}.{config.tag}" if config.tag else ""
    mean, std = config.mean, config.std
    return ModelInfo(
        name, network, weights, config.license or "", 0.0, 0.0, (mean[0], mean[1], mean[2]), (std[0], std[1], std[2])
    )
