"""From what a user asks for to a run that is ready: plan, model, source.

Nothing of the array is read or computed. The model may be called, on zeros and on noise.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from dask import config

from xspinn.errors import PlanError
from xspinn.geometry.combine import get_combine
from xspinn.graph.sources import Source, Stacked, find_source
from xspinn.inspection.asking import inspect_model
from xspinn.machine.devices import check_device
from xspinn.machine.threads import cores
from xspinn.models import Model, as_model
from xspinn.models.activations import ActivationLike, resolve_activation
from xspinn.options import get_options
from xspinn.plans.arguments import (
    BoundaryLike,
    OverlapLike,
    WindowsLike,
    check_array,
    check_cost,
    check_patch,
    default_batch,
    make_axes,
)
from xspinn.plans.blocks import Blocks, make_blocks
from xspinn.plans.job import Job
from xspinn.plans.outputs import CHANNEL, OutputLike, alignment, make_outputs, voxel_bytes
from xspinn.plans.plan import Plan
from xspinn.plans.tuning import Asked, TuneLike, Tuning, as_tuning, check_precision
from xspinn.tuning.choosing import choose

__all__ = ["Blocks", "Run", "prepare"]

VARIABLE = "variable"
"""Dim that a dataset's variables are stacked along, as in Dataset.to_dataarray."""


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
        parts = (self.plan.fingerprint, self.model.key, self.source.token, str(self.job.device))
        return hashlib.sha256(":".join(parts).encode()).hexdigest()[:32]


@dataclass(frozen=True)
class _Input:
    """The array to run over, without its voxels."""

    template: xr.DataArray | xr.Dataset
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    chunks: dict[str, int | None]
    channel: str | None
    source: Callable[[], Source]

    @property
    def sizes(self) -> dict[str, int]:
        return dict(zip(self.dims, self.shape, strict=True))


def prepare(
    obj: xr.DataArray | xr.Dataset,
    model: Any,
    *,
    patch: Mapping[str, int],
    overlap: OverlapLike,
    window: WindowsLike,
    combine: str,
    boundary: BoundaryLike,
    channel: str | None,
    output: OutputLike,
    activation: ActivationLike,
    batch: Any,
    blocks: Blocks,
    dtype: Any,
    device: str | None,
    tune: TuneLike,
    precision: str,
    name: str | None = None,
) -> Run:
    """Check everything, ask the model what it returns, and make the plan; see `xspinn.predict`."""
    data = _from_dataset(obj, channel) if isinstance(obj, xr.Dataset) else _from_array(obj, channel)
    check_array(data.dims, data.shape, data.dtype)
    widths = check_patch(patch, data.sizes, data.channel)
    rule = get_combine(combine)
    device = check_device(device)
    tuning = as_tuning(tune, check_precision(precision))
    named, applied = resolve_activation(activation)
    whole = isinstance(batch, int | np.integer) and not isinstance(batch, bool)
    if batch is not None and not (whole and batch > 0):
        raise PlanError(f"batch={batch!r}: expected a positive number of patches.")
    if name is not None and name in obj.coords:
        raise PlanError(
            f"name={name!r} is the name of a coordinate of the input: give the result another."
        )
    channels = 1 if data.channel is None else data.sizes[data.channel]
    handle = as_model(model).fitted((1, channels, *widths.values()))
    feed = handle.feed_dtype(data.dtype)
    # Errors of the arguments come before the model is asked, which may take a while.
    make_axes(widths, data.sizes, overlap, window, boundary, [1] * len(widths), data.dtype)
    answers = inspect_model(handle, widths, channels, feed, device, applied)
    axes = make_axes(widths, data.sizes, overlap, window, boundary, alignment(answers), data.dtype)
    looped = {dim: n for dim, n in data.sizes.items() if dim not in widths and dim != data.channel}
    check_cost(axes, math.prod(looped.values()), stacklevel=4)
    size = int(batch or _batch(handle, widths, channels))
    axes, loops = make_blocks(
        axes,
        looped,
        data.chunks,
        blocks,
        voxel_bytes(answers, channels, data.dtype, feed),
        get_options()["block_bytes"],
        size,
    )
    outputs = make_outputs(
        answers, output, rule, axes, _taken(data), dtype, activation == "softmax"
    )
    made = Plan(
        dims=data.dims,
        shape=data.shape,
        dtype=str(data.dtype),
        feed=str(feed),
        axes=axes,
        loops=loops,
        channel=data.channel,
        outputs=outputs,
        combine=rule.name,
        activation=named,
        batch=size,
    )
    source = data.source()
    made = _tuned(made, handle, tuning, tune, precision, device, batch is not None, source.lazy)
    coords = {
        dim: np.asarray(obj[dim].values)
        for dim in made.raw_dims
        if dim is not None and dim in obj.coords and dim in obj.indexes
    }
    job = Job(made, device, applied, coords, get_options()["check_nan"])
    return Run(data.template, job, handle, source)


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


def _taken(data: _Input) -> list[str]:
    """Names that the result's channel dim and arrays cannot have.

    A scalar coordinate "channel" is what is left of a selected channel; it does not hold any more.
    """
    rest = [dim for dim in data.dims if dim != data.channel]
    coords = [str(name) for name in data.template.coords if name not in (data.channel, CHANNEL)]
    return [*rest, *coords]


# -- input -----------------------------------------------------------------------------------


def _from_array(obj: xr.DataArray, channel: str | None) -> _Input:
    if not isinstance(obj, xr.DataArray):
        raise PlanError(
            f"expected an xarray.DataArray or Dataset, got {type(obj).__name__}: name the dims "
            "first, with xr.DataArray(array, dims=(...))."
        )
    return _Input(
        template=obj,
        dims=obj.dims,  # type: ignore[arg-type] # check_array refuses dims that are not strings
        shape=obj.shape,
        dtype=obj.dtype,
        chunks=_chunks(obj.variable),
        channel=channel,
        source=lambda: find_source(obj.variable),
    )


def _from_dataset(ds: xr.Dataset, channel: str | None) -> _Input:
    if not ds.data_vars:
        raise PlanError("the dataset has no data variables: there is nothing to predict.")
    arrays = list(ds.data_vars.values())
    first = arrays[0]
    stacked = VARIABLE if channel is None else channel
    for array in arrays:
        if set(array.dims) != set(first.dims):
            raise PlanError(
                f"variable {array.name!r} has dims {array.dims}, but {first.name!r} has "
                f"{first.dims}: the variables of a dataset are channels and must share their "
                "dims. Select some with ds[[names]], or predict on one variable."
            )
    if stacked in ds.dims:
        raise PlanError(
            f"the variables would be stacked along {stacked!r}, but the dataset has a dim of that "
            "name: give channel='another_name', or predict on one variable."
        )
    for array in arrays:
        check_array(array.dims, array.shape, array.dtype)
    dtype = np.result_type(*(array.dtype for array in arrays))
    variables = [array.variable.transpose(*first.dims) for array in arrays]

    def source() -> Source:
        parts = [find_source(variable) for variable in variables]
        lazy = any(part.lazy for part in parts)
        token = hashlib.sha256(":".join(part.token for part in parts).encode()).hexdigest()
        sliceables = [part.sliceable for part in parts if part.sliceable is not None]
        if len(sliceables) == len(parts):
            return Source(Stacked(sliceables, dtype), None, token, lazy)
        chunked = [
            variable.data if variable.chunks is not None else variable.chunk("auto").data
            for variable in variables
        ]
        return Source(None, da.stack(chunked).astype(dtype), token, lazy)

    template = ds.assign_coords({stacked: list(ds.data_vars)})
    template.encoding = {**first.encoding, **ds.encoding}
    return _Input(
        template=template,
        dims=(stacked, *first.dims),  # type: ignore[arg-type]
        shape=(len(arrays), *first.shape),
        dtype=dtype,
        chunks={stacked: None, **_chunks(first.variable)},
        channel=stacked,
        source=source,
    )


def _chunks(variable: xr.Variable) -> dict[str, int | None]:
    """Widest chunk of every dim: of dask, else of the file; None where there is none."""
    if variable.chunks is not None:
        return {str(d): max(c) for d, c in zip(variable.dims, variable.chunks, strict=True)}
    preferred = variable.encoding.get("preferred_chunks") or {}
    return {str(dim): preferred.get(dim) for dim in variable.dims}
