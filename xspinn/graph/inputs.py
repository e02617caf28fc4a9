"""What a user gives as the input: an array, or a dataset whose variables are its channels."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import dask.array as da
import numpy as np
import xarray as xr

from xspinn.errors import PlanError
from xspinn.graph.sources import Source, Stacked, find_source
from xspinn.plans.arguments import Input, check_array

__all__ = ["describe", "find_input", "template_of"]

VARIABLE = "variable"
"""Dim that a dataset's variables are stacked along, as in Dataset.to_dataarray."""


def describe(obj: xr.DataArray | xr.Dataset, channel: str | None) -> Input:
    """Return what a plan must know of the input; nothing is read.

    Parameters
    ----------
    obj : xarray.DataArray or xarray.Dataset
    channel : str or None
        As in `xspinn.predict`.

    Raises
    ------
    PlanError
        If no model can be run over it; says why.
    """
    if isinstance(obj, xr.Dataset):
        return _describe_dataset(obj, channel)
    if not isinstance(obj, xr.DataArray):
        raise PlanError(
            f"expected an xarray.DataArray or Dataset, got {type(obj).__name__}: name the dims "
            "first, with xr.DataArray(array, dims=(...))."
        )
    check_array(obj.dims, obj.shape, obj.dtype)
    dims = tuple(map(str, obj.dims))
    return Input(dims, obj.shape, obj.dtype, _chunks(obj.variable), channel, _names(obj))


def _describe_dataset(ds: xr.Dataset, channel: str | None) -> Input:
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
    return Input(
        dims=(stacked, *map(str, first.dims)),
        shape=(len(arrays), *first.shape),
        dtype=np.result_type(*(array.dtype for array in arrays)),
        chunks={stacked: None, **_chunks(first.variable)},
        channel=stacked,
        names=(*_names(ds), stacked),
    )


def template_of(obj: xr.DataArray | xr.Dataset, data: Input) -> xr.DataArray | xr.Dataset:
    """Return what the result takes its labels from: variables become labels of their channels."""
    if isinstance(obj, xr.DataArray):
        return obj
    template = obj.assign_coords({data.channel: list(obj.data_vars)})
    first = next(iter(obj.data_vars.values()))
    template.encoding = {**first.encoding, **obj.encoding}
    return template


def find_input(obj: xr.DataArray | xr.Dataset, data: Input) -> Source:
    """Find out how blocks get the voxels of the input; nothing is read."""
    if isinstance(obj, xr.DataArray):
        return find_source(obj.variable)
    return _stack([array.variable.transpose(*data.dims[1:]) for array in obj.data_vars.values()])


def _stack(variables: Sequence[xr.Variable]) -> Source:
    parts = [find_source(variable) for variable in variables]
    dtype = np.result_type(*(variable.dtype for variable in variables))
    lazy = any(part.lazy for part in parts)

    def token() -> str:
        return hashlib.sha256(":".join(part.token for part in parts).encode()).hexdigest()

    sliceables = [part.sliceable for part in parts if part.sliceable is not None]
    if len(sliceables) == len(parts):
        return Source(Stacked(sliceables, dtype), None, token, lazy)
    chunked = [
        variable.data if variable.chunks is not None else variable.chunk("auto").data
        for variable in variables
    ]
    return Source(None, da.stack(chunked).astype(dtype), token, lazy)


def _names(obj: xr.DataArray | xr.Dataset) -> tuple[str, ...]:
    return tuple(map(str, obj.coords))


def _chunks(variable: xr.Variable) -> dict[str, int | None]:
    """Widest chunk of every dim: of dask, else of the file; None where there is none."""
    if variable.chunks is not None:
        return {str(d): max(c) for d, c in zip(variable.dims, variable.chunks, strict=True)}
    preferred = variable.encoding.get("preferred_chunks") or {}
    return {str(dim): preferred.get(dim) for dim in variable.dims}
