"""Threads of the libraries, within what a container allows: they follow the CPU affinity, but not every one a quota.

Threads beyond a quota use it up sooner; then all of them stand still until the next period (usually 0.1 s).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, MutableMapping
from typing import Any

from otx.machine import available_cores, visible_cores

CHOSEN_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


def has_quota() -> bool:
    """Whether this process may use fewer processors than it sees."""
    return available_cores() < visible_cores()


def is_thread_count_chosen() -> bool:
    """Whether a person has said in the environment with how many threads to compute."""
    return any(name in os.environ for name in CHOSEN_THREADS)


def limit_blas(environment: MutableMapping[str, str] = os.environ) -> None:
    """Let numpy's and SciPy's matrix products keep to a quota; called before they are imported, as they start threads.

    What a person has set stays.
    """
    if has_quota() and "OMP_NUM_THREADS" not in environment:
        environment.setdefault("OPENBLAS_NUM_THREADS", str(available_cores()))


@contextlib.contextmanager
def limited_blas() -> Iterator[None]:
    """Matrix products within a quota, where numpy was imported by somebody else (`Engine` in a program)."""
    if not has_quota():
        yield
        return
    from threadpoolctl import threadpool_info, threadpool_limits

    now = max((pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"), default=1)
    with threadpool_limits(min(now, available_cores()), user_api="blas"):
        yield


def limit_torch(processes: int = 1) -> None:
    """Let PyTorch compute with no more threads than there are processors for this process; fewer stay fewer.

    Args:
        processes: processes of a training on this machine, which share its processors. Those started from this one
            follow it, too.
    """
    import torch

    most = available_cores(processes)
    if torch.get_num_threads() > most:
        torch.set_num_threads(most)
    if torch.get_num_interop_threads() > most:
        with contextlib.suppress(RuntimeError):  # they were started by somebody else before
            torch.set_num_interop_threads(most)
    if processes > 1:
        # Lightning would share out what the machine has, and not what a quota leaves
        os.environ.setdefault("OMP_NUM_THREADS", str(torch.get_num_threads()))


def openvino_options() -> dict[str, Any]:
    """Properties of OpenVINO's CPU device that keep it within a quota."""
    return {"INFERENCE_NUM_THREADS": available_cores()} if has_quota() else {}


def limit_onnx(options: Any) -> None:
    """Set the threads of an ONNX Runtime session: within a quota, and there without waiting at full speed."""
    if has_quota():
        options.intra_op_num_threads = available_cores()
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
