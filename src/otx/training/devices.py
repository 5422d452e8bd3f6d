"""The device and precision of a training, and the rank of this process."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from otx.errors import UsageError
from otx.recipe import Recipe
from otx.training.compute import Shard, check_processes, find_shard


@dataclass(frozen=True)
class Compute:
    """`device` is `gpu` or `cpu`, `precision` `32`, `bf16` or `16`; `why` gives the precision and its reason."""

    device: str
    precision: str
    why: str
    shard: Shard

    @classmethod
    def choose(cls, recipe: Recipe) -> Compute:
        """Choose the device and precision for a recipe on this machine.

        Raises:
            UsageError: the recipe asks for a GPU and there is none, or the running processes do not match the recipe.
        """
        shard = find_shard(recipe.engine)
        check_processes(shard, recipe.engine)
        device = pick_device(recipe.engine.device)
        return cls(device, *pick_precision(recipe.precision, device), shard)

    @property
    def is_main(self) -> bool:
        """Whether this is the process (rank 0) that writes files and reports."""
        return self.shard.is_main

    @property
    def is_gpu(self) -> bool:
        return self.device == "gpu"

    @property
    def place(self) -> str:
        """PyTorch's name of the device."""
        return "cuda" if self.is_gpu else "cpu"

    @property
    def is_half(self) -> bool:
        """Whether bf16 is used."""
        return self.precision == "bf16"


def pick_device(wanted: str) -> str:
    """`gpu` or `cpu`; `auto` means the GPU if there is one.

    Raises:
        UsageError: `wanted` is `gpu` and there is none.
    """
    if wanted == "gpu" and not torch.cuda.is_available():
        raise UsageError(
            "--engine.device gpu: torch sees no GPU on this machine",
            allowed=["auto", "cpu"],
            fix="leave --engine.device out",
        )
    return "gpu" if wanted == "gpu" or (wanted == "auto" and torch.cuda.is_available()) else "cpu"


def pick_precision(wanted: str, device: str) -> tuple[str, str]:
    """The precision to train in (`32`, `bf16` or `16`) and the reason in words."""
    if wanted == "16" and device == "cpu":
        return "bf16", "bf16, since 16-bit floats cannot be trained on a CPU"
    if wanted != "auto":
        return wanted, f"{wanted}, as asked for"
    native = torch.cuda.is_bf16_supported(including_emulation=False) if device == "gpu" else _cpu_has_bf16()
    here = "this GPU" if device == "gpu" else "this processor"
    if native:
        return "bf16", f"bf16, which {here} has"
    chosen = "16" if device == "gpu" else "32"
    return chosen, f"{chosen}, since {here} has no bf16"


def _cpu_has_bf16() -> bool:
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") or capabilities.get("bf16"))
