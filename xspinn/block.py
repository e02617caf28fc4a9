"""Run every patch of one block: cut, call the model, weigh, sum.

The block goes to the device once, and its sums come back once. Every function here is pure but
for the model cache: the same block gives the same answer wherever it runs.
"""

from __future__ import annotations

import contextlib
import itertools
import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from xspinn.activations import activate
from xspinn.cache import built_model
from xspinn.devices import call_gate, pick_device
from xspinn.errors import ModelError, SpinnWarning
from xspinn.job import Job
from xspinn.models.base import Model
from xspinn.models.results import flatten
from xspinn.plan import Plan
from xspinn.sums import Item, Sums

__all__ = ["run_block"]


def run_block(
    job: Job, model: Model, data: npt.NDArray[Any], block: Sequence[int]
) -> tuple[npt.NDArray[Any], ...]:
    """Run all patches of one block and sum them up.

    Parameters
    ----------
    job : Job
    model : Model
    data : numpy.ndarray
        The block's read box, dims as in the plan.
    block : sequence of int
        Its place in the plan's `block_grid`.

    Returns
    -------
    tuple of numpy.ndarray
        For every output its write box, before what comes after the sum: dims as in the plan's
        `raw_dims`, dtype as the output's `accumulate`.
    """
    plan = job.plan
    device = model.device(pick_device(job.device))
    ready = built_model(model, device)
    gate = call_gate(device) if model.kept else contextlib.nullcontext()
    x = _feed(plan, data, device)
    sums = [Sums(plan, output, block, len(x), device) for output in plan.outputs]
    for batch in _batches(_items(plan, block, len(x)), plan.batch):
        patches = torch.stack([x[loop][(slice(None), *box)] for loop, _, box in batch])
        try:
            with gate:
                answers = dict(flatten(ready(patches)))
            if answers.keys() != {output.name for output in plan.outputs}:
                raise ModelError(
                    f"the model returned {list(answers)}, but "
                    f"{[output.name for output in plan.outputs]} when it was asked before the run."
                )
            with torch.inference_mode():
                for output, total in zip(plan.outputs, sums, strict=True):
                    total.add(activate(job.activation, answers[output.name]), batch)
        except Exception as error:
            _note(error, job, block, batch)
            raise
    results = tuple(total.result() for total in sums)
    if job.check_nan:
        _check_nan(job, results, x, block)
    return results


# -- patches ---------------------------------------------------------------------------------


def _feed(plan: Plan, data: npt.NDArray[Any], device: torch.device) -> torch.Tensor:
    """Return the block as a tensor (loops, channel, *core) on the device, in the model's dtype."""
    order = [plan.dims.index(part.dim) for part in plan.parts]
    if plan.channel is not None:
        order.insert(len(plan.loops), plan.dims.index(plan.channel))
    array = data.transpose(order)
    loops = array.shape[: len(plan.loops)]
    core = array.shape[-len(plan.axes) :]
    array = array.reshape(int(np.prod(loops)), plan.channels, *core)
    fed = np.require(array, plan.feed, ["C", "W"])  # torch wants memory that it may write
    return torch.from_numpy(fed).to(device)


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


def _note(error: Exception, job: Job, block: Sequence[int], batch: list[Item]) -> None:
    """Say in the error where it happened; its type and traceback stay."""
    plan = job.plan
    place = plan.position(block)
    first = dict(place)
    for axis, n in zip(plan.axes, batch[0][1], strict=True):
        first[axis.dim] = (axis.starts[n], axis.starts[n] + axis.patch)
    error.add_note(
        f"xspinn: in block {tuple(block)} of {plan.block_grid}, {job.where(place)}; the batch of "
        f"{len(batch)} patches begins at {job.where(first)}."
    )


_warned: set[str] = set()


def _check_nan(
    job: Job, results: Sequence[npt.NDArray[Any]], x: torch.Tensor, block: Sequence[int]
) -> None:
    """Warn once a run and process where finite input became NaN."""
    plan = job.plan
    for output, result in zip(plan.outputs, results, strict=True):
        if result.dtype.kind not in "fc" or job.run in _warned:
            continue
        with np.errstate(all="ignore"):
            if not np.isnan(result.sum()) or not np.isnan(result).any():
                continue  # the sum is the quicker look
        if not bool(torch.isfinite(x).all()):
            continue  # NaN of the input, such as land in an ocean, spread as it should
        _warned.add(job.run)
        first = dict(zip(plan.raw_dims, np.argwhere(np.isnan(result))[0].tolist(), strict=True))
        spans = {
            loop.dim: (loop.bounds[k] + first[loop.dim], loop.bounds[k] + first[loop.dim] + 1)
            for loop, k in zip(plan.loops, block[: len(plan.loops)], strict=True)
        }
        for p, k in zip(plan.footprints(output), block[len(plan.loops) :], strict=True):
            written = p.writes[k][0] + first[p.axis.dim]
            voxel = min(int(written / p.scale), p.axis.size - 1)
            spans[p.axis.dim] = (voxel, voxel + 1)
        _warn(
            f"the model returned NaN for finite input, first at {job.where(spans)}, in block "
            f"{tuple(block)}. Check how the input is normalised."
        )


def _warn(message: str) -> None:
    """Warn here, and on a distributed worker also at the client."""
    worker = sys.modules.get("distributed.worker")
    if worker is not None:
        try:
            worker.get_worker()
        except ValueError:
            pass
        else:
            worker.warn(message, SpinnWarning)
            return
    warnings.warn(message, SpinnWarning, stacklevel=2)
