"""Where a network's weights come from: the Hugging Face hub, a file, or a random start."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from otx.errors import ModelError, first_line
from otx.networks.build import create, head_names
from otx.networks.weights_file import COUNTER, OTHER_FIX, read_state

if TYPE_CHECKING:
    import torch
    from torch import nn

HUB_SECONDS = 5.0


@dataclass(frozen=True)
class InitialModel:
    """A network ready to be trained.

    `origin` says in words what its weights are, `warning` why they are not the ones asked for. `pretrained`: all
    weights but the classifier's are pretrained.
    """

    network: nn.Module
    origin: str
    warning: str = ""
    pretrained: bool = False


def initial_model(
    network: str, num_classes: int, height: int, width: int, *, pretrained: bool, weights: str | None
) -> InitialModel:
    """Build a network and give it its first weights.

    Raises:
        ModelError: the weights file cannot be used.
    """
    if weights is not None:
        model = create(network, num_classes, height, width)
        return InitialModel(model, load_weights(model, Path(weights)), pretrained=True)
    if not pretrained:
        return InitialModel(create(network, num_classes, height, width), "random weights")
    return _from_hub(network, num_classes, height, width)


def _from_hub(network: str, num_classes: int, height: int, width: int) -> InitialModel:
    import timm

    config = timm.get_pretrained_cfg(network)
    source = getattr(config, "hf_hub_id", None)
    if not source:
        model = create(network, num_classes, height, width)
        return InitialModel(
            model, "random weights", f"timm publishes no weights for {network}: starting from random ones."
        )
    options: dict[str, Any] = {"pretrained": True}
    try:
        if cached := _in_cache(source):
            options["pretrained_cfg_overlay"] = {"file": cached}
        else:
            _check_hub_answers()
        with _quiet_hub():
            model = create(network, num_classes, height, width, **options)
            return InitialModel(model, f"pretrained weights {source}", pretrained=True)
    except ModelError:
        raise
    except Exception as error:  # the hub's client raises its own, httpx's and the system's errors, version by version
        model = create(network, num_classes, height, width)
        return InitialModel(model, "random weights", _unreachable(source, error))


def _in_cache(source: str) -> str | None:
    """The path of the weights in the hub's cache, so that they are used without asking the hub; None if not there."""
    import huggingface_hub

    found = huggingface_hub.try_to_load_from_cache(source, "model.safetensors")
    return found if isinstance(found, str) else None


def _check_hub_answers() -> None:
    """Raise soon if the hub does not answer: its client would try again for most of a minute."""
    from huggingface_hub import constants, get_session

    if not constants.HF_HUB_OFFLINE:
        get_session().head(constants.ENDPOINT, timeout=HUB_SECONDS)


@contextlib.contextmanager
def _quiet_hub() -> Iterator[None]:
    """Silence the hub's client, which logs each of its tries; `InitialModel.warning` says once what matters."""
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def _unreachable(source: str, error: Exception) -> str:
    return (
        f"The pretrained weights {source} cannot be had from the Hugging Face hub "
        f"({type(error).__name__}: {first_line(error)}). "
        "Starting from random weights, which needs more images and more epochs. "
        "To begin from a file, give --model.weights FILE (safetensors); to say that random is meant, "
        "--model.pretrained false."
    )


def load_weights(model: nn.Module, path: Path) -> str:
    """Load a file of weights (safetensors or a state dict, timm's names) into a network; its head may differ.

    Returns:
        What the weights are, in words.

    Raises:
        ModelError: the file cannot be read without running code, or does not fit; the message counts what fits.
    """
    import torch

    state = _adapt(read_state(path), model)
    own = model.state_dict()
    head = head_names(model)
    fits = {name: value for name, value in state.items() if name in own and own[name].shape == value.shape}
    shapes = [
        f"{name} {tuple(value.shape)}, not {tuple(own[name].shape)}"
        for name, value in state.items()
        if name in own and name not in fits and name not in head
    ]
    missing = [name for name in own if name not in state and name not in head and not name.endswith(COUNTER)]
    unknown = [name for name in state if name not in own and name not in head]
    if shapes or missing or unknown:
        raise ModelError(
            f"{path} does not fit {type(model).__name__}: {len(fits)} of {len(own)} tensors fit"
            + _count(shapes, "of another shape")
            + _count(missing, "missing in the file")
            + _count(unknown, "unknown to the network"),
            fix=OTHER_FIX,
        )
    with torch.no_grad():
        model.load_state_dict(fits, strict=False)
    return f"weights file {path.name} ({len(fits)} of {len(own)} tensors, the rest is the new head)"


def _count(names: list[str], what: str) -> str:
    return f"; {len(names)} {what} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})" if names else ""


def _adapt(state: dict[str, torch.Tensor], model: nn.Module) -> dict[str, torch.Tensor]:
    """Have timm rename and resize the tensors of its older files (position embeddings of another input size)."""
    module = sys.modules[type(model).__module__]
    filter_state = getattr(module, "checkpoint_filter_fn", None)
    if filter_state is None or not any(name.startswith(("blocks", "patch_embed", "pos_embed")) for name in state):
        return state
    try:
        adapted: dict[str, torch.Tensor] = filter_state(dict(state), model)
    except Exception:  # of a file of another network, which is said when the tensors are compared
        return state
    return adapted
