"""A folder that classifies images on a machine without otx: the model, a short program, and what it should print."""

from __future__ import annotations

import shutil
from importlib.metadata import version
from pathlib import Path

import numpy as np

from otx.data.preprocessing import Preprocessing
from otx.data.reading import WHITE, Bands
from otx.errors import UsageError
from otx.files import staged_folder, take_place, write_text
from otx.inference.classify import score
from otx.inference.overlay import write_png
from otx.inference.predict import as_prediction
from otx.inference.predictor import Pixels, load_predictor
from otx.model.card import ModelCard
from otx.model.metadata import input_type
from otx.workspace import mark_own

# the oldest versions that otx itself allows (pyproject.toml)
REQUIREMENTS = "openvino>=2025.3\nopenvino-model-api>=0.4.7\npillow>=11.3\npillow-heif>=1.0\n"
REQUIREMENTS_RAW = "tifffile>=2025.1\nimagecodecs>=2025.3\n"

START = '''"""Classify images: python predict.py photo.jpg more/*.png"""

import sys
from pathlib import Path

{imports}
from model_api.adapters import OpenvinoAdapter, create_core
from model_api.models import ClassificationModel
from PIL import Image, ImageOps

HERE = Path(__file__).resolve().parent
{load}

pillow_heif.register_heif_opener()
labels = (HERE / "labels.txt").read_text(encoding="utf-8").splitlines()
# processors with bf16 would otherwise compute in it, which is less exact
exact = {{"INFERENCE_PRECISION_HINT": "f32"}}
adapter = OpenvinoAdapter(create_core(), str(HERE / "model.xml"), plugin_config=exact)
model = ClassificationModel.create_model(adapter)
{answer}'''

ANSWER = """for path in sys.argv[1:]:
    best = model(load(path)).top_labels[0]
    print(f"{path}: {labels[best.id]} ({best.confidence:.1%})")
"""
DOUBT = ", but probably not one of the classes it knows"
ANSWER_OR_DOUBT = f"""highest_known = float(adapter.get_rt_info(["model_info", "unknown_limit"]).astype(str))
for path in sys.argv[1:]:
    inputs, meta = model.base_preprocess(load(path))
    outputs = model.infer_sync(inputs)
    best = model.postprocess(outputs, meta).top_labels[0]
    doubt = "{DOUBT}" if outputs["unknown_score"].item() > highest_known else ""
    print(f"{{path}}: {{labels[best.id]}} ({{best.confidence:.1%}}){{doubt}}")
"""

IMPORTS = "import numpy as np\nimport pillow_heif"
LOAD = '''

def load(path):
    """An image as RGB (H, W, 3), upright, with transparent pixels on white."""
    image = ImageOps.exif_transpose(Image.open(path))
    if image.mode.startswith("I"):  # 16 bits, of which Pillow would make all but the darkest white
        image = Image.fromarray((np.asarray(image) / 257).round().clip(0, 255).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.asarray(image.convert("RGB"))
'''

IMPORTS_RAW = "import cv2\nimport numpy as np\nimport pillow_heif\nimport tifffile"
LOAD_RAW = '''# black and white of images of more than 8 bits, the type the network takes, the bands it sees
BLACK, WHITE, TYPE, BANDS = {black!r}, {white!r}, "{kind}", {bands}


def load(path):
    """An image as (H, W, 3), with its values as they are stored; images of 8 bits are stretched to that range."""
    values = stored(path)
    bands = BANDS or ([0, 1, 2] if values.shape[2] > 2 else [0, 0, 0])
    numbers = values[:, :, bands].astype(np.float64)
    if values.dtype == np.uint8:
        numbers = BLACK + numbers / 255 * (WHITE - BLACK)
    numbers = numbers.clip(BLACK, WHITE)
    return (numbers if TYPE == "float32" else numbers.round()).astype(TYPE)


def stored(path):
    """The stored values (H, W, bands) of an image file."""
    if Path(path).suffix.lower() in (".tif", ".tiff"):
        with tifffile.TiffFile(path) as file:
            page = file.pages.first
            if "S" in page.axes:
                return np.moveaxis(page.asarray(), page.axes.index("S"), -1)
            return np.dstack([each.asarray() for each in (file.pages if BANDS else [page])])
    if Path(path).suffix.lower() == ".png":
        values = np.atleast_3d(cv2.imread(path, cv2.IMREAD_UNCHANGED))
        return values[:, :, 2::-1] if values.shape[2] > 2 else values
    image = ImageOps.exif_transpose(Image.open(path))
    return np.atleast_3d(np.asarray(image if image.mode[0] in "IF" else image.convert("RGB")))
'''
TYPES = {"u8": "uint8", "u16": "uint16", "i16": "int16", "f32": "float32"}

README = """# {network}: {count} classes

Python 3.10 or newer, on any machine that OpenVINO runs on:

```sh
pip install -r requirements.txt
python predict.py {sample}
```

prints

```text
{sample}: {label} ({probability:.1%}){doubt}
```

| file | what it is |
|---|---|
| `model.xml`, `model.bin` | the network, for OpenVINO; it says itself how an image is resized and normalised |
| `labels.txt` | the classes, one a line, in the order of the network's answers |
| `predict.py` | the program above, short enough to be read and changed |
| `{sample}` | an image to try it with |

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


def is_raw(size: Preprocessing) -> bool:
    """Whether the network was trained on values as they are stored in files, and not on ordinary 8-bit colours."""
    return size.intensity is not None or size.bands is not None


def program(card: ModelCard) -> str:
    """The program that reads images as the network was trained on them, and classifies them."""
    size, answer = card.preprocessing, ANSWER if card.unknown_limit is None else ANSWER_OR_DOUBT
    if not is_raw(size):
        return START.format(imports=IMPORTS, load=LOAD, answer=answer)
    black, white = size.intensity or (0.0, WHITE)
    kind = TYPES["u8" if size.intensity is None else input_type(size, size.intensity)]
    bands = None if size.bands is None else [band - 1 for band in size.bands]
    load = LOAD_RAW.format(black=black, white=white, kind=kind, bands=bands)
    return START.format(imports=IMPORTS_RAW, load=load, answer=answer)


def write_sample(folder: Path, sample: Pixels, bands: Bands | None) -> str:
    """Write an image as the program reads it, with its colours in the bands that the network sees; returns its name."""
    if bands is None:
        write_png(folder / "sample.png", sample)
        return "sample.png"
    import tifffile

    values = np.zeros((*sample.shape[:2], max(bands)), np.uint8)
    values[:, :, [band - 1 for band in bands]] = sample
    tifffile.imwrite(folder / "sample.tif", np.moveaxis(values, -1, 0), photometric="minisblack")
    return "sample.tif"


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
    ((logits, score_of_sample),) = score(predictor, [sample])
    answer = as_prediction("", logits, card.classes)
    is_doubted = card.is_known(score_of_sample) is False
    with staged_folder(folder.parent, f"--deploy {folder}", prefix=".deploy.") as beside:
        for suffix in (".xml", ".bin"):
            shutil.copy(exported.with_suffix(suffix), beside / f"model{suffix}")
        name = write_sample(beside, sample, card.preprocessing.bands)
        write_text(beside / "predict.py", program(card))
        write_text(beside / "labels.txt", "".join(f"{' '.join(name.splitlines())}\n" for name in card.classes))
        write_text(beside / "requirements.txt", REQUIREMENTS + (REQUIREMENTS_RAW if is_raw(card.preprocessing) else ""))
        readme = README.format(
            sample=name,
            network=card.network,
            count=len(card.classes),
            label=answer.label,
            probability=answer.probability,
            doubt=DOUBT if is_doubted else "",
            version=version("otx"),
        )
        write_text(beside / "README.md", readme)
        mark_own(beside)
        take_place(beside, folder)
