"""Run every patch of one block: cut, call the model, weigh, sum.

The block goes to the device once, and its sums come back once. Every function here is pure but
for the model cache: the same block gives the same answer wherever it runs.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from typing import Any

import numpy as np
import torch

from xspinn.block.piece import Piece
from xspinn.block.sums import Item, Sums
from xspinn.block.written import Written
from xspinn.errors import ModelError
from xspinn.machine.allocator import kept
from xspinn.machine.nesting import apart
from xspinn.machine.route import lane
from xspinn.machine.worker import check_of_task, warn_user
from xspinn.models.activations import activate
from xspinn.models.base import Model
from xspinn.models.built import built_model
from xspinn.models.fitting import Answers, Fits
from xspinn.plans.job import Job
from xspinn.plans.plan import Plan

__all__ = ["run_block"]


@apart
def run_block(job: Job, model: Model, data: Any, block: Sequence[int]) -> tuple[Written, ...]:
    """Run all patches of one block and sum them up.

    Parameters
    ----------
    job : Job
    model : Model
    data : array
        Of numpy, or of what torch takes by DLPack. The block's read box, dims as in the plan.
    block : sequence of int
        Its place in the plan's `block_grid`.

    Returns
    -------
    tuple of Written
        For every output what the block wrote: finished where no neighbour adds to it, else sums.

    Raises
    ------
    CancelledError
        Between two batches, if the computation that it belongs to has ended.
    """
    plan, tuning = job.plan, job.plan.tuning
    check_task = check_of_task()

    def check() -> None:
        if job.cancel.cancelled:
            raise CancelledError("the computation that this block belongs to has ended.")
        check_task()

    check()
    # A function looks after its own threads, and may itself call `predict`.
    options: dict[str, Any] = {"turns": model.kept and job.turns, "threads": tuning.threads}
    with lane(job.device, model.device, plan.block_bytes, **options) as way:
        ready = built_model(model, way.device, tuning)
        fits = Fits.of(model.key, way.device, tuning)
        x = way.upload(_feed(plan, data))

        def answers() -> Iterator[tuple[list[Item], Answers]]:
            for batch in _batches(_items(plan, block, len(x)), plan.batch):
                parts = fits.run(ready, way.feed(_cut(x, batch)), plan.batch)
                while True:
                    check()
                    with _noted(job, block, batch):
                        part = next(parts, None)
                    if part is None:
                        break
                    yield batch[part[0]], part[1]

        def compute() -> tuple[list[Sums], list[list[torch.Tensor]]]:
            # Blocks that wait for their turn hold their input and no more.
            with kept(tuning.allocator):
                sums = [Sums(plan, output, block, len(x), way.store) for output in plan.outputs]
                for batch, named in way.fetched(answers()):
                    with _noted(job, block, batch), torch.inference_mode():
                        _add(job, sums, batch, dict(named))
                return sums, [total.tensors() for total in sums]

        sums, tensors = way.compute(compute)
        arrays = iter(way.download(list(itertools.chain.from_iterable(tensors))))
        found = [list(itertools.islice(arrays, len(own))) for own in tensors]
        if job.check_nan:
            _check_nan(job, sums, [bool(own[0]) for own in found], x, block)
        return tuple(total.pack(own) for total, own in zip(sums, found, strict=True))


def _add(
    job: Job, sums: Sequence[Sums], batch: list[Item], named: Mapping[str | None, torch.Tensor]
) -> None:
    """Add what the model answers for a batch to the sums of every output."""
    names = [output.name for output in job.plan.outputs]
    if named.keys() != set(names):
        raise ModelError(
            f"the model returned {list(named)}, but {names} when it was asked before the run."
        )
    for total, name in zip(sums, names, strict=True):
        tensor = activate(job.activation, named[name])
        _check_dtype(name, tensor.dtype, job.answered.get(name))
        total.add(tensor, batch)


def _check_dtype(name: str | None, got: torch.dtype, answered: str | None) -> None:
    """Refuse values that the sums, of the dtype that the model answered, would cut off."""
    found = str(got).removeprefix("torch.")
    if answered is None or found == answered:
        return
    asked = getattr(torch, answered)
    if _kind(got) == _kind(asked) and (_kind(got) != "integer" or np.can_cast(found, answered)):
        return
    what = "" if name is None else f" as output {name!r}"
    raise ModelError(
        f"the model returned {found}{what}, but {answered} when it was asked before the run, and "
        "the sums of patches were planned for that: return one dtype whatever the input holds, "
        "for example with .astype('float32')."
    )


def _kind(dtype: torch.dtype) -> str:
    if dtype.is_complex:
        return "complex"
    if dtype.is_floating_point:
        return "float"
    return "bool" if dtype == torch.bool else "integer"


# -- patches ---------------------------------------------------------------------------------


def _feed(plan: Plan, data: Any) -> torch.Tensor:
    """Return the block as a tensor (loops, channel, *core), in the model's dtype, where it is.

    Arrays of other kinds than numpy's, such as cupy's, stay on their device.
    """
    order = [plan.dims.index(part.dim) for part in plan.parts]
    if plan.channel is not None:
        order.insert(len(plan.loops), plan.dims.index(plan.channel))
    loops = math.prod(data.shape[k] for k in order[: len(plan.loops)])
    core = [data.shape[k] for k in order[-len(plan.axes) :]]
    shape = (loops, plan.channels, *core)
    if isinstance(data, np.ndarray) or not hasattr(data, "__dlpack__"):
        array = np.asarray(data).transpose(order).reshape(shape)
        # torch wants memory that it may write.
        return torch.from_numpy(np.require(array, plan.feed, ["C", "W"]))
    take: Any = torch.from_dlpack  # type: ignore[attr-defined] # torch leaves it out of __all__
    tensor: torch.Tensor = take(data).permute(order).reshape(shape)
    return tensor.to(getattr(torch, plan.feed)).contiguous()


def _cut(x: torch.Tensor, batch: list[Item]) -> torch.Tensor:
    """Cut a batch of patches out of a block: the only copy that they need."""
    patches = [x[loop][(slice(None), *box)] for loop, _, box in batch]
    return torch.stack(patches)


def _items(plan: Plan, block: Sequence[int], loops: int) -> Iterator[Item]:
    places = list(zip(plan.axes, block[len(plan.loops) :], strict=True))
    ranges = [range(*axis.patches[k]) for axis, k in places]
    for loop, patch in itertools.product(range(loops), itertools.product(*ranges)):
        box = []
        for (axis, k), n in zip(places, patch, strict=True):
            first = axis.starts[n] - axis.reads[k][0]
            box.append(slice(first, first + axis.patch))
        yield loop, patch, tuple(box)


def _batches(items: Iterator[Item], size: int) -> Iterator[list[Item]]:
    while batch := list(itertools.islice(items, size)):
        yield batch


# -- what goes wrong ---------------------------------------------------------------------------


@contextlib.contextmanager
def _noted(job: Job, block: Sequence[int], batch: list[Item]) -> Iterator[None]:
    """Say in an error where it happened; its type and traceback stay."""
    try:
        yield
    except Exception as error:
        if not getattr(error, "__notes__", None):
            error.add_note(_place(job, block, batch))
        raise


def _place(job: Job, block: Sequence[int], batch: list[Item]) -> str:
    plan = job.plan
    place = plan.position(block)
    first = dict(place)
    for axis, n in zip(plan.axes, batch[0][1], strict=True):
        first[axis.dim] = (axis.starts[n], axis.starts[n] + axis.patch)
    return (
        f"xspinn: in block {tuple(block)} of {plan.block_grid}, {job.where(place)}; the batch of "
        f"{len(batch)} patches begins at {job.where(first)}."
    )


_warned: set[str] = set()
_lock = threading.Lock()


def _check_nan(
    job: Job, sums: Sequence[Sums], spoilt: Sequence[bool], x: torch.Tensor, block: Sequence[int]
) -> None:
    """Warn once a run and process where finite input became NaN."""
    plan = job.plan
    for output, total, found in zip(plan.outputs, sums, spoilt, strict=True):
        place = total.first_nan() if found and job.run not in _warned else None
        if place is None or not bool(torch.isfinite(x).all()):
            continue  # NaN of the input, such as land in an ocean, spreads as it should
        with _lock:
            if job.run in _warned:
                continue
            _warned.add(job.run)
        voxel = Piece(plan, output, block, total.layout.box).voxel(place)
        warn_user(
            f"the model returned NaN for finite input, first at {job.where(voxel)}, in block "
            f"{tuple(block)}. Check how the input is normalised."
        )
