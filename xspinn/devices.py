"""Where a model runs, and how many threads may call it at once."""

from __future__ import annotations

import contextlib
import contextvars
import functools
import os
import platform
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import torch

from xspinn.allocator import can_keep
from xspinn.errors import PlanError
from xspinn.options import get_options

__all__ = [
    "call_gate",
    "calls_at_once",
    "check_available",
    "check_device",
    "check_precision_of",
    "cores",
    "limited",
    "machine_kind",
    "pick_device",
    "pick_devices",
]


def check_device(device: str | None) -> str | None:
    """Return the name of a device in torch's words, or None for the worker's best.

    Raises
    ------
    PlanError
        If torch does not know such a device. Whether a worker has it is seen there.
    """
    if device is None:
        return None
    try:
        known = torch.device(device)
        if known.type == "meta":
            raise RuntimeError("it holds no values")
        return str(known)
    except (RuntimeError, TypeError) as error:
        raise PlanError(
            f"device={device!r} is not known to torch: give 'cpu', 'cuda', 'cuda:1', or None for "
            "the GPU of the worker where it has one."
        ) from error


def check_available(device: str | None) -> None:
    """Refuse a device that this process does not have, where it is this process that will run."""
    try:
        torch.empty(0, device=pick_device(device))
    except (RuntimeError, AssertionError) as error:
        raise PlanError(f"device={device!r} is not there: {error}.") from error


def pick_device(device: str | None) -> torch.device:
    """Return the device to use in this process: the one asked for, else a GPU, else the CPU."""
    return pick_devices(device)[0]


def pick_devices(device: str | None) -> list[torch.device]:
    """Return all devices that blocks of this process may use.

    They are the one asked for, else all GPUs that the process sees, else the CPU. An index counts
    the GPUs that the process sees, never those of the machine: workers that see one GPU each all
    have theirs at 0. Workers of dask-cuda see the GPUs of their neighbours behind their own.
    """
    asked = None if device is None else torch.device(device)
    gpus = asked is None and torch.cuda.is_available()
    if not gpus and not (asked is not None and asked.type == "cuda" and asked.index is None):
        return [asked or torch.device("cpu")]
    own = torch.device("cuda", torch.cuda.current_device())
    if "dask_cuda" in sys.modules:
        return [own]
    others = (torch.device("cuda", k) for k in range(torch.cuda.device_count()))
    return list(dict.fromkeys([own, *others]))


_A = TypeVar("_A")
_B = TypeVar("_B")

_gates: dict[tuple[str, int], threading.BoundedSemaphore] = {}


def call_gate(
    device: torch.device, threads: int | None = None
) -> contextlib.AbstractContextManager[object]:
    """Return the gate that every call of a kept model on this device goes through.

    If every dask thread called the model at the same time, dask's threads times torch's threads
    would fight for the cores, and activations would multiply in memory.

    Parameters
    ----------
    device : torch.device
    threads : int, optional
        Threads that one call uses; torch's own number without it.
    """
    calls = calls_at_once(device, threads)
    return _gates.setdefault((str(device), calls), threading.BoundedSemaphore(calls))


def calls_at_once(device: torch.device, threads: int | None = None) -> int:
    """How many calls may run at the same time: the option `model_calls`, if it is set."""
    return get_options()["model_calls"] or _calls(device, threads)


def _calls(device: torch.device, threads: int | None = None) -> int:
    """How many calls keep the cores busy: one where torch uses all of them, more where it may not.

    A distributed worker's nanny allows torch one thread, and the worker has threads of its own.
    """
    if device.type != "cpu":
        return 1
    calls = max(1, cores() // (threads or torch.get_num_threads()))
    distributed = sys.modules.get("distributed")
    if distributed is not None:
        with contextlib.suppress(ValueError):  # not on a worker
            calls = min(calls, int(distributed.get_worker().state.nthreads))
    return calls


def cores() -> int:
    """Cores that this process may use, which on a shared machine are fewer than it has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


_pools: dict[int, ThreadPoolExecutor] = {}
_pools_lock = threading.Lock()


def limited(call: Callable[[_A], _B], threads: int | None) -> Callable[[_A], _B]:
    """Let calls use so many of torch's threads; None leaves them as they are.

    They run in threads of their own. torch keeps this number for each thread, but also what new
    threads begin with, so setting it in threads of others would spread.
    """
    if threads is None:
        return call

    def run(batch: _A) -> _B:
        here = contextvars.copy_context()
        return _pool(threads).submit(here.run, call, batch).result()

    return run


def _pool(threads: int) -> ThreadPoolExecutor:
    with _pools_lock:
        if threads not in _pools:
            own, size = torch.get_num_threads(), max(1, cores() // threads)
            _pools[threads] = ThreadPoolExecutor(
                size, "spinn-threads", lambda: torch.set_num_threads(threads)
            )
            started = threading.Barrier(size + 1)
            for _ in range(size):
                _pools[threads].submit(started.wait)
            started.wait()
            torch.set_num_threads(own)  # what new threads begin with
        return _pools[threads]


def check_precision_of(precision: str, device: torch.device) -> None:
    """Refuse a precision that a device does not compute in.

    Raises
    ------
    PlanError
        If it lacks it, or only imitates it, which is slower than float32.
    """
    if precision == "float32" or _has(precision, device):
        return
    others = [other for other in ("bf16", "fp16") if other != precision and _has(other, device)]
    raise PlanError(
        f"precision={precision!r}: {_named(device)} does not compute in it; give "
        f"{' or '.join(map(repr, [*others, 'float32']))}."
    )


def _has(precision: str, device: torch.device) -> bool:
    if device.type == "cuda":
        return precision == "fp16" or torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        name = "_is_mkldnn_bf16_supported" if precision == "bf16" else "_is_mkldnn_fp16_supported"
        ask = getattr(torch.ops.mkldnn, name, None)
        return ask is not None and bool(ask())
    return precision == "fp16"


def machine_kind(device: str | None) -> str:
    """Describe what the speed of a model depends on besides the model: hardware, torch, threads."""
    where = pick_device(device)
    threads = f"{torch.get_num_threads()} of {cores()} cores"
    keeps = "memory can be kept" if can_keep() else ""
    tf32 = f"TF32 {torch.backends.cudnn.allow_tf32}" if where.type == "cuda" else ""
    parts = [_named(where), platform.machine(), f"torch {torch.__version__}", threads, keeps, tf32]
    return "; ".join(part for part in parts if part)


def _named(device: torch.device) -> str:
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    return _processor() if device.type == "cpu" else str(device)


@functools.cache
def _processor() -> str:
    """Name of the processor, and what torch makes use of in it."""
    name = platform.processor()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((line.split(":")[1].strip() for line in lines if "model name" in line), name)
    return f"the CPU ({name or 'unknown'}, {torch.backends.cpu.get_cpu_capability()})"
