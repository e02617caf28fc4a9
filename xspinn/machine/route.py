"""Which device a block takes, and its way there.

Blocks go to the device with the fewest of them, and a GPU has two at a time: one computes while
another one goes up or comes down.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

import torch

from xspinn.machine.devices import pick_devices
from xspinn.machine.lanes import Lane, store_apart
from xspinn.machine.nesting import inside_turn
from xspinn.machine.worker import place_among

__all__ = ["lane"]

IN_FLIGHT = 2
"""Blocks on one GPU at the same time."""

_lock = threading.Lock()
_running: dict[torch.device, int] = {}
_slots: dict[torch.device, threading.BoundedSemaphore] = {}


@contextlib.contextmanager
def lane(
    asked: str | None,
    place: Callable[[torch.device], torch.device],
    n_bytes: int,
    *,
    turns: bool,
    threads: int | None = None,
) -> Iterator[Lane]:
    """Give a block its lane, on the device with the fewest blocks of those that it may use.

    Parameters
    ----------
    asked : str or None
        As in `predict`.
    place : callable
        Where the model runs, if a device is asked for.
    n_bytes : int
        Of the block's input and sums.
    turns : bool
        Whether blocks take turns: on a CPU in threads of their own, on a GPU on its stream. Those
        of a function, which may itself call `predict`, do not wait for others, and neither do
        those that a model's call runs, since that call has its turn.
    threads : int, optional
        Threads of torch that one call uses on a CPU.
    """
    turns = turns and not inside_turn()
    with _lock:
        devices = list(dict.fromkeys(map(place, pick_devices(asked))))
        first = place_among(len(devices))
        devices = devices[first:] + devices[:first]
        device = min(devices, key=lambda device: _running.get(device, 0))
        _running[device] = _running.get(device, 0) + 1
    try:
        if device.type != "cuda":
            yield Lane(device, store_apart(device, n_bytes), turns, threads)
            return
        # Where there is no GPU, nothing of it is imported.
        from xspinn.machine.cuda import CudaLane

        with _lock:
            slot = _slots.setdefault(device, threading.BoundedSemaphore(IN_FLIGHT))
        with slot if turns else contextlib.nullcontext():
            yield CudaLane(device, store_apart(device, n_bytes), turns)
    finally:
        with _lock:
            _running[device] -= 1
