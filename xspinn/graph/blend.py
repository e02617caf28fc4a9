"""The tasks that pass strips between blocks and finish them, as soon as they can.

Finished blocks are handed on at once, and only strips wait, those of one plane of blocks.
"""

from __future__ import annotations

import itertools
from typing import Any

import dask.array as da
import numpy as np
from dask.delayed import Delayed
from dask.highlevelgraph import HighLevelGraph
from dask.task_spec import Task, TaskRef

from xspinn.block.blend import Strips, add_strips, cut_strips
from xspinn.block.written import Array, Written
from xspinn.hooks.dask import InOrder
from xspinn.plans.exchange import Index, exchange_of
from xspinn.plans.job import Job
from xspinn.plans.plan import Plan

__all__ = ["blend"]


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
    exchange = exchange_of(plan, number)
    suffix = token if output.name is None else f"{output.name}-{token}"
    name, strips = f"spinn-blend-{suffix}", f"spinn-strips-{suffix}"
    kept = [output.dim is not None or dim is not None for dim in plan.raw_dims]
    blocks = exchange.blocks()
    order = InOrder(f"spinn-order-{suffix}", len(blocks))
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


def _strips(job: Job, number: int, index: Index, far: int, written: tuple[Written, ...]) -> Strips:
    return cut_strips(job.plan, number, index, far, written)


def _blend(
    job: Job, number: int, index: Index, written: tuple[Written, ...], *needs: Strips | None
) -> Array:
    # What it was only to be run after comes along: None, and its own strips, which are not for it.
    return add_strips(job.plan, number, index, written, list(filter(None, needs)))
