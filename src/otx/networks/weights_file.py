"""Weights files: check one without torch, and read its tensors without running code."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from otx.errors import ModelError, first_line
from otx.networks.table import FINGERPRINTS, MODELS, TIMM_PREFIX, timm_networks

if TYPE_CHECKING:
    import torch

Shapes = dict[str, list[int]]
PICKLE = b"\x80"
WEIGHTS_FIX = "give a .safetensors file, or a .pth file that holds nothing but tensors"
OTHER_FIX = "give the weights of this very network, named as timm names them"
HEADS = ("classifier.", "head.", "fc.")
COUNTER = ".num_batches_tracked"  # of batch norm: some files lack it, and no code that we run reads it
SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
RESIZABLE = "patch_embed."
KNOWN = "unknown."  # what a model file of otx holds beside the weights, see otx.model.unknown


def check_weights_file(path: Path) -> None:
    """Raise ModelError if a file cannot hold weights, judged by its header alone and without torch."""
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


def check_weights_fit(path: Path, network: str) -> None:
    """Raise ModelError if the header of a safetensors file shows that it holds the weights of another network.

    It checks only networks in `FINGERPRINTS`. The weights of others, and other files, are checked when they are loaded.

    Args:
        path: a file that `check_weights_file` has passed.
        network: timm's name of the architecture, with or without a weights tag.
    """
    network = network.partition(".")[0]
    if network not in FINGERPRINTS or path.suffix != ".safetensors":
        return
    shapes = {name.removeprefix("module."): shape for name, shape in _read_shapes(path).items()}
    found = fingerprint(shapes)
    others = [name for name, known in FINGERPRINTS.items() if known == found]
    # timm resizes the embeddings of a transformer that was trained at another input size
    if network in others or (not others and any(name.startswith(RESIZABLE) for name in shapes)):
        return
    if not others:
        raise ModelError(
            f"{path} does not fit {network}: it holds {len(shapes)} tensors, which are not those of {network}",
            fix=OTHER_FIX,
        )
    models = [entry.name for entry in MODELS.values() if entry.network in others]
    raise ModelError(
        f"{path} does not fit {network}: it holds the weights of {others[0]}",
        fix=f"train with --model {models[0] if models else TIMM_PREFIX + others[0]}, or {OTHER_FIX}",
    )


def weights_in(folder: Path) -> list[tuple[Path, str]]:
    """The files of weights in a folder, and the network of each as a recipe names it (`timm/NETWORK`).

    The network is known by the tensors of a safetensors file, or else by the name of the file: NETWORK.anything. Files
    that tell neither are left out.

    Raises:
        ModelError: it is no folder, or there is no such file in it.
    """
    fix = "give a folder with files of weights, each named NETWORK.safetensors after its network in timm"
    if not folder.is_dir():
        raise ModelError(f"--model auto takes its weights from a folder, and {folder} is none", fix=fix)
    found = []
    for path in sorted(folder.iterdir()):
        name = path.name.partition(".")[0]
        # other tools call other things .bin and .pt
        is_meant = path.suffix == ".safetensors" or (path.suffix in SUFFIXES and name in timm_networks())
        if is_meant and path.is_file() and not path.name.startswith("."):
            check_weights_file(path)
            name = _network_of_file(path) or name
            found += [(path, f"{TIMM_PREFIX}{name}")] if name in timm_networks() else []
    if not found:
        raise ModelError(f"no file in {folder} is named after a network of timm", fix=fix)
    return found


def _network_of_file(path: Path) -> str | None:
    """timm's name of the network whose weights a safetensors file holds, if it is in FINGERPRINTS."""
    if path.suffix != ".safetensors":
        return None
    found = fingerprint({name.removeprefix("module."): shape for name, shape in _read_shapes(path).items()})
    return next((name for name, known in FINGERPRINTS.items() if known == found), None)


def fingerprint(shapes: Mapping[str, list[int]]) -> str:
    """A hash of the names and shapes of a network's tensors, without the classifier and batch norm's counters."""
    lines = [
        f"{name} {list(shape)}"
        for name, shape in sorted(shapes.items())
        if not name.startswith(HEADS) and not name.endswith(COUNTER)
    ]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def _read_shapes(path: Path) -> Shapes:
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return {
        name: entry["shape"] for name, entry in header.items() if name != "__metadata__" and not name.startswith(KNOWN)
    }


def _damage_of_safetensors(path: Path) -> str:
    """Why a safetensors file cannot be read; empty if it can.

    Its first eight bytes give the length of the header, which gives the end of each tensor; the file ends with the
    last of them.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > size - 8:
            return "it is no safetensors file, or cut off in its header"
        header = file.read(length)
    try:
        entries = [entry for name, entry in json.loads(header).items() if name != "__metadata__"]
        missing = max((entry["data_offsets"][1] for entry in entries), default=0) - (size - 8 - length)
        is_whole = all(isinstance(entry["shape"], list) for entry in entries)
    except (ValueError, AttributeError, KeyError, IndexError, TypeError, RecursionError):
        is_whole = False
    if not is_whole:
        return "its header is damaged"
    return f"it is cut off, {missing} bytes are missing" if missing > 0 else ""


def _damage_of_pickle(path: Path) -> str:
    """Why a file of `torch.save` cannot be read; empty if it can. It is a zip; before torch 1.6, a bare pickle."""
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
        ModelError: it is missing or damaged, holds code, or holds no tensors.
    """
    import torch

    check_weights_file(path)
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            data: Any = load_file(path)
        else:
            data = load_tensors(path)
    except Exception as error:  # a damaged file can make a decoder raise anything
        raise ModelError(f"{path} cannot be read as weights: {first_line(error)}", fix=WEIGHTS_FIX) from error
    for key in ("state_dict_ema", "state_dict", "model_ema", "model"):
        if isinstance(data, Mapping) and isinstance(data.get(key), Mapping):
            data = data[key]
            break
    if not isinstance(data, Mapping):
        raise ModelError(f"{path} holds a {type(data).__name__}, not named tensors")
    tensors = {
        str(key).removeprefix("module."): value
        for key, value in data.items()
        if isinstance(value, torch.Tensor) and not str(key).startswith(KNOWN)
    }
    if not tensors:
        raise ModelError(f"{path} holds no tensors")
    return tensors


def load_tensors(path: Path) -> Any:
    """Load what `torch.save` wrote, without running code. It verifies the checksums, which torch ignores.

    A damaged file can raise any exception.
    """
    import torch

    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any(item.compress_type != zipfile.ZIP_STORED for item in archive.infolist()):
                raise ValueError("it is compressed, which torch does not do")
            if damaged := archive.testzip():
                raise ValueError(f"the checksum of {damaged} is wrong")
    return torch.load(path, map_location="cpu", weights_only=True)
