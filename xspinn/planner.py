"""From what a user asks for to a run that is ready: plan, model, source.

Nothing of the array is read or computed. The model may be called, on zeros and on noise.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import uuid4

import dask.array as da
import numpy as np
import xarray as xr
from dask import config

from xspinn.errors import PlanError
from xspinn.geometry.axis import Axis
from xspinn.graph.build import build
from xspinn.graph.inputs import describe, find_input, template_of
from xspinn.graph.sources import Source
from xspinn.inspection.asking import inspect_model
from xspinn.machine.devices import check_device
from xspinn.machine.threads import cores
from xspinn.models import Model, as_model
from xspinn.models.activations import resolve_activation
from xspinn.options import get_options
from xspinn.plans.arguments import Input, check_patch, default_batch, make_axes
from xspinn.plans.blocks import make_blocks, voxel_bytes
from xspinn.plans.job import Job
from xspinn.plans.outputs import alignment, make_outputs, taken_names
from xspinn.plans.plan import Plan
from xspinn.plans.request import Request
from xspinn.plans.tuning import Asked, TuneLike, Tuning
from xspinn.tuning.choosing import choose

__all__ = ["Run", "prepare"]


@dataclass(frozen=True)
class Run:
    """A run that is ready.

    Attributes
    ----------
    template : xarray.DataArray or xarray.Dataset
        What the result takes its labels from.
    job : Job
    model : Model
    source : Source
    """

    template: xr.DataArray | xr.Dataset
    job: Job
    model: Model
    source: Source

    @property
    def plan(self) -> Plan:
        """The plan."""
        return self.job.plan

    @property
    def token(self) -> str:
        """Identifies the result: equal tokens, equal tasks."""
        # What is in memory is computed here and now: there is nothing to share its tasks with, and
        # its token would cost a look at all values.
        source = self.source.token if self.source.lazy else uuid4().hex
        parts = (self.plan.fingerprint, self.model.key, source, str(self.job.device))
        return hashlib.sha256(":".join(parts).encode()).hexdigest()[:32]

    def arrays(self) -> list[da.Array]:
        """Return the results without labels, one for every output of the plan; nothing runs."""
        return build(self.job, self.model, self.source, self.token)

    def __repr__(self) -> str:
        facts = {
            "handle": repr(self.model),
            "read from": self.source.road,
            "device": self.job.device or "the best of each worker",
        }
        return "\n".join([repr(self.plan), *(f"{k + ':':<12}{v}" for k, v in facts.items())])


def prepare(obj: xr.DataArray | xr.Dataset, model: Any, request: Request) -> Run:
    """Check everything, ask the model what it returns, and make the plan.

    Parameters
    ----------
    obj : xarray.DataArray or xarray.Dataset
    model : object
        As in `xspinn.predict`.
    request : Request

    Returns
    -------
    Run

    Raises
    ------
    PlanError, ModelError
        As `xspinn.predict` does.
    """
    data = describe(obj, request.channel)
    patch = check_patch(request.patch, data.sizes, data.channel)
    device = check_device(request.device)
    named, applied = resolve_activation(request.activation)
    handle = as_model(model).fitted((1, data.channels, *patch.values()))
    feed = handle.feed_dtype(data.dtype)
    # Errors of the arguments come before the model is asked, which may take a while.
    _axes(request, patch, data, [1] * len(patch))
    answers = inspect_model(handle, patch, data.channels, feed, device, applied)
    axes = _axes(request, patch, data, alignment(answers))
    batch = int(request.batch or _batch(handle, patch, data.channels))
    axes, loops = make_blocks(
        axes,
        {dim: n for dim, n in data.sizes.items() if dim not in patch and dim != data.channel},
        data.chunks,
        request.blocks,
        voxel_bytes(answers, data.channels, data.dtype, feed),
        get_options()["block_bytes"],
        batch,
    )
    softmax = request.activation == "softmax"
    outputs = make_outputs(
        answers, request.output, request.rule, axes, taken_names(data), request.dtype, softmax
    )
    plan = Plan(
        dims=data.dims,
        shape=data.shape,
        dtype=str(data.dtype),
        feed=str(feed),
        axes=axes,
        loops=loops,
        channel=data.channel,
        outputs=outputs,
        combine=request.combine,
        activation=named,
        batch=batch,
    )
    source = find_input(obj, data)
    plan = _tuned(
        plan,
        handle,
        request.tuning,
        request.tune,
        request.precision,
        device,
        request.batch is not None,
        source.lazy,
    )
    answered = {answer.name: answer.dtype for answer in answers}
    job = Job(plan, device, applied, _coords(obj, plan), get_options()["check_nan"], answered)
    return Run(template_of(obj, data), job, handle, source)


def _axes(
    request: Request, patch: Mapping[str, int], data: Input, align: Sequence[int]
) -> tuple[Axis, ...]:
    return make_axes(
        patch, data.sizes, request.overlap, request.window, request.boundary, align, data.dtype
    )


def _coords(obj: xr.DataArray | xr.Dataset, plan: Plan) -> dict[str, Any]:
    """Coordinates by which errors say where a block is."""
    dims = (dim for dim in plan.raw_dims if dim is not None)
    return {d: np.asarray(obj[d].values) for d in dims if d in obj.coords and d in obj.indexes}


def _tuned(
    plan: Plan,
    model: Model,
    tuning: Tuning | None,
    tune: TuneLike,
    precision: str,
    device: str | None,
    given: bool,
    lazy: bool,
) -> Plan:
    """Settle how the model is called: as the user says, or as it is measured."""
    lower = precision != "float32" or (tuning is not None and tuning.precision != "float32")
    if lower and "precision" not in model.tunes:
        raise PlanError(
            f"precision={precision!r} needs a torch module, an exported program or a file of "
            f"weights; {model.name} is a {type(model).__name__}, which computes as it was made."
        )
    if tuning is not None:
        set_ = tuning.as_dict().keys() & {"memory_format", "compile", "cuda_graph"}
        wrong = sorted(set_ - model.tunes)
        if wrong:
            raise PlanError(
                f"tune sets {wrong[0]}, which means nothing to {model.name}, a "
                f"{type(model).__name__}: leave it out."
            )
        return replace(plan, tuning=tuning)
    if not model.tunes:
        return plan
    asked = Asked(
        shape=(plan.channels, *(axis.patch for axis in plan.axes)),
        dtype=plan.feed,
        usual=plan.batch,
        given=given,
        patches=plan.n_patches,
        block=min(_largest(plan), MOST * plan.batch),
        at_once=_at_once(plan.n_blocks),
        precision=precision,
        device=device,
        tune=tune is True,
        allocator=get_options()["allocator"],
    )
    choice = choose(model, asked, lazy)
    return replace(plan, batch=choice.batch, tuning=choice.tuning)


MOST = 8
"""Usual batches, beyond which it does not matter how large a block is: none larger is tried."""


def _largest(plan: Plan) -> int:
    """Patches of the largest block."""
    core = math.prod(max(b - a for a, b in axis.patches) for axis in plan.axes)
    return core * math.prod(max(loop.chunks) for loop in plan.loops)


def _at_once(blocks: int) -> int:
    """How many blocks dask may run at the same time, as far as its configuration says."""
    if config.get("scheduler", None) in ("sync", "synchronous", "single-threaded"):
        return 1
    return min(blocks, config.get("num_workers", None) or blocks, cores())


def _batch(model: Model, widths: Mapping[str, int], channels: int) -> int:
    """Choose how many patches are run at once; for a model of one batch size, a multiple of it."""
    size = default_batch(widths, channels, get_options()["batch_voxels"])
    fixed = (model.shape or (None,))[0] or 1
    return max(fixed, size // fixed * fixed)
