"""What the run task of a block returns: settled voxels, and sums that wait for neighbours.

A voxel is settled when its block has run, if no neighbour writes into it. It can then be finished
where it was summed up: of many channels one class is left. All other voxels that the block wrote
leave it as sums: the strips of its chunk that neighbours write into, and its spill.

Schedulers unpickle this without running it, so this module does not import torch.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy.typing as npt

__all__ = ["Array", "Written"]

Array: TypeAlias = npt.NDArray[Any]


@dataclass(frozen=True, slots=True, eq=False)
class Written:
    """What one block wrote, for one output.

    Attributes
    ----------
    settled : numpy.ndarray or None
        Finished voxels of the layout's `settled` box, dims as in the plan's `result_dims`.
    sums : tuple of numpy.ndarray
        Sums of the layout's `open` boxes, dims as in the plan's `raw_dims`.
    """

    settled: Array | None
    sums: tuple[Array, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        own = 0 if self.settled is None else self.settled.nbytes
        return own + sum(array.nbytes for array in self.sums)

    def __sizeof__(self) -> int:
        # By this distributed weighs what a worker holds.
        return object.__sizeof__(self) + sys.getsizeof(self.sums) + self.nbytes
