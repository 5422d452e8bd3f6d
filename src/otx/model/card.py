"""The model card: the description in a model file, with everything that the other verbs need besides the weights."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from types import NoneType
from typing import Any

from otx.data.preprocessing import Preprocessing
from otx.errors import ModelError, RecipeError
from otx.recipe import from_dict
from otx.schema import shown

FORMAT = 1
CANNOT_TELL = "cannot tell what it knows from what it does not"
LEARN_IT = (
    "give the model file or an IR (no ONNX file can), or train again with a network with one linear layer at its end"
)


@dataclass(frozen=True)
class ModelCard:
    """The description that travels in the header of `model.safetensors` and in every exported file.

    Args:
        network: timm's name of the architecture.
        classes: the class names; the index of a name is its logit.
        preprocessing: how an image becomes the network's input.
        origin: the initial weights, in words ("random weights", "weights file X", ...).
        recipe: the resolved recipe, as `Recipe.to_dict` gives it.
        metrics: figures of the training (for instance `val/accuracy`), 0 to 1.
        versions: versions of the libraries that made it.
        input_color: order of the colours that an exported graph with embedded preprocessing takes, RGB or BGR.
        num_old: how many of the first classes come from the model that the others were added to; 0 if none were added.
        temperature: what the logits were divided by in the end, as part of the classifier; None: not calibrated. The
            metrics then hold the calibration error of the validation images, before and after.
        explain: the algorithm of the saliency maps that an exported graph returns; empty if it returns none.
        unknown_limit: the largest `unknown_score` of an image of the classes that it knows; None if it has no score.
    """

    network: str
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    origin: str
    recipe: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    input_color: str = "RGB"
    explain: str = ""
    num_old: int = 0
    temperature: float | None = None
    unknown_limit: float | None = None

    def is_known(self, score: float | None) -> bool | None:
        """Whether an image with this `unknown_score` is of a class that the model knows; None if it cannot tell."""
        return None if score is None or self.unknown_limit is None else score <= self.unknown_limit

    def to_json(self) -> str:
        return json.dumps({"format": FORMAT, **asdict(self)}, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str, source: str) -> ModelCard:
        """Read a card back.

        Raises:
            ModelError: the text is not a card of this format; the message names its file, `source`.
        """
        try:
            data = json.loads(text)
            if data.pop("format") != FORMAT:
                raise ModelError(f"{source} was written by another version of otx", fix="train or export it again")
            data["preprocessing"] = Preprocessing.from_dict(data["preprocessing"])
            if not isinstance(data["classes"], list):
                raise TypeError(f"classes are {shown(data['classes'])}")
            data["classes"] = tuple(data["classes"])
            limit = data.get("unknown_limit")
            if isinstance(limit, float) and not math.isfinite(limit):
                # older versions kept the limit of scores that were no numbers: nothing can be compared with it
                data["unknown_limit"] = None
            card = cls(**data)
            card.check()
            return card
        except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError, RecipeError) as error:
            raise ModelError(f"{source} has a damaged otx header: {error}", fix="train or export it again") from error

    def check(self) -> None:
        """Raise TypeError, ValueError or RecipeError if a field has a wrong type or value."""
        kinds = {"network": str, "origin": str, "recipe": dict, "metrics": dict}
        for name, kind in (kinds | {"versions": dict, "input_color": str, "explain": str, "num_old": int}).items():
            if not isinstance(getattr(self, name), kind):
                raise TypeError(f"{name} is {shown(getattr(self, name))}")
        if self.temperature is not None and not (isinstance(self.temperature, float) and self.temperature > 0):
            raise TypeError(f"temperature is {shown(self.temperature)}")
        if not isinstance(self.unknown_limit, (float, int, NoneType)):
            raise TypeError(f"unknown_limit is {shown(self.unknown_limit)}")
        if not self.classes or not all(isinstance(name, str) for name in self.classes):
            raise ValueError(f"classes are {shown(self.classes)}")
        self.preprocessing.check()
        from_dict(self.recipe, "its recipe")
