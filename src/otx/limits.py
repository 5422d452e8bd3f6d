"""Keep the libraries' threads within a container's CPU quota: all of them follow the CPU affinity, but not all a quota.

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
    """Whether the user has set the number of threads in the environment."""
    return any(name in os.environ for name in CHOSEN_THREADS)


def limit_blas(environment: MutableMapping[str, str] = os.environ) -> None:
    """Limit the BLAS threads of numpy and SciPy to a quota; call it before the import, which starts the threads.

    A value that the user has set stays.
    """
    if has_quota() and "OMP_NUM_THREADS" not in environment:
        environment.setdefault("OPENBLAS_NUM_THREADS", str(available_cores()))


@contextlib.contextmanager
def limited_blas() -> Iterator[None]:
    """Limit BLAS to a quota within the block, in case a program imported numpy before otx (`Engine` in a program)."""
    if not has_quota():
        yield
        return
    from threadpoolctl import threadpool_info, threadpool_limits

    now = max((pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"), default=1)
    with threadpool_limits(min(now, available_cores()), user_api="blas"):
        yield


@contextlib.contextmanager
def one_blas_thread() -> Iterator[None]:
    """Small matrices on one thread: several wait for each other, on a busy machine 20 times as long."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1, user_api="blas"):
        yield


def limit_torch(processes: int = 1) -> None:
    """Limit PyTorch's threads to the processors that this process may use; a lower number stays.

    Args:
        processes: processes of a training on this machine, which share its processors. Child processes of this one
            inherit the limit.
    """
    import torch

    most = available_cores(processes)
    if torch.get_num_threads() > most:
        torch.set_num_threads(most)
    if torch.get_num_interop_threads() > most:
        with contextlib.suppress(RuntimeError):  # they are running already
            torch.set_num_interop_threads(most)
    if processes > 1:
        # Lightning would divide the machine's processors, and not those that a quota allows
        os.environ.setdefault("OMP_NUM_THREADS", str(torch.get_num_threads()))


def openvino_options() -> dict[str, Any]:
    """Properties of OpenVINO's CPU device that keep it within a quota."""
    return {"INFERENCE_NUM_THREADS": available_cores()} if has_quota() else {}


def limit_onnx(options: Any) -> None:
    """Limit the threads of an ONNX Runtime session to a quota; under one they also must not spin while they wait."""
    if has_quota():
        options.intra_op_num_threads = available_cores()
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
