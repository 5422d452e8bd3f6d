"""Train, test, predict and export from Python: python examples/python_api.py my_photos [otx-workspace]"""

import sys
from collections.abc import Mapping
from typing import Any

from otx import Engine


def main(photos: str, work_dir: str, settings: Mapping[str, Any]) -> None:
    """Train a classifier of a folder of photos.

    Args:
        settings: single settings of the recipe, such as `{"max_epochs": 20}`.
    """
    engine = Engine(photos, model="mobilenet_v3_large", work_dir=work_dir, overrides=settings)
    for kind, images in engine.check().by_kind().items():
        for image, reason in images:
            print(f"{kind}: {image.path}: {reason}")
    engine.train()

    test = engine.test()
    print(f"top-1 {test.top1:.3f} (95 % interval {test.top1_low:.3f} to {test.top1_high:.3f})")
    for each in test.classes:
        print(f"{each.name}: recall {each.recall:.3f} on {each.count} images")

    for prediction in engine.predict(photos)[:5]:
        print(prediction.path, prediction.label, prediction.probability, prediction.known)

    print(engine.export().path)
    print(engine.export(export_format="ONNX", preprocessing="embedded").path)
    print(engine.optimize(max_drop=0.01).path)


# needed where processes are spawned (macOS, Windows): they import this file
if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "otx-workspace", {})
