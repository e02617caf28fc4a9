"""From what a user asks for to a run that is ready: plan, model, source.

Nothing of the array is read or computed. The model may be called, on zeros and on noise.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import dask.array as da
import numpy as np
import xarray as xr

from xspinn.geometry.axis import Axis
from xspinn.graph.build import build
from xspinn.graph.inputs import describe, find_input, template_of
from xspinn.graph.sources import Source
from xspinn.inspection.asking import inspect_model
from xspinn.machine.devices import check_device
from xspinn.machine.nesting import apart, inside_turn
from xspinn.models import Model, as_model
from xspinn.models.activations import resolve_activation
from xspinn.options import get_options
from xspinn.plans.arguments import Input, check_cost, check_patch, default_batch, make_axes
from xspinn.plans.blocks import make_blocks, voxel_bytes
from xspinn.plans.job import Job
from xspinn.plans.outputs import alignment, make_outputs, taken_names
from xspinn.plans.plan import Plan
from xspinn.plans.request import Request
from xspinn.tuning.settling import settle

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


@apart
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
    looped = {dim: n for dim, n in data.sizes.items() if dim not in patch and dim != data.channel}
    check_cost(axes, math.prod(looped.values()))
    batch = int(request.batch or _batch(handle, patch, data.channels))
    axes, loops = make_blocks(
        axes,
        looped,
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
    plan = settle(plan, handle, request, device, source.lazy)
    answered = {answer.name: answer.dtype for answer in answers}
    job = Job(
        plan,
        device=device,
        activation=applied,
        coords=_coords(obj, plan),
        check_nan=get_options()["check_nan"],
        answered=answered,
        turns=not inside_turn(),
    )
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


def _batch(model: Model, widths: Mapping[str, int], channels: int) -> int:
    """Choose how many patches are run at once; for a model of one batch size, a multiple of it."""
    size = default_batch(widths, channels, get_options()["batch_voxels"])
    fixed = (model.shape or (None,))[0] or 1
    return max(fixed, size // fixed * fixed)
