"""Which blocks write into which chunks, and where: all that an engine must know to pass strips.

A block's weights begin inside its chunk, so it writes into the chunks after its own and not into
those before. Run in C order, whatever a block waits for is done before it. (The ramp of an output
that is coarser than the input is wider there and may begin before the chunk: then a block waits
for its later neighbours too.)
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

from xspinn.geometry.boxes import Box, Span, around, meet
from xspinn.plans.parts import Output
from xspinn.plans.plan import Plan

__all__ = ["Exchange", "Index", "Layout", "exchange_of"]

Index: TypeAlias = tuple[int, ...]
"""Place of a block along the plan's `raw_dims`."""


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
        return cls(whole, own, done, around(whole, done))


@lru_cache(maxsize=32)
def exchange_of(plan: Plan, number: int) -> Exchange:
    """Return the exchange of one of a plan's outputs, made once."""
    return Exchange(plan, number)


class Exchange:
    """Which blocks write into which chunks, for one output; blocks by place along the raw dims."""

    def __init__(self, plan: Plan, number: int) -> None:
        self.plan, self.output = plan, plan.outputs[number]
        prints = {p.axis.dim: p for p in plan.footprints(plan.outputs[number])}
        parts = {part.dim: part for part in plan.parts}
        self.prints = [None if dim is None else prints.get(dim) for dim in plan.raw_dims]
        core = {axis.dim for axis in plan.axes}
        # Strips for the next plane of a volume wait much longer than those for the same plane.
        planes = [k for k, dim in enumerate(plan.raw_dims) if dim in core]
        self.plane = planes[0] if len(planes) > 2 else None
        self.grid = [1 if dim is None else len(parts[dim].chunks) for dim in plan.raw_dims]

    def blocks(self) -> list[Index]:
        """All blocks, in C order."""
        return list(itertools.product(*map(range, self.grid)))

    def sources(self, index: Index) -> list[Index]:
        """Other blocks that write into the chunk of this one."""
        return self._others(index, [p.sources if p else None for p in self.prints])

    def targets(self, index: Index) -> list[Index]:
        """Other blocks into whose chunks this one writes."""
        return self._others(index, [p.targets if p else None for p in self.prints])

    def _others(self, index: Index, near: Sequence[Sequence[Index] | None]) -> list[Index]:
        """All combinations of what is near a block along each dim, but for the block itself."""
        places = [(k,) if n is None else n[k] for n, k in zip(near, index, strict=True)]
        return [other for other in itertools.product(*places) if other != index]

    def far(self, writer: Index, owner: Index) -> int:
        """Whether two blocks lie in different planes, 1, or not, 0."""
        return int(self.plane is not None and writer[self.plane] != owner[self.plane])

    def layout(self, index: Index) -> Layout:
        """Where a block wrote what."""
        return Layout.of(self.plan, self.output, self.plan.block_at(index))

    def meeting(self, writer: Index, owner: Index) -> tuple[Box, Box]:
        """Where a write box and a chunk meet: within the writer's write box, and the owner's."""
        origins = [
            [0 if p is None else p.writes[k][0] for p, k in zip(self.prints, index, strict=True)]
            for index in (writer, owner)
        ]
        shifts = [a - b for a, b in zip(*origins, strict=True)]
        theirs = self.layout(owner).chunk
        chunk = tuple((lo - s, hi - s) for (lo, hi), s in zip(theirs, shifts, strict=True))
        box = meet(self.layout(writer).box, chunk)
        return box, tuple((lo + s, hi + s) for (lo, hi), s in zip(box, shifts, strict=True))
