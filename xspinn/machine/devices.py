"""Where a model runs, and what is there."""

from __future__ import annotations

import contextlib
import functools
import platform
import sys
from pathlib import Path

import torch

from xspinn.errors import PlanError
from xspinn.hooks.torch import cpu_computes_in
from xspinn.machine.allocator import can_keep
from xspinn.machine.threads import cores

__all__ = [
    "check_available",
    "check_device",
    "check_precision_of",
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
        return cpu_computes_in(precision)
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
