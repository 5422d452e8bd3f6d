"""The questions of `otx env` to libraries that may be broken; each runs in a process of its own."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from otx.verbs.probe import attempt, in_words

TORCH_FACTS = ("training", "threads", "GPU")
HUB_SECONDS = 5.0


def torch_facts() -> dict[str, str]:
    """The precision and the threads that torch would train with, and the GPUs it sees."""
    import torch
    import torchvision  # noqa: F401 - a version that does not fit torch fails here

    from otx.training.devices import pick_device, pick_precision

    kernels = torch.backends.cpu.get_cpu_capability()
    facts = {
        "training": lambda: f"in {pick_precision('auto', pick_device('auto'))[0]}; kernels for {kernels}",
        "threads": lambda: f"{torch.get_num_threads()} in an operation, {torch.get_num_interop_threads()} side by side",
        "GPU": lambda: "; ".join(_gpus(torch)) or "none that torch sees",
    }
    return {name: in_words(attempt(fact)) for name, fact in facts.items()}


def _gpus(torch: Any) -> Iterator[str]:
    for number in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(number)
        free, total = torch.cuda.mem_get_info(number)
        yield f"{about.name}, {total / 1e9:.0f} GB ({free / 1e9:.0f} free), CUDA {torch.version.cuda}{_driver()}"


def _driver() -> str:
    file = Path("/proc/driver/nvidia/version")
    found = re.search(r"Kernel Module.*?(\d+\.[\d.]+)", file.read_text()) if file.exists() else None
    return f", driver {found[1]}" if found else ""


def openvino_devices() -> list[str]:
    """OpenVINO's devices, each with its full name."""
    import openvino

    core = openvino.Core()
    return [f"{name} ({core.get_property(name, 'FULL_DEVICE_NAME').strip()})" for name in core.available_devices]


def onnxruntime_providers() -> list[str]:
    """The execution providers of ONNX Runtime, in its order of preference."""
    import onnx  # noqa: F401 - exports need it
    import onnxruntime

    return list(onnxruntime.get_available_providers())


def check_pictures() -> str:
    """Decode and resize a small JPEG, as a training does."""
    import io

    import numpy as np
    from PIL import Image, features

    from otx.data.decode import decode_image
    from otx.data.preprocessing import opencv

    file = io.BytesIO()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(file, "JPEG")
    opencv().resize(decode_image(file.getvalue()), (4, 4))
    kinds = [name for name in ("jpg", "webp", "avif", "libtiff") if features.check(name)]
    return f"OpenCV and Pillow decode; Pillow knows {', '.join(kinds)}"


def knock(address: str) -> int:
    """The HTTP status that a server answers with."""
    import urllib.error
    import urllib.request

    try:
        request = urllib.request.Request(address, method="HEAD")
        with urllib.request.urlopen(request, timeout=HUB_SECONDS) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
