"""`otx env`: what this machine and this installation are, on one screen that can be pasted into a report.

Libraries are imported by processes of their own (`probe.py`), several at a time: one that is broken, crashes or hangs
is a line of the answer and not the end of it.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import platform
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from otx.machine import available_cores, cpu_quota, memory_limit
from otx.places import cache_folder
from otx.results import Environment
from otx.verbs.probe import Crashed, NoAnswer, ask

LIBRARIES = (
    ("torch", "torchvision", "timm", "lightning", "torchmetrics", "safetensors"),
    ("openvino", "openvino-model-api", "nncf", "onnx", "onnxruntime"),
    ("numpy", "opencv-python-headless", "pillow", "scikit-learn", "huggingface-hub"),
)
INSTRUCTIONS = {
    "x86": ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16"),
    "arm": ("asimd", "i8mm", "bf16", "sve"),
}
CHANGE_BEHAVIOUR = re.compile(
    r"OMP_\w+|GOMP_\w+|KMP_\w+|MKL_NUM_THREADS|OPENBLAS_\w+|ONEDNN_\w+|DNNL_\w+|ATEN_CPU_CAPABILITY|OV_\w+|MALLOC_\w+"
    r"|CUDA_\w+|NVIDIA_VISIBLE_DEVICES|HIP_VISIBLE_DEVICES|PYTORCH_\w+|TORCH_HOME|NCCL_\w+|LD_PRELOAD"
    r"|HF_HOME|HF_HUB_(?:OFFLINE|CACHE)|HF_ENDPOINT|TRANSFORMERS_OFFLINE|XDG_CACHE_HOME|OTX_CACHE|TMPDIR"
    r"|SLURM_(?:JOB_ID|NTASKS|PROCID|LOCALID|NNODES)|RANK|LOCAL_RANK|WORLD_SIZE|MASTER_ADDR|PYTHONPATH"
)
ONLY_WHETHER_SET = re.compile(r"(?:https?|all|no)_proxy", re.IGNORECASE)
SECRET = re.compile(r"token|secret|password|credential|_key\b", re.IGNORECASE)
IMPORT_SECONDS = 60.0
HUB_SECONDS = 5.0
LONGEST_VALUE = 60
CONTAINERS = {"Docker": Path("/.dockerenv"), "Podman": Path("/run/.containerenv")}
SHARED = Path("/dev/shm")
UNKNOWN = "cannot be found out"
TORCH_FACTS = ("training", "threads", "GPU")


def describe_environment(work_dir: Path) -> Environment:
    """Find out everything; what cannot be found out is a line that says why."""
    with ThreadPoolExecutor() as pool:
        asked = {name: pool.submit(_try, question) for name, question in SLOW.items()}
        found = {name: future.result() for name, future in asked.items()}
    facts = _try(lambda: _known(found["torch"], "torch"))
    torch = {name: facts if isinstance(facts, NoAnswer) else facts[name] for name in TORCH_FACTS}
    answers: dict[str, Any] = {
        "otx": _try(lambda: f"{version('otx')}, Python {platform.python_version()}, {sys.executable}"),
        "system": _try(_system),
        "libraries": _try(_libraries),
        "processor": _try(processor_name),
        "instructions": _try(_instructions),
        "cores": _try(_cores),
        **torch,
        "OpenVINO": _try(lambda: ", ".join(_known(found["openvino"], "openvino"))),
        "ONNX Runtime": _try(lambda: ", ".join(_known(found["onnxruntime"], "onnxruntime"))),
        "images": _try(lambda: _known(found["images"], "the decoding of images")),
        "memory": _try(_memory),
        "shared memory": _try(lambda: _disk(SHARED) if SHARED.exists() else f"there is no {SHARED}"),
        "temporary files": _try(lambda: _disk(Path(tempfile.gettempdir()))),
        "work folder": _try(lambda: _disk(work_dir)),
        "open files": _try(_open_files),
        "otx's cache": _try(lambda: _folder(cache_folder())),
        "hub's cache": _try(lambda: _folder(_hub_cache())),
        "hub": found["hub"],
        "started by": _try(_launcher),
        "variables": _try(_variables),
    }
    lines = {name: _without_home(_words(answer)) for name, answer in answers.items()}
    return Environment(lines, tuple(name for name, text in lines.items() if text.startswith(UNKNOWN)))


def _try(find_out: Callable[[], Any]) -> Any:
    """What a function finds out, or NoAnswer: whatever goes wrong is what a report is about."""
    try:
        return find_out()
    except NoAnswer as error:
        return error
    except Exception as error:
        return NoAnswer(f"{type(error).__name__}: {str(error)[:200]}")


def _known(answer: Any, what: str) -> Any:
    if isinstance(answer, Crashed):
        raise NoAnswer(f"{what} kills the process that imports it: {answer}")
    if isinstance(answer, NoAnswer):
        raise NoAnswer(f"{what} does not work: {answer}")
    return answer


def _words(answer: Any) -> str:
    return f"{UNKNOWN}: {answer}" if isinstance(answer, NoAnswer) else str(answer)


def _without_home(text: str) -> str:
    """A text that does not tell who asks."""
    home = os.path.expanduser("~")  # noqa: PTH111 - Path.home() raises where there is none
    return text.replace(home, "~") if len(home) > 1 and home != "~" else text


# asked in other processes


def torch_facts() -> dict[str, str]:
    """What torch would train in and with, and the GPUs it sees."""
    import torch
    import torchvision  # noqa: F401 - one that does not fit torch fails here

    kernels = torch.backends.cpu.get_cpu_capability()
    facts = {
        "training": lambda: f"in {_training_precision(torch)}; kernels for {kernels}",
        "threads": lambda: f"{torch.get_num_threads()} in an operation, {torch.get_num_interop_threads()} side by side",
        "GPU": lambda: "; ".join(_gpus(torch)) or "none that torch sees",
    }
    return {name: _words(_try(fact)) for name, fact in facts.items()}


def _training_precision(torch: Any) -> str:
    """As `training.fit.pick_precision` says, whose module takes seconds to import."""
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "16"
    capabilities = torch.cpu.get_capabilities()
    return "bf16" if any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16")) else "32"


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
    """The devices of OpenVINO by name, and what each calls itself."""
    import openvino

    core = openvino.Core()
    return [f"{name} ({core.get_property(name, 'FULL_DEVICE_NAME').strip()})" for name in core.available_devices]


def onnxruntime_providers() -> list[str]:
    """The execution providers of ONNX Runtime, the ones it prefers first."""
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
    """The status that a server answers with, 200 or otherwise."""
    import urllib.error
    import urllib.request

    try:
        request = urllib.request.Request(address, method="HEAD")
        with urllib.request.urlopen(request, timeout=HUB_SECONDS) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


# found out here


def _system() -> str:
    where = [f"in {name}" for name, sign in CONTAINERS.items() if sign.exists()]
    library = " ".join(platform.libc_ver())
    parts = [f"{platform.system()} {platform.release()} {platform.machine()}", library.strip()]
    parts += [*where, f"processes by {multiprocessing.get_start_method()}"]
    return ", ".join(part for part in parts if part)


def _libraries() -> str:
    return "\n".join(", ".join(f"{name} {_version(name)}" for name in names) for names in LIBRARIES)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "missing"


def _cpuinfo() -> dict[str, str]:
    """The first processor's entries of /proc/cpuinfo."""
    text = Path("/proc/cpuinfo").read_text(errors="replace").split("\n\n")[0]
    pairs = (line.split(":", 1) for line in text.splitlines() if ":" in line)
    return {name.strip(): value.strip() for name, value in pairs}


def processor_name() -> str:
    """What the processor calls itself."""
    name = platform.processor() or platform.machine()
    known = _cpuinfo() if Path("/proc/cpuinfo").exists() else {}
    return known.get("model name") or known.get("Hardware") or name


def _instructions() -> str:
    """Which of the instruction sets that matter there are, and which not."""
    entries = _cpuinfo()
    flags = set((entries.get("flags") or entries["Features"]).split())
    wanted = INSTRUCTIONS["x86" if "flags" in entries else "arm"]
    has = [name for name in wanted if name in flags]
    lacks = [name for name in wanted if name not in flags]
    return f"{' '.join(has) or 'none of those that matter'}{'; not ' + ' '.join(lacks) if lacks else ''}"


def _cores() -> str:
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    quota = cpu_quota()
    limit = "no quota" if quota is None else f"a quota of {quota:g}"
    return f"{available_cores()} to use ({os.cpu_count()} in the machine, {allowed} allowed, {limit})"


def _memory() -> str:
    entries = dict(re.findall(r"(\w+): +(\d+) kB", Path("/proc/meminfo").read_text()))
    total, free = (int(entries[name]) * 1024 for name in ("MemTotal", "MemAvailable"))
    limit = memory_limit()
    allowed = "no limit" if limit >= total else f"a limit of {_size(limit)}"
    return f"{_size(total)}, {_size(free)} free, {allowed}"


def _size(number: float) -> str:
    return f"{number / 1e9:.1f} GB" if number >= 1e9 else f"{number / 1e6:.0f} MB"


def _disk(folder: Path) -> str:
    inside = _existing(folder)
    usage = shutil.disk_usage(inside)
    return f"{folder}: {_size(usage.total)}, {_size(usage.free)} free{_access(inside)}"


def _folder(folder: Path) -> str:
    missing = "" if folder.is_dir() else ", not there yet"
    return f"{folder}{missing}{_access(_existing(folder)) or ', can be written'}"


def _existing(folder: Path) -> Path:
    """A folder, or the nearest one around it that is there."""
    return next(each for each in (folder, *folder.absolute().parents) if each.is_dir())


def _access(folder: Path) -> str:
    return "" if os.access(folder, os.W_OK | os.X_OK) else ", CANNOT BE WRITTEN"


def _open_files() -> str:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return f"{soft} at most (could be raised to {hard})" if soft != hard else f"{soft} at most"


def _hub_cache() -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def _hub() -> str:
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "not asked, since HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE is set"
    address, started = constants.ENDPOINT, time.perf_counter()
    try:
        status = ask(knock, address, seconds=HUB_SECONDS)
    except NoAnswer as error:
        return f"no: {_harmless(address)}: {error}"
    took = time.perf_counter() - started
    return f"{_harmless(address)} answers ({took:.1f} s)" if status < 400 else f"no: it answers with status {status}"


def _launcher() -> str:
    places = {
        "torchrun": ("TORCHELASTIC_RUN_ID", "RANK", "WORLD_SIZE"),
        "SLURM": ("SLURM_JOB_ID", "SLURM_PROCID", "SLURM_NTASKS"),
        "a launcher that sets RANK": ("RANK", "RANK", "WORLD_SIZE"),
    }
    for name, (sign, rank, count) in places.items():
        if sign in os.environ:
            return f"{name}, process {os.environ.get(rank, '?')} of {os.environ.get(count, '?')}"
    return "no launcher (neither torchrun nor SLURM)"


def _variables() -> str:
    shown = []
    for name, value in sorted(os.environ.items()):
        if ONLY_WHETHER_SET.fullmatch(name):
            shown.append(f"{name} is set")
        elif CHANGE_BEHAVIOUR.fullmatch(name) and not SECRET.search(name):
            shown.append(f"{name}={json.dumps(_harmless(value))[1:-1][:LONGEST_VALUE]}")
    return " ".join(shown) or "none that change what otx does"


def _harmless(value: str) -> str:
    """A value without the user and password of an address."""
    return re.sub(r"(?<=//)[^/@\s]+@", "***@", value)


SLOW: dict[str, Callable[[], Any]] = {
    "torch": lambda: ask(torch_facts, seconds=IMPORT_SECONDS),
    "openvino": lambda: ask(openvino_devices, seconds=IMPORT_SECONDS),
    "onnxruntime": lambda: ask(onnxruntime_providers, seconds=IMPORT_SECONDS),
    "images": lambda: ask(check_pictures, seconds=IMPORT_SECONDS),
    "hub": _hub,
}
