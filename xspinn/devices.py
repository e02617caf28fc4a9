"""Where a model runs, and how many threads may call it at once."""

from __future__ import annotations

import contextlib
import os
import sys
import threading

import torch

from xspinn.errors import PlanError
from xspinn.options import get_options

__all__ = ["call_gate", "check_available", "check_device", "pick_device"]


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
    if device is not None:
        return torch.device(device)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


_gates: dict[tuple[str, int], threading.BoundedSemaphore] = {}


def call_gate(device: torch.device) -> threading.BoundedSemaphore:
    """Return the gate that every call of a kept model on this device goes through.

    If every dask thread called the model at the same time, dask's threads times torch's threads
    would fight for the cores, and activations would multiply in memory.
    """
    calls = get_options()["model_calls"] or _calls(device)
    return _gates.setdefault((str(device), calls), threading.BoundedSemaphore(calls))


def _calls(device: torch.device) -> int:
    """How many calls keep the cores busy: one where torch uses all of them, more where it may not.

    A distributed worker's nanny allows torch one thread, and the worker has threads of its own.
    """
    if device.type != "cpu":
        return 1
    calls = max(1, (os.cpu_count() or 1) // torch.get_num_threads())
    distributed = sys.modules.get("distributed")
    if distributed is not None:
        with contextlib.suppress(ValueError):  # not on a worker
            calls = min(calls, int(distributed.get_worker().state.nthreads))
    return calls
