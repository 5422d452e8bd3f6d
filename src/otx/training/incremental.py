"""Classes are added to a trained model: whose place is whose, and how the old ones are kept."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from otx.data.folder import some
from otx.errors import UsageError, nearest
from otx.models.build import head_names

# learning rates of network and classifier against the recipe's, where old answers are kept
BODY_FACTOR, HEAD_FACTOR = 0.1, 3.0


@dataclass(frozen=True)
class Merge:
    """The classes of a model and of new data brought together.

    `classes` are the old ones in their old places, under their new names, then the new ones, sorted.
    """

    classes: tuple[str, ...]
    num_old: int
    new: tuple[str, ...]
    absent: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def notes(self) -> list[str]:
        """What happens to the classes, a sentence each."""
        kept = [name for name in self.classes[: self.num_old] if name not in self.absent]
        parts = (
            ("Classes the model knows and the data has", kept),
            ("New classes", self.new),
            ("Classes the model knows and the data lacks", self.absent),
        )
        return [f"{what}: {some(names)}." for what, names in parts if names]


def merge_classes(old: Sequence[str], found: Sequence[str], renames: Mapping[str, str] | None = None) -> Merge:
    """Bring the classes of a model and those found in data together.

    Args:
        old: the model's classes, in the order of its logits.
        found: the class folders of the data.
        renames: new names of old classes, `{"rose": "roses"}`.

    Raises:
        UsageError: a class to rename does not exist, or would get the name of another.
    """
    renames = dict(renames or {})
    for name in renames:
        if name not in old:
            raise UsageError(f"--rename {name}={renames[name]}: the model has no class {name!r}{nearest(name, old)}")
    named = [renames.get(name, name) for name in old]
    twice = sorted({name for name in named if named.count(name) > 1})
    if twice:
        raise UsageError(f"--rename: two classes of the model would be called {some(twice)}")
    new = tuple(sorted(set(found) - set(named)))
    absent = tuple(name for name in named if name not in found)
    return Merge((*named, *new), len(old), new, absent, tuple(_alike(named, new)))


def _alike(old: Sequence[str], new: Sequence[str]) -> list[str]:
    known = {_plain(name): name for name in old}
    return [
        f"the new class {name!r} differs from {known[_plain(name)]!r}, which the model knows, only in case or spaces; "
        f"if they are the same: --rename '{known[_plain(name)]}={name}'"
        for name in new
        if _plain(name) in known
    ]


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", "", name).casefold()


def carry_over(network: nn.Module, old: nn.Module) -> None:
    """Give a network the weights of another one of fewer classes; the rows of its head for new classes stay.

    Args:
        network: freshly built, so that the rows of new classes are small.
    """
    state, own, heads = old.state_dict(), network.state_dict(), head_names(network)
    with torch.no_grad():
        for name, value in state.items():
            if name in heads:
                own[name][: len(value)] = value
            else:
                own[name].copy_(value)


class Past:
    """An older network whose answers are kept while a grown one learns from images of some classes only.

    Args:
        teacher: gives the logits of the old classes, which are the first ones of the grown network.
        present: the classes that have images. Only they compete in the loss: an image says nothing about classes of
            which there is none, and would push them down until nothing is taken for them.
        weight: of the old answers against the new images.
    """

    def __init__(self, teacher: nn.Module, present: Sequence[int], weight: float) -> None:
        self.teacher = teacher.eval().requires_grad_(requires_grad=False)
        self.present, self.weight = tuple(sorted(present)), weight

    def among_present(self, logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits (N, P) of the P present classes, and the places of the labels (N,) among them."""
        present = torch.tensor(self.present, device=labels.device)
        return logits[:, present], torch.searchsorted(present, labels)
