"""A folder that classifies images on a machine without otx: the model, a short program, and what it should print."""

from __future__ import annotations

import shutil
from importlib.metadata import version
from pathlib import Path

from otx.errors import UsageError
from otx.files import staged_folder, take_place, write_text
from otx.inference.classify import softmax
from otx.inference.overlay import write_png
from otx.inference.predictor import Pixels, load_predictor
from otx.workspace import mark_own

# the oldest versions that otx itself allows (pyproject.toml)
REQUIREMENTS = "openvino>=2025.3\nopenvino-model-api>=0.4.7\npillow>=11.3\n"

PROGRAM = '''"""Classify images: python predict.py photo.jpg more/*.png"""

import sys
from pathlib import Path

import numpy as np
from model_api.adapters import OpenvinoAdapter, create_core
from model_api.models import ClassificationModel
from PIL import Image, ImageOps

HERE = Path(__file__).resolve().parent
labels = (HERE / "labels.txt").read_text(encoding="utf-8").splitlines()
# processors with bf16 would otherwise compute in it, which is less exact
exact = {"INFERENCE_PRECISION_HINT": "f32"}
adapter = OpenvinoAdapter(create_core(), str(HERE / "model.xml"), plugin_config=exact)
model = ClassificationModel.create_model(adapter)
for path in sys.argv[1:]:
    image = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    best = model(np.asarray(image)).top_labels[0]
    print(f"{path}: {labels[best.id]} ({best.confidence:.1%})")
'''

README = """# {network}: {count} classes

Python 3.10 or newer, on any machine that OpenVINO runs on:

```sh
pip install -r requirements.txt
python predict.py sample.png
```

prints

```text
sample.png: {label} ({probability:.1%})
```

| file | what it is |
|---|---|
| `model.xml`, `model.bin` | the network, for OpenVINO; it says itself how an image is resized and normalised |
| `labels.txt` | the classes, one a line, in the order of the network's answers |
| `predict.py` | the program above: twenty lines, to be read and changed |
| `sample.png` | an image to try it with |

Exported by otx {version}.
"""


def check_deploy(folder: Path, export_format: str, preprocessing: str) -> None:
    """Raise UsageError if the export options do not suit `--deploy`, or the folder is not empty."""
    if export_format != "OPENVINO" or preprocessing != "modelapi":
        raise UsageError(
            "--deploy writes an IR for openvino-model-api", fix="leave --export_format and --preprocessing out"
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"--deploy {folder}: there is something already", fix="name a new or an empty folder")


def write_deploy_folder(exported: Path, folder: Path, sample: Pixels) -> None:
    """Write the folder; it appears only when it is complete.

    Args:
        exported: an IR that describes itself to openvino-model-api.
        sample: an image (H, W, 3), whose prediction the README shows.

    Raises:
        UsageError: the folder cannot be written.
    """
    predictor = load_predictor(exported, "cpu")
    card = predictor.card
    probabilities = softmax(predictor.logits([sample]))[0]
    best = int(probabilities.argmax())
    with staged_folder(folder.parent, f"--deploy {folder}", prefix=".deploy.") as beside:
        for suffix in (".xml", ".bin"):
            shutil.copy(exported.with_suffix(suffix), beside / f"model{suffix}")
        write_png(beside / "sample.png", sample)
        write_text(beside / "predict.py", PROGRAM)
        write_text(beside / "labels.txt", "".join(f"{' '.join(name.splitlines())}\n" for name in card.classes))
        write_text(beside / "requirements.txt", REQUIREMENTS)
        readme = README.format(
            network=card.network,
            count=len(card.classes),
            label=card.classes[best],
            probability=probabilities[best],
            version=version("otx"),
        )
        write_text(beside / "README.md", readme)
        mark_own(beside)
        take_place(beside, folder)
