"""What a plan costs: bytes that are read, handed on and held, by arithmetic alone."""

from __future__ import annotations

import math

import numpy as np

from xspinn.geometry.boxes import Span
from xspinn.plans.parts import Output
from xspinn.plans.settled import Settled

__all__ = [
    "block_bytes",
    "halo_bytes",
    "input_bytes",
    "leaving_bytes",
    "peak_bytes",
    "read_bytes",
    "spill_bytes",
]


def read_bytes(plan: Settled) -> int:
    """Bytes that all blocks read together, halos counted as often as they are read."""
    inside = [
        sum(max(0, min(hi, axis.size) - max(lo, 0)) for lo, hi in axis.reads) for axis in plan.axes
    ]
    loops = math.prod(loop.size for loop in plan.loops)
    return math.prod(inside) * loops * plan.channels * np.dtype(plan.dtype).itemsize


def input_bytes(plan: Settled) -> int:
    """Bytes of the input."""
    return math.prod(plan.shape) * np.dtype(plan.dtype).itemsize


def halo_bytes(plan: Settled) -> int:
    """Bytes that are read more than once."""
    return max(0, read_bytes(plan) - input_bytes(plan))


def spill_bytes(plan: Settled) -> int:
    """Bytes that blocks hand to their neighbours."""
    total = 0
    for output in plan.outputs:
        prints = plan.footprints(output)
        written = math.prod(sum(map(_length, p.writes)) for p in prints)
        spilt = written - math.prod(p.size for p in prints)
        total += spilt * _width(output)
    return total * math.prod(loop.size for loop in plan.loops)


def leaving_bytes(plan: Settled) -> int:
    """Bytes that the tasks of all blocks return: finished voxels, and sums that wait."""
    loops = math.prod(loop.size for loop in plan.loops)
    total = 0
    for output in plan.outputs:
        prints = plan.footprints(output)
        written = math.prod(sum(map(_length, p.writes)) for p in prints)
        settled = math.prod(sum(map(_length, p.settled)) for p in prints)
        total += _leaving(plan, output, written, settled)
    return total * loops


def block_bytes(plan: Settled) -> int:
    """Bytes of the input and the sums of the largest block, without the model's."""
    loops = math.prod(max(loop.chunks) for loop in plan.loops)
    read = math.prod(max(hi - lo for lo, hi in axis.reads) for axis in plan.axes)
    total = read * plan.channels * max(np.dtype(plan.dtype).itemsize, np.dtype(plan.feed).itemsize)
    for output in plan.outputs:
        prints = plan.footprints(output)
        total += _width(output) * math.prod(max(hi - lo for lo, hi in p.writes) for p in prints)
    return total * loops


def peak_bytes(plan: Settled, workers: int = 1) -> int:
    """Bytes at the peak of a run from store to store, of so many blocks at a time; see `Plan`."""
    # Blocks run in C order of the dims; strips wait from one plane of blocks to the next.
    grid = dict(zip((part.dim for part in plan.parts), plan.block_grid, strict=True))
    core = {axis.dim for axis in plan.axes}
    planes = 1
    for dim in plan.dims:
        planes *= grid.get(dim, 1)
        if dim in core and grid[dim] > 1:
            break
    running = block_bytes(plan)
    written = _finished_bytes(plan) if plan.rule.classes else running
    return workers * (running + written) + spill_bytes(plan) // planes


def _finished_bytes(plan: Settled) -> int:
    """Bytes of what leaves the largest block, and of its result."""
    total = 0
    for output in plan.outputs:
        prints = plan.footprints(output)
        # The largest block is the one that writes most along every dim.
        most = [max(range(len(p.writes)), key=lambda k: _length(p.writes[k])) for p in prints]
        pairs = list(zip(prints, most, strict=True))
        written = math.prod(_length(p.writes[k]) for p, k in pairs)
        settled = math.prod(_length(p.settled[k]) for p, k in pairs)
        total += _leaving(plan, output, written, settled)
        if settled < written:  # else what left the block is the result
            total += math.prod(max(p.chunks) for p in prints) * _result_width(plan, output)
    return total * math.prod(max(loop.chunks) for loop in plan.loops)


def _leaving(plan: Settled, output: Output, written: int, settled: int) -> int:
    """Bytes that leave, of so many voxels written and settled."""
    if not plan.rule.classes and plan.spills(output):
        settled = 0
    return settled * _result_width(plan, output) + (written - settled) * _width(output)


def _width(output: Output) -> int:
    """Bytes of the sums a voxel."""
    return (output.channels or 1) * np.dtype(output.accumulate).itemsize


def _result_width(plan: Settled, output: Output) -> int:
    """Bytes of the result a voxel."""
    channels = 1 if plan.rule.classes else output.channels or 1
    return channels * np.dtype(output.dtype).itemsize


def _length(span: Span) -> int:
    return span[1] - span[0]
