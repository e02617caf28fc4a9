"""A block on a GPU: one way up and one way down, both hidden behind the work of another block.

Every GPU has one stream for compute and one for each direction of copies. A block goes up through
pinned memory on a stream of its own while the block before it computes; its kernels then queue up
on the compute stream, and its results come down while the next block computes. Nothing waits for
the device but the thread that needs the results.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy.typing as npt
import torch

from xspinn.machine.lanes import Lane, T
from xspinn.machine.nesting import holding

__all__ = ["CudaLane"]


@dataclass
class _Streams:
    compute: torch.cuda.Stream
    up: torch.cuda.Stream
    down: torch.cuda.Stream
    lock: threading.RLock = field(default_factory=threading.RLock)
    """Held while a block's kernels are queued, so that blocks follow each other."""


_streams: dict[torch.device, _Streams] = {}
_lock = threading.Lock()


def _streams_of(device: torch.device) -> _Streams:
    with _lock:
        if device not in _streams:
            _streams[device] = _new_streams(device)
        return _streams[device]


def _new_streams(device: torch.device) -> _Streams:
    stream: Any = torch.cuda.Stream
    return _Streams(stream(device), stream(device), stream(device))


class CudaLane(Lane):
    """The way of one block to a GPU and back."""

    def __init__(self, device: torch.device, apart: bool, turns: bool = True) -> None:
        super().__init__(device, apart, turns)
        # A block that waits for nobody has streams of its own.
        self.streams = _streams_of(device) if turns else _new_streams(device)
        self.arrived: list[torch.cuda.Event] = []
        self.inside = False
        self.done: torch.cuda.Event | None = None

    def compute(self, work: Callable[[], T]) -> T:
        """Queue up on the compute stream, after what went up for this block."""
        streams = self.streams
        turn = holding(self.device) if self.turns else contextlib.nullcontext()
        on_stream = torch.cuda.stream(streams.compute)
        with streams.lock, turn, torch.cuda.device(self.device), on_stream:
            self.inside = True
            self._meet()
            try:
                return work()
            finally:
                self.inside = False
                self.done = streams.compute.record_event()

    def up(self, tensor: torch.Tensor) -> torch.Tensor:
        """Take a tensor up through pinned memory; compute waits for it on the device."""
        if tensor.device.type == "cuda":
            # What made it may still be at work, on a stream that is not one of ours.
            self.arrived.append(torch.cuda.current_stream(tensor.device).record_event())
            if tensor.device != self.device:
                self.arrived.pop().synchronize()
                return tensor.to(self.device)
            tensor.record_stream(self.streams.compute)
            return tensor
        with torch.cuda.device(self.device), torch.cuda.stream(self.streams.up):
            # torch keeps pinned memory for the next block, and not before the copy is done.
            moved = tensor.contiguous().pin_memory().to(self.device, non_blocking=True)
            self.arrived.append(self.streams.up.record_event())
        moved.record_stream(self.streams.compute)
        if self.inside:
            self._meet()
        return moved

    def down(self, tensor: torch.Tensor) -> Callable[[], torch.Tensor]:
        """Begin to take a tensor down into pinned memory, when compute is done with it."""
        if tensor.device.type != "cuda":
            return lambda: tensor
        after = self.streams.compute.record_event() if self.inside else self.done
        with torch.cuda.device(self.device), torch.cuda.stream(self.streams.down):
            if after is not None:
                self.streams.down.wait_event(after)
            held = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            held.copy_(tensor, non_blocking=True)
            copied = self.streams.down.record_event()
        tensor.record_stream(self.streams.down)

        def wait() -> torch.Tensor:
            copied.synchronize()
            return held

        return wait

    def download(self, tensors: Sequence[torch.Tensor]) -> list[npt.NDArray[Any]]:
        """Take results down; they leave pinned memory, which is scarce, to the next block."""
        arrays = zip(tensors, super().download(tensors), strict=True)
        return [array.copy() if t.device.type == "cuda" else array for t, array in arrays]

    def _meet(self) -> None:
        for event in self.arrived:
            self.streams.compute.wait_event(event)
        self.arrived.clear()
