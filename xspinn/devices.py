"""Where a model runs, and how many threads may call it at once."""

from __future__ import annotations

import threading

import torch

from xspinn.errors import PlanError
from xspinn.options import get_options

__all__ = ["call_gate", "check_device", "pick_device"]


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
        return str(torch.device(device))
    except RuntimeError as error:
        raise PlanError(
            f"device={device!r} is not known to torch: give 'cpu', 'cuda', 'cuda:1', or None for "
            "the GPU of the worker where it has one."
        ) from error


def pick_device(device: str | None) -> torch.device:
    """Return the device to use in this process: the one asked for, else a GPU, else the CPU."""
    if device is not None:
        return torch.device(device)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


_gates: dict[int, threading.BoundedSemaphore] = {}


def call_gate() -> threading.BoundedSemaphore:
    """Return the gate that every model call of this process goes through.

    Each call uses all of torch's threads. If every dask thread called the model at the same time,
    dask's threads times torch's threads would fight for the cores and multiply the activations
    in memory.
    """
    calls = get_options()["model_calls"]
    return _gates.setdefault(calls, threading.BoundedSemaphore(calls))
