"""How a block gets to a device, and its results back.

A block and its sums are on the device as a whole, or *apart*: in the host's memory, while batches
of patches go to the device and their results come back, one batch late so that the next one runs
meanwhile. On the CPU all of this is done, too, without copies; `xspinn.machine.cuda` does the
same with streams and pinned memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from xspinn.machine.allocator import give_back
from xspinn.machine.threads import in_turn
from xspinn.options import get_options

__all__ = ["Lane", "T", "store_apart"]

HOST = torch.device("cpu")

T = TypeVar("T")
Answers: TypeAlias = Sequence[tuple[Any, torch.Tensor]]


class Lane:
    """The way of one block to a device and back.

    Attributes
    ----------
    device : torch.device
        Where the model runs.
    store : torch.device
        Where the block and its sums are.
    """

    def __init__(
        self,
        device: torch.device,
        apart: bool,
        turns: bool = False,
        threads: int | None = None,
    ) -> None:
        self.device, self.apart, self.turns, self.threads = device, apart, turns, threads
        self.store = HOST if apart else device

    # What a device does in its own way.

    def compute(self, work: Callable[[], T]) -> T:
        """Do all work on the device between upload and download.

        Where blocks take turns, each gives back what its activations took before the next one
        begins.
        """

        def alone() -> T:
            try:
                return work()
            finally:
                give_back()

        if not self.turns:
            return alone()
        return in_turn(self.device, alone, self.threads, stay=True)

    def up(self, tensor: torch.Tensor) -> torch.Tensor:
        """Take a tensor to the device."""
        return tensor.to(self.device)

    def down(self, tensor: torch.Tensor) -> Callable[[], torch.Tensor]:
        """Begin to take a tensor to the host; return what waits for it."""
        return lambda: tensor.to(HOST)

    # What all do alike.

    def upload(self, block: torch.Tensor) -> torch.Tensor:
        """Take a block to where it is stored."""
        return block.to(HOST) if self.apart else self.up(block)

    def feed(self, patches: torch.Tensor) -> torch.Tensor:
        """Take patches from there to the device."""
        return self.up(patches) if self.apart else patches

    def fetched(self, answers: Iterable[tuple[T, Answers]]) -> Iterator[tuple[T, Answers]]:
        """Hand on what the model answers, where the sums are.

        Parameters
        ----------
        answers : iterable
            Pairs of a batch, and the named tensors that the model returned for it; the next pair
            is asked for when the next batch shall run.
        """
        if not self.apart:
            yield from answers
            return
        waiting: tuple[T, list[tuple[Any, Callable[[], torch.Tensor]]]] | None = None
        for batch, named in answers:
            begun = batch, [(name, self.down(tensor)) for name, tensor in named]
            if waiting is not None:
                yield waiting[0], [(name, wait()) for name, wait in waiting[1]]
            waiting = begun
        if waiting is not None:
            yield waiting[0], [(name, wait()) for name, wait in waiting[1]]

    def download(self, tensors: Sequence[torch.Tensor]) -> list[npt.NDArray[Any]]:
        """Take results to the host, all at once."""
        waits = [self.down(tensor) for tensor in tensors]
        return [np.asarray(wait().numpy()) for wait in waits]


def store_apart(device: torch.device, n_bytes: int) -> bool:
    """Decide whether a block of so many bytes of input and sums stays in the host's memory.

    By arithmetic and before anything runs: the option `device_bytes`, or a quarter of a GPU's
    memory, since two blocks are there at a time and the model needs the rest.
    """
    budget = get_options()["device_bytes"]
    if budget is None and device.type == "cuda":
        budget = torch.cuda.get_device_properties(device).total_memory // 4
    return budget is not None and n_bytes > budget
