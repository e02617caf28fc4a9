"""From a plan and an array to lazy results.

Three tasks a block, four in a volume:

``spinn-run``
    Runs every patch of the block. Where the source can be sliced, the block reads its own box;
    for other dask arrays, `dask.array.map_overlap` brings the halo. What leaves it stands in
    `xspinn.block.written`.
``spinn-strips``
    Copies of the thin strips that the block wrote into its neighbours' chunks. They are tasks of
    their own so that they, and not the whole block, wait for the neighbours. A volume has two, for
    the next plane of blocks and for the same.
``spinn-blend``
    The block's chunk with its neighbours' strips summed in and finished; see `xspinn.graph.blend`.

Where no patch writes beyond its block's chunk, the first is all there is.

Schedulers unpickle the functions of tasks without running them, so torch and the models are
imported where a block runs and not before.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import dask.array as da
import numpy as np
import numpy.typing as npt
from dask import config
from dask.delayed import Delayed, delayed

from xspinn.carriers.names import task_name
from xspinn.carriers.prepare import prepare_carriers
from xspinn.carriers.shared import Shared
from xspinn.geometry.axis import Axis
from xspinn.geometry.lattice import extended_indices
from xspinn.graph.blend import blend
from xspinn.graph.cancelling import watch_computations
from xspinn.graph.reading import Sliceable, read_box
from xspinn.graph.sources import Source
from xspinn.machine.allocator import give_back
from xspinn.machine.nesting import inside_turn
from xspinn.plans.job import Job
from xspinn.plans.plan import Plan

if TYPE_CHECKING:
    from xspinn.models import Model

__all__ = ["build", "compute_here"]

Array: TypeAlias = npt.NDArray[Any]


def build(job: Job, model: Model, source: Source, token: str) -> list[da.Array]:
    """Build the graph of a plan; nothing runs.

    Parameters
    ----------
    job : Job
    model : Model
    source : Source
    token : str
        Identifies plan, model and source; two runs with one token share their tasks.

    Returns
    -------
    list of dask.array.Array
        One for every output of the plan.
    """
    plan = job.plan
    prepare_carriers()
    watch_computations()
    shared = {
        "job": _shared(job, f"spinn-plan-{token}"),
        # Not a task that builds the model: one task that all blocks stand on makes dask run all of
        # them before it blends any.
        "model": _shared(Shared(model), task_name(model.key, job.device, *plan.tuning.built)),
    }
    outputs = plan.outputs
    plain = len(outputs) == 1 and not plan.spills(outputs[0])
    chunks = plan.chunks(outputs[0]) if plain else plan.raw_chunks(outputs[0])
    options: dict[str, Any] = {
        **shared,
        "plain": plain,
        "chunks": chunks,
        "dtype": np.dtype(outputs[0].dtype if plain else object),
        "meta": np.empty((0,) * len(chunks), outputs[0].dtype if plain else object),
        "name": f"spinn-run-{token}",
    }
    if source.sliceable is not None:
        box = _shared(source.sliceable, f"spinn-source-{token}")
        ran = da.map_blocks(_read_and_run, source=box, **options)
    else:
        assert source.array is not None
        narrow = any(min(a.chunks[:-1], default=a.size) < max(a.halo) for a in plan.axes)
        run = _run_with_slices if narrow else _run_with_overlap
        ran = run(plan, source.array, options)
    if plain:
        return [ran]
    return [blend(plan, number, ran, shared["job"], token) for number in range(len(outputs))]


def compute_here(arrays: Sequence[da.Array]) -> tuple[Array, ...]:
    """Compute results in this process, for input that lies in its memory."""
    alone = config.get("scheduler", None) in ("sync", "synchronous", "single-threaded")
    # A model's call that predicts has its turn, and the cores for itself.
    scheduler = "synchronous" if alone or inside_turn() else "threads"
    computed: tuple[Array, ...] = da.compute(*arrays, scheduler=scheduler)
    return computed


def _shared(value: Any, name: str) -> Delayed:
    """One key for what all tasks need, so that a graph holds it once and a worker gets it once."""
    node: Delayed = delayed(value, name=name, traverse=False)
    return node


# -- run -------------------------------------------------------------------------------------


def _run(job: Job, model: Shared, data: Array, block: tuple[int, ...], plain: bool) -> Any:
    from xspinn.block.running import run_block

    watch_computations()  # the model may compute something itself
    written = run_block(job, model.model, data, block)
    give_back()
    return written[0].settled if plain else written


def _read_and_run(
    job: Job, model: Shared, source: Sliceable, plain: bool, block_id: tuple[int, ...]
) -> Any:
    """Read the block's own box and run it."""
    plan = job.plan
    block = _block(plan, block_id, plain)
    box = plan.read_box(block)
    rules = {axis.dim: axis.boundary for axis in plan.axes}
    data = read_box(source, list(box.values()), [rules.get(dim, "none") for dim in plan.dims])
    return _run(job, model, data, block, plain)


def _cut_and_run(
    data: Array, job: Job, model: Shared, plain: bool, origin: Any, block_id: tuple[int, ...]
) -> Any:
    """Cut the block's box out of a chunk with its halo and run it."""
    plan = job.plan
    block = _block(plan, block_id, plain)
    at = dict(zip([part.dim for part in plan.parts], block, strict=True))
    box = plan.read_box(block)
    cut = [slice(None)] * data.ndim
    for axis in plan.axes:
        first = origin[axis.dim][at[axis.dim]]
        lo, hi = box[axis.dim]
        cut[plan.dims.index(axis.dim)] = slice(lo - first, hi - first)
    return _run(job, model, data[tuple(cut)], block, plain)


def _block(plan: Plan, block_id: tuple[int, ...], plain: bool) -> tuple[int, ...]:
    """Place in the plan's block grid of a chunk of the run layer."""
    if plain and plan.outputs[0].dim is None:
        at = plan.channel_at
        block_id = (*block_id[:at], 0, *block_id[at:])
    return plan.block_at(block_id)


def _run_with_overlap(plan: Plan, array: da.Array, options: dict[str, Any]) -> da.Array:
    """Bring the halo by `map_overlap`, for arrays that exist as dask chunks only."""
    x, depth, origin = array, {}, {}
    chunks = _chunks(plan, array)
    for axis in _in_array_order(plan):
        at = plan.dims.index(axis.dim)
        first, end = axis.extended
        before, after = axis.halo
        if axis.n_blocks > 1:  # the last chunk must not be narrower than its neighbour's halo
            end = max(end, axis.bounds[-2] + max(before, after))
        x = _extend(x, at, axis, first, end)
        bounds = (first, *axis.bounds[1:-1], end)
        chunks[at] = tuple(b - a for a, b in itertools.pairwise(bounds))
        depth[at] = (before, after)
        origin[axis.dim] = [b - (before if k else 0) for k, b in enumerate(bounds[:-1])]
    x = x.rechunk(tuple(chunks))
    ran: da.Array = da.map_overlap(
        _cut_and_run,
        x,
        depth=depth,
        boundary="none",
        trim=False,
        allow_rechunk=False,
        origin=origin,
        **_changed_axes(plan, x, options),
        **options,
    )
    return ran


def _run_with_slices(plan: Plan, array: da.Array, options: dict[str, Any]) -> da.Array:
    """Slice every read box out, where blocks are narrower than their halo; dearer in tasks."""
    x, origin = array, {}
    chunks = _chunks(plan, array)
    for axis in _in_array_order(plan):
        at = plan.dims.index(axis.dim)
        first, end = axis.extended
        x = _extend(x, at, axis, first, end)
        # A block without patches reads nothing, but has a task: one voxel stands in.
        spans = [(lo, max(hi, lo + 1)) for lo, hi in axis.reads]
        cuts = [(slice(None),) * at + (slice(lo - first, hi - first),) for lo, hi in spans]
        x = da.concatenate([x[cut] for cut in cuts], axis=at)
        chunks[at] = tuple(hi - lo for lo, hi in spans)
        origin[axis.dim] = [lo for lo, _ in spans]
    x = x.rechunk(tuple(chunks))
    ran: da.Array = da.map_blocks(
        _cut_and_run, x, origin=origin, **_changed_axes(plan, x, options), **options
    )
    return ran


def _in_array_order(plan: Plan) -> list[Axis]:
    """Core dims as blocks extend them that read for themselves; corners depend on the order."""
    return sorted(plan.axes, key=lambda axis: plan.dims.index(axis.dim))


def _chunks(plan: Plan, array: da.Array) -> list[tuple[int, ...]]:
    """Chunks of the input along looped dims and channels as blocks need them."""
    chunks = list(array.chunks)
    for loop in plan.loops:
        chunks[plan.dims.index(loop.dim)] = loop.chunks
    if plan.channel is not None:
        chunks[plan.dims.index(plan.channel)] = (plan.channels,)
    return chunks


def _changed_axes(plan: Plan, x: da.Array, options: dict[str, Any]) -> dict[str, list[int]]:
    """Where the channel axis appears or goes."""
    change = len(options["chunks"]) - x.ndim
    at = [plan.channel_at]
    return {"drop_axis": at if change < 0 else [], "new_axis": at if change > 0 else []}


def _extend(x: da.Array, at: int, axis: Axis, first: int, end: int) -> da.Array:
    """Extend one dim of a dask array beyond its faces, to ``first:end``."""
    parts: list[da.Array | None] = []
    for lo, hi in ((first, 0), (axis.size, end)):
        if hi <= lo:
            parts.append(None)
            continue
        if isinstance(axis.boundary, str) and axis.boundary != "none":
            parts.append(da.take(x, extended_indices(lo, hi, axis.size, axis.boundary), axis=at))
        else:  # under "none" no patch reads what is added here
            shape = (*x.shape[:at], hi - lo, *x.shape[at + 1 :])
            fill = 0 if isinstance(axis.boundary, str) else axis.boundary
            rest = [c if k != at else (hi - lo,) for k, c in enumerate(x.chunks)]
            parts.append(da.full(shape, fill, dtype=x.dtype, chunks=tuple(rest)))
    pieces = [piece for piece in (parts[0], x, parts[1]) if piece is not None]
    return da.concatenate(pieces, axis=at) if len(pieces) > 1 else x
