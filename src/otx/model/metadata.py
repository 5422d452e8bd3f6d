"""The metadata of an exported file: the keys that openvino-model-api reads, and the model card."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from otx.data.preprocessing import Preprocessing
from otx.data.reading import WHITE, Range
from otx.model.card import ModelCard
from otx.model.checksum import CHECKSUM_KEY, EMPTY
from otx.model.modelfile import KEY
from otx.recipe import CROP, LETTERBOX, STANDARD

# openvino-model-api's names
RESIZE_NAMES = {STANDARD: "standard", LETTERBOX: "fit_to_window_letterbox", CROP: "crop"}
U16, I16 = 65_535, (-32_768, 32_767)


def model_info(card: ModelCard, *, embedded: bool) -> dict[str, str]:
    """The entries of `rt_info/model_info` (OpenVINO) or of `metadata_props` (ONNX).

    Args:
        embedded: the graph resizes and normalises itself, so its reader must not.

    Source: the keys that OTX 2.6 writes for this task, and those that openvino-model-api 0.4 reads.
    """
    size, names = card.preprocessing, spaceless(card.classes)
    ids = [str(index) for index in range(len(card.classes))]
    info = {
        "model_type": "Classification",
        "model_name": card.network,
        "task_type": "classification",
        "label_info": json.dumps(
            {"label_names": list(card.classes), "label_ids": ids, "label_groups": [list(card.classes)]},
            ensure_ascii=False,
        ),
        "labels": " ".join(names),
        "label_ids": " ".join(ids),
        "multilabel": "False",
        "hierarchical": "False",
        "output_raw_scores": "True",
        "mean_values": _numbers((0, 0, 0) if embedded else size.mean),
        "scale_values": _numbers((1, 1, 1) if embedded else size.std),
        "resize_type": RESIZE_NAMES[size.resize_type],
        "pad_value": "0",
        "reverse_input_channels": "False",
        "optimization_config": "{}",
        KEY: card.to_json(),
        CHECKSUM_KEY: EMPTY,
    }
    if card.unknown_limit is not None:
        # for readers of the output `unknown_score`: an image with a higher one is of no class that the model knows
        info["unknown_limit"] = f"{card.unknown_limit:.9g}"
    if size.intensity is not None and not embedded:
        info |= _intensity_info(size, size.intensity)
    if embedded:
        info |= {"embedded_processing": "True", "orig_height": str(size.height), "orig_width": str(size.width)}
    return info


def _intensity_info(size: Preprocessing, limits: Range) -> dict[str, str]:
    """How openvino-model-api scales images of more than 8 bits to 0..1, and the mean and std in that unit."""
    low, high = limits
    info = {
        "input_dtype": input_type(size, limits),
        "mean_values": _numbers(tuple(value / WHITE for value in size.mean)),
        "scale_values": _numbers(tuple(value / WHITE for value in size.std)),
    }
    if low == 0:
        return info | {"intensity_mode": "range_scale", "intensity_max_value": f"{high:.10g}"}
    return info | {
        "intensity_mode": "window",
        "intensity_window_center": f"{(low + high) / 2:.10g}",
        "intensity_window_width": f"{high - low:.10g}",
    }


def input_type(size: Preprocessing, limits: Range) -> str:
    """The type of an exported network's input, in openvino-model-api's names, for images with these values."""
    low, high = limits
    # openvino-model-api 0.4.7 builds its crop for bytes and floats only
    if high <= 1 or size.resize_type == CROP:
        return "f32"
    return "u16" if low >= 0 and high <= U16 else "i16" if I16[0] <= low and high <= I16[1] else "f32"


def underscored(name: str) -> str:
    """A name with underscores in place of white space, and of what no XML file can hold."""
    return re.sub(r"[\s\x00-\x1f]", "_", name)


def spaceless(classes: Sequence[str]) -> list[str]:
    """The names of classes without white space, as openvino-model-api's `labels` needs them; no two are the same.

    `blue tit` is `blue_tit`, and beside a class of that name `blue_tit_2`.
    """
    plain = [underscored(name) for name in classes]
    taken = set(classes) & set(plain)
    found = []
    for name, text in zip(classes, plain, strict=True):
        number = 2
        own = text
        while name != own and own in taken:
            own, number = f"{text}_{number}", number + 1
        taken.add(own)
        found.append(own)
    return found


def _numbers(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:.10g}" for value in values)
