"""Where a network's weights come from: the Hugging Face hub, a file, or a random start."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from otx.errors import ModelError
from otx.networks.build import create, head_names

if TYPE_CHECKING:
    import torch
    from torch import nn

HUB_SECONDS = 5.0
PICKLE = b"\x80"
WEIGHTS_FIX = "give a .safetensors file, or a .pth file that holds nothing but tensors"


@dataclass(frozen=True)
class InitialModel:
    """A network ready to be trained.

    `origin` says in words what its weights are, `warning` what went otherwise; `pretrained`: they have learnt
    something, the classifier has not.
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
            _knock()
        with _quiet_hub():
            model = create(network, num_classes, height, width, **options)
            return InitialModel(model, f"pretrained weights {source}", pretrained=True)
    except ModelError:
        raise
    except Exception as error:  # the hub's client raises its own, httpx's and the system's errors, version by version
        model = create(network, num_classes, height, width)
        return InitialModel(model, "random weights", _unreachable(source, error))


def _in_cache(source: str) -> str | None:
    """The file in the hub's cache, so that what is there is used without a question to the hub."""
    import huggingface_hub

    found = huggingface_hub.try_to_load_from_cache(source, "model.safetensors")
    return found if isinstance(found, str) else None


def _knock() -> None:
    """Raise at once where the hub does not answer: its client would try again for most of a minute."""
    from huggingface_hub import constants, get_session

    if not constants.HF_HUB_OFFLINE:
        get_session().head(constants.ENDPOINT, timeout=HUB_SECONDS)


@contextlib.contextmanager
def _quiet_hub() -> Iterator[None]:
    """The hub's client logs each of its tries; what matters is said once, by whoever shows `Start.warning`."""
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def _unreachable(source: str, error: Exception) -> str:
    reason = str(error).strip().splitlines()
    return (
        f"The pretrained weights {source} cannot be had from the Hugging Face hub "
        f"({type(error).__name__}: {reason[0][:160] if reason else 'no reason given'}). "
        "Starting from random weights, which needs more images and more epochs. "
        "To begin from a file, give --model.weights FILE (safetensors); to say that random is meant, "
        "--model.pretrained false."
    )


def load_weights(model: nn.Module, path: Path) -> str:
    """Load a file of weights (safetensors or a state dict, timm's names) into a network; its head may differ.

    Returns:
        What the weights are, in words.

    Raises:
        ModelError: the file cannot be read without running code, or does not fit; it counts what fits and what not.
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
    missing = [name for name in own if name not in state and name not in head]
    unknown = [name for name in state if name not in own and name not in head]
    if shapes or missing or unknown:
        raise ModelError(
            f"{path} does not fit {type(model).__name__}: {len(fits)} of {len(own)} tensors fit"
            + _count(shapes, "of another shape")
            + _count(missing, "missing in the file")
            + _count(unknown, "unknown to the network"),
            fix="give the weights of this very network, named as timm names them",
        )
    with torch.no_grad():
        model.load_state_dict(fits, strict=False)
    return f"weights file {path.name} ({len(fits)} of {len(own)} tensors, the rest is the new head)"


def _count(names: list[str], what: str) -> str:
    return f"; {len(names)} {what} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})" if names else ""


def _adapt(state: dict[str, torch.Tensor], model: nn.Module) -> dict[str, torch.Tensor]:
    """Let timm rename and resize what its own older files hold (position embeddings of another input size)."""
    module = sys.modules[type(model).__module__]
    filter_state = getattr(module, "checkpoint_filter_fn", None)
    if filter_state is None or not any(name.startswith(("blocks", "patch_embed", "pos_embed")) for name in state):
        return state
    adapted: dict[str, torch.Tensor] = filter_state(state, model)
    return adapted


def check_weights_file(path: Path) -> None:
    """Raise ModelError where a file can hold no weights, seen from its header alone and without torch."""
    if path.is_dir():
        raise ModelError(f"{path} is a folder, not a weights file", fix=WEIGHTS_FIX)
    if not path.is_file():
        raise ModelError(f"no such weights file: {path}", fix=WEIGHTS_FIX)
    try:
        reason = _damage_of_safetensors(path) if path.suffix == ".safetensors" else _damage_of_pickle(path)
    except OSError as error:
        reason = error.strerror or str(error)
    if reason:
        raise ModelError(f"{path} cannot be read as weights: {reason}", fix=WEIGHTS_FIX)


def _damage_of_safetensors(path: Path) -> str:
    """Eight bytes say how long the header is, which says where each tensor ends; the last one ends the file."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > size - 8:
            return "it is no safetensors file, or cut off in its header"
        header = file.read(length)
    try:
        ends = [entry["data_offsets"][1] for name, entry in json.loads(header).items() if name != "__metadata__"]
        missing = max(ends, default=0) - (size - 8 - length)
    except (ValueError, AttributeError, KeyError, IndexError, TypeError, RecursionError):
        return "its header is damaged"
    return f"it is cut off, {missing} bytes are missing" if missing > 0 else ""


def _damage_of_pickle(path: Path) -> str:
    """`torch.save` writes a zip; before torch 1.6 it wrote a bare pickle."""
    with path.open("rb") as file:
        start = file.read(2)
    if not start:
        return "it is empty"
    if start == b"PK":
        return "" if zipfile.is_zipfile(path) else "it is cut off"
    return "" if start[:1] == PICKLE else "it is no file of torch.save"


def read_state(path: Path) -> dict[str, torch.Tensor]:
    """Read the tensors of a weights file; nothing in the file can run.

    Raises:
        ModelError: it is missing, damaged, holds code, or no tensors.
    """
    import torch

    check_weights_file(path)
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            data: Any = load_file(path)
        else:
            data = load_tensors(path)
    except Exception as error:  # damaged files raise whatever the decoder stumbles over
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ModelError(
            f"{path} cannot be read as weights: {reason[0][:200]}",
            fix=WEIGHTS_FIX,
        ) from error
    for key in ("state_dict_ema", "state_dict", "model_ema", "model"):
        if isinstance(data, Mapping) and isinstance(data.get(key), Mapping):
            data = data[key]
            break
    if not isinstance(data, Mapping):
        raise ModelError(f"{path} holds a {type(data).__name__}, not named tensors")
    tensors = {
        str(key).removeprefix("module."): value for key, value in data.items() if isinstance(value, torch.Tensor)
    }
    if not tensors:
        raise ModelError(f"{path} holds no tensors")
    return tensors


def load_tensors(path: Path) -> Any:
    """What `torch.save` wrote, without running code; its checksums, which torch does not look at, are compared.

    Raises whatever a damaged file raises.
    """
    import torch

    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any(item.compress_type != zipfile.ZIP_STORED for item in archive.infolist()):
                raise ValueError("it is compressed, which torch does not do")
            if damaged := archive.testzip():
                raise ValueError(f"the checksum of {damaged} is wrong")
    return torch.load(path, map_location="cpu", weights_only=True)
