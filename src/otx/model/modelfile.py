"""The model file: weights as safetensors with the model card in the header, so that loading one runs no code."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from otx.errors import ModelError, first_line
from otx.files import atomic
from otx.limits import limit_torch
from otx.model.card import ModelCard
from otx.model.checksum import CHECKSUM_KEY, EMPTY, verify_checksum, with_checksum
from otx.model.unknown import KnownClasses
from otx.networks.build import build_network
from otx.networks.weights_file import KNOWN, load_tensors

if TYPE_CHECKING:
    import torch
    from torch import nn

KEY = "otx"
EXPORTED = (".xml", ".onnx")
SAMPLE = "sample"
MODEL_SUFFIXES = (".safetensors", ".ckpt", ".xml", ".onnx")
MAX_HEADER = 100_000_000
TRAIN_AGAIN = "give a file that `otx train` or `otx export` wrote"


def save_model(
    path: Path,
    state: Mapping[str, torch.Tensor],
    card: ModelCard,
    known: KnownClasses | None = None,
    sample: NDArray[np.float16] | None = None,
) -> None:
    """Write a model file; it appears under its name only when it is complete.

    Args:
        known: what tells whether an image is of a class that the model knows; the card has the limit of its score.
        sample: validation images as `known` sees them (N, R), to compare new photos with.
    """
    import torch
    from safetensors.torch import save

    more: dict[str, NDArray[Any]] = {} if known is None else dict(known.tensors())
    if sample is not None:
        more[SAMPLE] = sample
    tensors = {**state, **{f"{KNOWN}{name}": torch.from_numpy(value) for name, value in more.items()}}
    with atomic(path, "wb") as file:
        file.write(with_checksum(save(tensors, metadata={KEY: card.to_json(), CHECKSUM_KEY: EMPTY})))


def read_card(path: Path) -> ModelCard:
    """The card of a model file, a Lightning checkpoint or an exported file.

    It has no `unknown_limit` where the file lost what the score is computed from, as the base of a training that added
    classes.

    Raises:
        ModelError: the file is missing, damaged, or not written by otx.
    """
    if not path.is_file():
        raise ModelError(f"no such model file: {path}")
    readers = {".safetensors": _safetensors_card, ".ckpt": _checkpoint_card, ".xml": _xml_card, ".onnx": _onnx_card}
    if path.suffix not in readers:
        raise ModelError(f"{path} is no model file", allowed=[f"*{suffix}" for suffix in MODEL_SUFFIXES])
    try:
        text = readers[path.suffix](path)
        verify_checksum(path)
        is_scored = path.suffix in EXPORTED or (path.suffix == ".safetensors" and _has_known(path))
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}") from error
    if not isinstance(text, str):
        raise ModelError(f"{path} was not written by otx: it has no model card", fix=TRAIN_AGAIN)
    card = ModelCard.from_json(text, str(path))
    return card if is_scored else replace(card, unknown_limit=None)


def load_model(path: Path) -> tuple[nn.Module, ModelCard]:
    """The network of a model file or a Lightning checkpoint, in evaluation mode, and its card.

    Raises:
        ModelError: the file cannot be used.
    """
    limit_torch()
    card = read_card(path)
    state = _state(path)
    try:
        network = build_network(card.network, len(card.classes), card.preprocessing.height, card.preprocessing.width)
    except ModelError as error:
        raise ModelError(f"{path} cannot be used: {error.what}", fix=TRAIN_AGAIN) from error
    try:
        network.load_state_dict({name: value for name, value in state.items() if not name.startswith(KNOWN)})
    except RuntimeError as error:
        raise ModelError(f"the weights in {path} are not those of {card.network}: {first_line(error)}") from error
    return network.eval(), card


def load_known(path: Path) -> KnownClasses | None:
    """What a model file holds to tell whether an image is of a class that it knows; None if it has nothing of that.

    Raises:
        ModelError: the file cannot be used.
    """
    if path.suffix != ".safetensors":
        return None
    found = {name.removeprefix(KNOWN): value for name, value in _state(path).items() if name.startswith(KNOWN)}
    found.pop(SAMPLE, None)
    if not found:
        return None
    try:
        return KnownClasses.of({name: value.numpy() for name, value in found.items()})
    except (TypeError, ValueError) as error:
        raise ModelError(f"{path}: what it knows of its classes is damaged: {error}", fix=TRAIN_AGAIN) from error


def load_sample(path: Path) -> NDArray[np.float32] | None:
    """Validation images as the model's `KnownClasses` sees them (N, R); None in files of older versions.

    Raises:
        ModelError: the file cannot be used.
    """
    found = _state(path).get(f"{KNOWN}{SAMPLE}") if path.suffix == ".safetensors" else None
    return None if found is None else found.float().numpy()


def _state(path: Path) -> dict[str, torch.Tensor]:
    if path.suffix == ".ckpt":
        prefix, checkpoint = "network.", _read_checkpoint(path)
        if "average" in checkpoint:
            averaged: dict[str, torch.Tensor] = checkpoint["average"]
            return averaged
        state = checkpoint.get("state_dict", {})
        return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    from safetensors.torch import load_file

    try:
        tensors: dict[str, torch.Tensor] = load_file(path)
    except Exception as error:  # SafetensorError derives from Exception alone
        raise _damaged(path, error) from error
    return tensors


def _read_checkpoint(path: Path) -> dict[str, Any]:
    try:
        data = load_tensors(path)
    except Exception as error:  # a damaged file can make a decoder raise anything
        raise _damaged(path, error) from error
    if not isinstance(data, dict):
        raise ModelError(f"{path} holds a {type(data).__name__}, not a checkpoint", fix=TRAIN_AGAIN)
    return data


def _safetensors_card(path: Path) -> Any:
    metadata = _header(path).get("__metadata__", {})
    if not isinstance(metadata, dict) or KEY not in metadata:
        raise ModelError(
            f"{path} holds weights, but no model card", fix=f"to train from these weights: --model.weights {path}"
        )
    return metadata[KEY]


def _has_known(path: Path) -> bool:
    return any(name.startswith(KNOWN) for name in _header(path))


def _header(path: Path) -> dict[str, Any]:
    """The header of a safetensors file alone: eight bytes of length, then JSON."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, MAX_HEADER):
            raise ModelError(f"{path} is no safetensors file, or cut off", fix=TRAIN_AGAIN)
        header = file.read(length)
    try:
        entries = json.loads(header)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, error) from error
    if not isinstance(entries, dict):
        raise ModelError(f"{path} is damaged, or no model file: its header is no table", fix=TRAIN_AGAIN)
    return entries


def _checkpoint_card(path: Path) -> Any:
    return _read_checkpoint(path).get(KEY)


def _xml_card(path: Path) -> Any:
    """Find the card in an IR without OpenVINO; layers are cleared as they are parsed, to save memory."""
    from xml.etree import ElementTree

    if not path.with_suffix(".bin").is_file():
        raise ModelError(f"{path.with_suffix('.bin')} is missing: an IR is two files, .xml and .bin, side by side")
    try:
        for _, element in ElementTree.iterparse(path):
            if element.tag == KEY:
                return element.get("value")
            if element.tag == "layer":
                element.clear()
    except (ElementTree.ParseError, ValueError) as error:
        raise _damaged(path, error) from error
    return None


def _onnx_card(path: Path) -> Any:
    import onnx

    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:  # protobuf's errors, version by version
        raise _damaged(path, error) from error
    return next((item.value for item in model.metadata_props if item.key == f"model_info {KEY}"), None)


def _damaged(path: Path, error: Exception) -> ModelError:
    return ModelError(f"{path} is damaged, or no model file: {first_line(error)}", fix=TRAIN_AGAIN)
