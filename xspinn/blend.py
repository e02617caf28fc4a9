"""Sum what blocks wrote into each other's chunks: thin strips, passed on as soon as they exist.

A block's weights begin inside its chunk, so it writes into the chunks after its own and never
into those before. In C order of the blocks, all that a block waits for is then done before it:
finished blocks are handed on at once, and only strips wait.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from typing import Any, TypeAlias

import dask.array as da
import numpy as np
import numpy.typing as npt
from dask._task_spec import Task, TaskRef
from dask.delayed import Delayed
from dask.highlevelgraph import HighLevelGraph, Layer, MaterializedLayer

from xspinn.block import Job
from xspinn.plan import Plan
from xspinn.sums import finish

__all__ = ["blend"]

Array: TypeAlias = npt.NDArray[Any]
Index: TypeAlias = tuple[int, ...]
Strips: TypeAlias = tuple[Index, dict[Index, Array]]
"""A block, and for every neighbour what the block wrote into its chunk."""


def blend(plan: Plan, number: int, ran: da.Array, job: Delayed, token: str) -> da.Array:
    """Add the strips and the blend task of every block, for one output.

    Parameters
    ----------
    plan : Plan
    number : int
        Which of the plan's outputs.
    ran : dask.array.Array
        What blocks wrote: tuples of sums, one for every output.
    job : Delayed
        The job, which all tasks share.
    token : str
        Identifies the run.

    Returns
    -------
    dask.array.Array
    """
    output = plan.outputs[number]
    exchange = Exchange(plan, number)
    suffix = token if output.name is None else f"{output.name}-{token}"
    name, strips = f"spinn-blend-{suffix}", f"spinn-strips-{suffix}"
    kept = [output.dim is not None or dim is not None for dim in plan.raw_dims]
    layer: dict[Any, Task] = {}
    following: dict[Any, Task] = {}
    last: tuple[Any, ...] | None = None
    for index in exchange.blocks():
        key = (name, *itertools.compress(index, kept))
        sums = TaskRef((ran.name, *index))
        needs: list[tuple[Any, ...]] = [(strips, *other) for other in exchange.sources(index)]
        call = (_blend, TaskRef(job.key), number, index, sums)
        layer[key] = Task(key, *call, *(TaskRef(need) for need in needs))
        if index[-1] == 0 and last is not None and last not in needs:
            following[key] = Task(key, *call, *(TaskRef(need) for need in (*needs, last)))
        if exchange.targets(index):
            last = (strips, *index)
            layer[last] = Task(last, _strips, TaskRef(job.key), number, index, sums)
    collections: Any = [ran, job]
    graph = HighLevelGraph.from_collections(name, layer, dependencies=collections)
    graph.layers[name] = _InOrder(layer, following)  # type: ignore[index]
    chunks = plan.chunks(output)
    return da.Array(graph, name, chunks, meta=np.empty((0,) * len(chunks), output.dtype))


class _InOrder(MaterializedLayer):
    """The tasks of a blend; if all of them are wanted, then row after row.

    dask runs first what needs the fewest new blocks. Left to itself it would walk along all faces
    of the array at once, and all their strips would wait. So the first block of a row also names
    the strips of the row before as a dependency, unless only some blocks are wanted, which must
    not bring in others.
    """

    def __init__(self, tasks: dict[Any, Task], following: dict[Any, Task]) -> None:
        super().__init__({**tasks, **following})
        self.tasks = tasks

    def cull(
        self, keys: set[Any], all_hlg_keys: Collection[Any]
    ) -> tuple[Layer, Mapping[Any, set[Any]]]:
        """Keep what is wanted; without the order of rows if that is not all."""
        if all(key in keys for key in self.tasks if key[0].startswith("spinn-blend-")):
            return self, {key: set(task.dependencies) for key, task in self.mapping.items()}
        return MaterializedLayer(self.tasks).cull(keys, all_hlg_keys)


class Exchange:
    """Which blocks write into which chunks, for one output; blocks by place along the raw dims."""

    def __init__(self, plan: Plan, number: int) -> None:
        prints = {p.axis.dim: p for p in plan.footprints(plan.outputs[number])}
        parts = {part.dim: part for part in plan.parts}
        self.prints = [None if dim is None else prints.get(dim) for dim in plan.raw_dims]
        self.grid = [1 if dim is None else len(parts[dim].chunks) for dim in plan.raw_dims]

    def blocks(self) -> list[Index]:
        """All blocks, in C order."""
        return list(itertools.product(*map(range, self.grid)))

    def sources(self, index: Index) -> list[Index]:
        """Other blocks that write into the chunk of this one."""
        near = [
            (k,) if p is None else p.sources[k] for p, k in zip(self.prints, index, strict=True)
        ]
        return [other for other in itertools.product(*near) if other != index]

    def targets(self, index: Index) -> list[Index]:
        """Other blocks into whose chunks this one writes."""
        near = [
            (k,) if p is None else p.targets[k] for p, k in zip(self.prints, index, strict=True)
        ]
        return [other for other in itertools.product(*near) if other != index]

    def meeting(
        self, writer: Sequence[int], owner: Sequence[int]
    ) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
        """Where a write box and a chunk meet: in the box, and in the chunk."""
        box, chunk = [], []
        for p, j, k in zip(self.prints, writer, owner, strict=True):
            if p is None:
                box.append(slice(None))
                chunk.append(slice(None))
                continue
            (lo, hi), a, b = p.writes[j], p.bounds[k], p.bounds[k + 1]
            box.append(slice(max(lo, a) - lo, min(hi, b) - lo))
            chunk.append(slice(max(lo, a) - a, min(hi, b) - a))
        return tuple(box), tuple(chunk)


_exchange = lru_cache(maxsize=32)(Exchange)


def _strips(job: Job, number: int, index: Index, sums: tuple[Array, ...]) -> Strips:
    """Copy what a block wrote into its neighbours' chunks; copies let go of the block."""
    exchange = _exchange(job.plan, number)
    cuts = {other: exchange.meeting(index, other)[0] for other in exchange.targets(index)}
    return index, {other: sums[number][box].copy() for other, box in cuts.items()}


def _blend(job: Job, number: int, index: Index, sums: tuple[Array, ...], *strips: Strips) -> Array:
    """Sum the neighbours' strips into a block's chunk and finish it."""
    exchange = _exchange(job.plan, number)
    own, _ = exchange.meeting(index, index)
    total = sums[number][own]
    pieces = [(writer, cut[index]) for writer, cut in strips if index in cut]
    if pieces:
        total = total.copy()  # what another task returned is never changed
    add = np.maximum if job.plan.rule.reduce == "max" else np.add
    for writer, piece in pieces:
        _, chunk = exchange.meeting(writer, index)
        add(total[chunk], piece, out=total[chunk])
    return finish(job.plan, job.plan.outputs[number], total)
