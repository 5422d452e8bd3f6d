"""Does openvino-model-api give the same labels as otx? Compares every test image of a run, for each IR given.

    python benchmarks/modelapi.py RUN/exported_model.xml RUN/optimized_model.xml

ModelAPI's own classes are used unchanged, once with their defaults (OpenVINO computes in bf16 if the processor has it)
and once set to compute in float32, as otx does.
"""

from __future__ import annotations

import sys
from pathlib import Path

from model_api.adapters import OpenvinoAdapter, create_core
from model_api.models import ClassificationModel

from otx import Engine
from otx.data.decode import decode_image
from otx.data.reading import MAX_PIXELS
from otx.model.trained import TrainedModel

EXACT = {"INFERENCE_PRECISION_HINT": "f32"}


def main(paths: list[str]) -> None:
    for path in map(Path, paths):
        engine = Engine(checkpoint=path)
        model = TrainedModel.open(path)
        card = model.card
        files = list(model.test_images(model.own_data(MAX_PIXELS), engine.reporter).files())
        ours = [prediction.label for prediction in engine.predict(files)]
        for name, options in (("as it comes", {}), ("in float32", EXACT)):
            adapter = OpenvinoAdapter(create_core(), str(path), plugin_config=options)
            peer = ClassificationModel.create_model(adapter)
            theirs = [card.classes[peer(decode_image(file)).top_labels[0].id] for file in files]
            same = sum(a == b for a, b in zip(ours, theirs, strict=True))
            print(f"{path}: {same} of {len(files)} labels are the same, ModelAPI {name}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
