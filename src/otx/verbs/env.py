"""`otx env`: describe this machine and this installation on one screen, to paste into a bug report.

Libraries are imported in child processes (`probe.py`), several at a time: one that is broken, crashes or hangs becomes
a line of the answer, and does not end it.
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
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from otx.files import check_output, write_json
from otx.machine import available_cores, cpu_quota, memory_limit, visible_cores
from otx.places import cache_folder
from otx.results_machine import Environment
from otx.verbs.libraries import (
    HUB_SECONDS,
    TORCH_FACTS,
    check_pictures,
    knock,
    onnxruntime_providers,
    openvino_devices,
    torch_facts,
)
from otx.verbs.probe import UNKNOWN, Crashed, NoAnswer, ask, attempt, in_words
from otx.verbs.session import Session

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
LONGEST_VALUE = 60
CONTAINERS = {"Docker": Path("/.dockerenv"), "Podman": Path("/run/.containerenv")}
SHARED = Path("/dev/shm")


def run(session: Session, *, output: Path | None) -> Environment:
    """Describe the environment, and write it to `output` if that is given."""
    if output is not None:
        check_output(output, "environments", (".json",), "env.json")
    found = describe_environment(session.work_dir)
    if output is not None:
        write_json(output, found.to_dict())
    return found


def describe_environment(work_dir: Path) -> Environment:
    """Find out everything; a fact that cannot be found out is a line that says why."""
    with ThreadPoolExecutor() as pool:
        asked = {name: pool.submit(attempt, question) for name, question in SLOW.items()}
        found = {name: future.result() for name, future in asked.items()}
    facts = attempt(lambda: _known(found["torch"], "torch"))
    torch = {name: facts if isinstance(facts, NoAnswer) else facts[name] for name in TORCH_FACTS}
    answers: dict[str, Any] = {
        "otx": attempt(lambda: f"{version('otx')}, Python {platform.python_version()}, {sys.executable}"),
        "system": attempt(_system),
        "libraries": attempt(_libraries),
        "processor": attempt(processor_name),
        "instructions": attempt(_instructions),
        "cores": attempt(_cores),
        **torch,
        "OpenVINO": attempt(lambda: ", ".join(_known(found["openvino"], "openvino"))),
        "ONNX Runtime": attempt(lambda: ", ".join(_known(found["onnxruntime"], "onnxruntime"))),
        "images": attempt(lambda: _known(found["images"], "the decoding of images")),
        "memory": attempt(_memory),
        "shared memory": attempt(lambda: _disk(SHARED) if SHARED.exists() else f"there is no {SHARED}"),
        "temporary files": attempt(lambda: _disk(Path(tempfile.gettempdir()))),
        "work folder": attempt(lambda: _disk(work_dir)),
        "open files": attempt(_open_files),
        "otx's cache": attempt(lambda: _folder(cache_folder())),
        "hub's cache": attempt(lambda: _folder(_hub_cache())),
        "hub": found["hub"],
        "started by": attempt(_launcher),
        "variables": attempt(_variables),
    }
    lines = {name: _without_home(in_words(answer)) for name, answer in answers.items()}
    return Environment(lines, tuple(name for name, text in lines.items() if text.startswith(UNKNOWN)))


def _known(answer: Any, what: str) -> Any:
    if isinstance(answer, Crashed):
        raise NoAnswer(f"{what} kills the process that imports it: {answer}")
    if isinstance(answer, NoAnswer):
        raise NoAnswer(f"{what} does not work: {answer}")
    return answer


def _without_home(text: str) -> str:
    """The text with `~` for the home folder, which may contain the user's name."""
    home = os.path.expanduser("~")  # noqa: PTH111 - Path.home() raises if there is none
    return text.replace(home, "~") if len(home) > 1 and home != "~" else text


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
    """Which of the instruction sets that matter the processor has, and which it lacks."""
    entries = _cpuinfo()
    flags = set((entries.get("flags") or entries["Features"]).split())
    wanted = INSTRUCTIONS["x86" if "flags" in entries else "arm"]
    has = [name for name in wanted if name in flags]
    lacks = [name for name in wanted if name not in flags]
    return f"{' '.join(has) or 'none of those that matter'}{'; not ' + ' '.join(lacks) if lacks else ''}"


def _cores() -> str:
    quota = cpu_quota()
    limit = "no quota" if quota is None else f"a quota of {quota:g}"
    return f"{available_cores()} to use ({os.cpu_count()} in the machine, {visible_cores()} allowed, {limit})"


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
    """A folder, or its nearest existing parent."""
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
