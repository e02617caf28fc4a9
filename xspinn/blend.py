"""Sum what blocks wrote into each other's chunks: thin strips, passed on as soon as they exist.

A block's weights begin inside its chunk, so it writes into the chunks after its own and not into
those before. Run in C order, whatever a block waits for is done before it: finished blocks are
handed on at once, and only strips wait, those of one plane of blocks. (The ramp of an output that
is coarser than the input is wider there and may begin before the chunk: then a block waits for its
later neighbours too.)
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, TypeAlias

import dask.array as da
import numpy as np
import numpy.typing as npt
from dask._task_spec import Task, TaskRef
from dask.delayed import Delayed
from dask.highlevelgraph import HighLevelGraph

from xspinn.finishing import finish
from xspinn.job import Job
from xspinn.plan import Plan
from xspinn.written import Box, Layout, Written, meet, slices

__all__ = ["blend"]

Array: TypeAlias = npt.NDArray[Any]
Index: TypeAlias = tuple[int, ...]
Strips: TypeAlias = tuple[Index, dict[Index, Array]]
"""A block, and for every neighbour what the block wrote into its chunk."""


def blend(plan: Plan, number: int, ran: da.Array, job: Delayed, token: str) -> da.Array:
    """Add the strips and the blend tasks of every block, for one output.

    Parameters
    ----------
    plan : Plan
    number : int
        Which of the plan's outputs.
    ran : dask.array.Array
        What blocks wrote: tuples of `Written`, one for every output.
    job : Delayed
        The job, which all tasks share.
    token : str
        Identifies the run.

    Returns
    -------
    dask.array.Array
    """
    output = plan.outputs[number]
    exchange = _exchange(plan, number)
    suffix = token if output.name is None else f"{output.name}-{token}"
    name, strips = f"spinn-blend-{suffix}", f"spinn-strips-{suffix}"
    kept = [output.dim is not None or dim is not None for dim in plan.raw_dims]
    blocks = exchange.blocks()
    order = _Order(f"spinn-order-{suffix}", len(blocks))
    layer: dict[Any, Task] = dict(order.tasks)
    for place, index in enumerate(blocks):
        written = TaskRef((ran.name, *index))
        needs: list[tuple[Any, ...]] = [
            (strips, exchange.far(other, index), *other) for other in exchange.sources(index)
        ]
        needs += order.needs(place)
        fars = sorted({exchange.far(index, other) for other in exchange.targets(index)})
        # Its own strips for the next plane, or they would keep the whole block until then.
        needs += [(strips, far, *index) for far in fars if far]
        key = (name, *itertools.compress(index, kept))
        layer[key] = Task(
            key, _blend, TaskRef(job.key), number, index, written, *map(TaskRef, needs)
        )
        for far in fars:
            key = (strips, far, *index)
            layer[key] = Task(key, _strips, TaskRef(job.key), number, index, far, written)
    collections: Any = [ran, job]
    graph = HighLevelGraph.from_collections(name, layer, dependencies=collections)
    chunks = plan.chunks(output)
    return da.Array(graph, name, chunks, meta=np.empty((0,) * len(chunks), output.dtype))


class _Order:
    """A few tasks that do nothing, so that dask runs blocks in C order.

    dask starts with the task that has the most others below it, counted all the way down. Left
    to itself it starts at the far end and waits everywhere at once, with a tenth of all blocks in
    memory. So each blend is given fewer tasks below it than the blend before: level k of these
    tasks stands on all those of the levels under it, and so counts about 2 ** k.
    """

    SHIFT = 4  # the least difference, 2 ** 4, outweighs the strips of a block's neighbours

    def __init__(self, name: str, blocks: int) -> None:
        self.name, self.blocks = name, blocks
        self.tasks: dict[Any, Task] = {}
        below: list[TaskRef] = []
        for level in range(blocks.bit_length() + self.SHIFT):
            keys = [(name, level, twin) for twin in (0, 1)]
            self.tasks.update({key: Task(key, _nothing, *below) for key in keys})
            below = [TaskRef(key) for key in keys]

    def needs(self, place: int) -> list[tuple[Any, ...]]:
        """Keys that the blend at this place names as dependencies."""
        rank = self.blocks - 1 - place
        levels = (level for level in range(rank.bit_length()) if rank >> level & 1)
        return [(self.name, level + self.SHIFT, 0) for level in levels]


def _nothing(*_: None) -> None:
    return None


@lru_cache(maxsize=32)
def _exchange(plan: Plan, number: int) -> Exchange:
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


def _strips(job: Job, number: int, index: Index, far: int, written: tuple[Written, ...]) -> Strips:
    """Copy what a block wrote into its neighbours' chunks; copies let go of the block."""
    exchange = _exchange(job.plan, number)
    others = [other for other in exchange.targets(index) if exchange.far(index, other) == far]
    cuts = {other: exchange.meeting(index, other)[0] for other in others}
    layout, sums = exchange.layout(index), written[number].sums
    return index, {other: _gather(layout, sums, box) for other, box in cuts.items()}


def _gather(layout: Layout, sums: Sequence[Array], box: Box) -> Array:
    """Copy a box out of the sums that left a block, which may cut it into several."""
    found = np.empty([hi - lo for lo, hi in box], sums[0].dtype)
    for place, piece in zip(layout.open, sums, strict=True):
        both = meet(place, box)
        if _filled(both):
            found[slices(both, box)] = piece[slices(both, place)]
    return found


def _blend(
    job: Job, number: int, index: Index, written: tuple[Written, ...], *needs: Strips | None
) -> Array:
    """Sum the neighbours' strips into a block's chunk and finish it."""
    exchange, plan = _exchange(job.plan, number), job.plan
    layout, own = exchange.layout(index), written[number]
    add = np.maximum if plan.rule.reduce == "max" else np.add
    # What it was only to be run after comes along: None, and its own strips, which are not for it.
    strips = [
        (exchange.meeting(writer, index)[1], cut[index])
        for writer, cut in filter(None, needs)
        if index in cut
    ]
    done = [] if own.settled is None or layout.settled is None else [(layout.settled, own.settled)]
    for place, sums in zip(layout.open, own.sums, strict=True):
        box = meet(place, layout.chunk)
        if not _filled(box):
            continue
        total = sums[slices(box, place)]
        if strips:
            total = total.copy()  # what another task returned is never changed
        for where, strip in strips:
            both = meet(where, box)
            if _filled(both):
                at = slices(both, box)
                add(total[at], strip[slices(both, where)], out=total[at])
        done.append((box, finish(plan, exchange.output, total)))
    if len(done) == 1:
        return done[0][1]
    kept = [exchange.output.dim is not None or dim is not None for dim in plan.raw_dims]
    shape = itertools.compress((hi - lo for lo, hi in layout.chunk), kept)
    result = np.empty(tuple(shape), exchange.output.dtype)
    for box, values in done:
        result[tuple(itertools.compress(slices(box, layout.chunk), kept))] = values
    return result


def _filled(box: Box) -> bool:
    return all(lo < hi for lo, hi in box)
