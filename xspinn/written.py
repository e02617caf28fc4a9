"""What the run task of a block returns: settled voxels, and sums that wait for neighbours.

A voxel is settled when its block has run, if no neighbour writes into it. It can then be finished
where it was summed up: of many channels one class is left. All other voxels that the block wrote
leave it as sums: the strips of its chunk that neighbours write into, and its spill.

Schedulers unpickle this without running it, so this module does not import torch.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy.typing as npt

from xspinn.axis import Span
from xspinn.plan import Output, Plan

__all__ = ["Box", "Layout", "Written", "meet", "slices"]

Array: TypeAlias = npt.NDArray[Any]
Box: TypeAlias = tuple[Span, ...]
"""One span for every one of the plan's `raw_dims`."""


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


@dataclass(frozen=True, slots=True)
class Layout:
    """Where one block wrote what, for one output: boxes within its write box.

    Attributes
    ----------
    box : tuple of tuple of int
        The whole write box; it begins at 0 along every dim.
    chunk : tuple of tuple of int
        The block's own chunk.
    settled : tuple of tuple of int, or None
        What is finished when the block has run.
    open : tuple of tuple of tuple of int
        What leaves the block as sums: with `settled` they are the write box, and no two of them
        meet.
    """

    box: Box
    chunk: Box
    settled: Box | None
    open: tuple[Box, ...]

    @classmethod
    def of(cls, plan: Plan, output: Output, block: Sequence[int]) -> Layout:
        """Lay out what a block writes.

        Parameters
        ----------
        plan : Plan
        output : Output
            One of the plan's.
        block : sequence of int
            Its place in the plan's `block_grid`.
        """
        box: dict[str | None, Span] = {None: (0, output.channels or 1)}
        for loop, k in zip(plan.loops, block, strict=False):
            box[loop.dim] = (0, loop.chunks[k])
        chunk, settled = dict(box), dict(box)
        for p, k in zip(plan.footprints(output), block[len(plan.loops) :], strict=True):
            origin, end = p.writes[k]
            box[p.axis.dim] = (0, end - origin)
            chunk[p.axis.dim] = (p.bounds[k] - origin, p.bounds[k + 1] - origin)
            first, stop = p.settled[k]
            settled[p.axis.dim] = (first - origin, stop - origin)
        whole, own, done = (tuple(d[dim] for dim in plan.raw_dims) for d in (box, chunk, settled))
        # Where a voxel's answer is as large as its sums, it gains nothing to finish a part at once.
        waits = plan.spills(output) and not plan.rule.classes
        if waits or any(hi <= lo for lo, hi in done):
            return cls(whole, own, None, (whole,))
        return cls(whole, own, done, _around(whole, done))


def _around(outer: Box, inner: Box) -> tuple[Box, ...]:
    """Cut what `inner` leaves of `outer` into boxes."""
    return tuple(
        (*inner[:k], span, *outer[k + 1 :])
        for k, ((lo, hi), (first, stop)) in enumerate(zip(outer, inner, strict=True))
        for span in ((lo, first), (stop, hi))
        if span[0] < span[1]
    )


def meet(one: Box, other: Box) -> Box:
    """Return where two boxes meet; spans that end where they begin, or before, hold nothing."""
    return tuple((max(a, c), min(b, d)) for (a, b), (c, d) in zip(one, other, strict=True))


def slices(box: Box, within: Box) -> tuple[slice, ...]:
    """Return the slices that cut a box out of an array of another one."""
    pairs = zip(box, within, strict=True)
    return tuple(slice(lo - start, hi - start) for (lo, hi), (start, _) in pairs)
