"""Labels of the result: coordinates, attributes, names."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import xarray as xr
from xarray.indexes import PandasIndex

from xspinn.errors import PlanError, warn
from xspinn.plans.outputs import no_class
from xspinn.plans.parts import Output
from xspinn.plans.plan import Plan

__all__ = ["check_name", "kept_attrs", "label", "label_all"]

PHYSICS = frozenset(
    {
        "_FillValue", "_Unsigned", "actual_range", "add_offset", "ancillary_variables",
        "cell_methods", "coordinates", "flag_masks", "flag_meanings", "flag_values",
        "long_name", "missing_value", "scale_factor", "source", "standard_name", "unit",
        "units", "valid_max", "valid_min", "valid_range",
    }
)  # fmt: skip
"""Attributes that say what the input's numbers mean and where they come from."""


def check_name(obj: xr.DataArray | xr.Dataset, name: str | None) -> None:
    """Refuse a name for the result that a coordinate of the input has."""
    if name is not None and name in getattr(obj, "coords", ()):
        raise PlanError(
            f"name={name!r} is the name of a coordinate of the input: give the result another."
        )


def label_all(
    template: xr.DataArray | xr.Dataset,
    plan: Plan,
    arrays: Sequence[Any],
    attrs: Mapping[str, Any],
    name: str | None,
) -> xr.DataArray | xr.Dataset:
    """Label the arrays of all outputs: one array, or a dataset where the model names several.

    Parameters
    ----------
    template : xarray.DataArray or xarray.Dataset
        The input.
    plan : Plan
    arrays : sequence of array
        One an output, dims as in ``plan.result_dims(output)``.
    attrs : mapping
        Attributes that all of them get.
    name : str or None
        Name of the result, where its output has none of its own.

    Returns
    -------
    xarray.DataArray or xarray.Dataset
    """
    labelled = [
        label(template, plan, output, data, attrs, name)
        for output, data in zip(plan.outputs, arrays, strict=True)
    ]
    if plan.outputs[0].name is None:
        return labelled[0]
    return xr.Dataset({array.name: array for array in labelled}, attrs=attrs)


def label(
    template: xr.DataArray | xr.Dataset,
    plan: Plan,
    output: Output,
    data: Any,
    attrs: Mapping[str, Any],
    name: str | None,
) -> xr.DataArray:
    """Give one output its coordinates, attributes and name.

    Parameters
    ----------
    template : xarray.DataArray
        The input.
    plan : Plan
    output : Output
    data : array
        Dims as in ``plan.result_dims(output)``.
    attrs : mapping
        Attributes that all outputs get.
    name : str or None
        Name of the result, where the output has none of its own.

    Returns
    -------
    xarray.DataArray
    """
    dims = plan.result_dims(output)
    coords = _coords(template, plan, output)
    if output.dim is not None and output.labels is not None:
        coords[output.dim] = xr.Variable(output.dim, list(output.labels))
    result = xr.DataArray(data, dims=dims, name=output.name or name)
    result = result.assign_coords(xr.Coordinates(coords, indexes=_indexes(template, coords)))
    result.attrs = {**attrs, **_flags(plan, output)}
    mapping = template.encoding.get("grid_mapping")
    if mapping is not None:
        result.encoding["grid_mapping"] = mapping
    fill = no_class(output) if plan.rule.classes else None
    if fill is not None:
        # For zarr alone. The attribute _FillValue would make xarray decode classes to floats.
        result.encoding["fill_value"] = np.dtype(output.dtype).type(fill)
    return result


def kept_attrs(
    template: xr.DataArray | xr.Dataset, plan: Plan, keep: bool, model: str, version: str
) -> Any:
    """Return the input's attributes but for its physics, and where the result comes from."""
    kept = (
        {
            k: v
            for k, v in template.attrs.items()
            if k not in PHYSICS and not str(k).startswith("GRIB_")
        }
        if keep
        else {}
    )
    source = {
        "version": version,
        "model": model,
        "plan": plan.fingerprint,
        "batch": plan.batch,
        "tuning": plan.tuning.as_dict(),
    }
    return {**kept, "xspinn": json.dumps(source)}


def _coords(
    template: xr.DataArray | xr.Dataset, plan: Plan, output: Output
) -> dict[Any, xr.Variable]:
    """Coordinates of the input that still hold: resampled where the scale differs."""
    same = output.dim is not None and output.dim == plan.channel
    same = same and output.channels == plan.channels
    prints = plan.footprints(output)
    ratios = {p.axis.dim: p.scale for p in prints}
    sizes = {p.axis.dim: p.size for p in prints}
    coords = {}
    # Levels of one index, such as a MultiIndex, mean nothing between its entries.
    levels = {name for name in template.xindexes if len(template.xindexes.get_all_coords(name)) > 1}
    for name, coord in template.coords.items():
        if not set(coord.dims) <= {*plan.dims} or (plan.channel in coord.dims and not same):
            continue
        variable: xr.Variable | None = coord.variable
        if coord.ndim == 0 and name == output.dim:
            continue
        if name in levels and any(ratios.get(str(dim), 1) != 1 for dim in coord.dims):
            continue
        for dim in coord.dims:
            if ratios.get(str(dim), 1) != 1 and variable is not None:
                variable = _resample(
                    variable, str(dim), ratios[str(dim)], sizes[str(dim)], along=name == dim
                )
        if variable is None:
            if name in coord.dims:
                warn(
                    f"the coordinate of dim {name!r} is dropped: the result has {sizes[str(name)]} "
                    f"voxels for {coord.size}, and its values ({coord.dtype}) cannot be resampled."
                )
            continue
        if output.scaled and "GeoTransform" in variable.attrs:  # it holds the voxel size
            variable = variable.copy(deep=False)
            variable.attrs = {k: v for k, v in variable.attrs.items() if k != "GeoTransform"}
        coords[name] = variable
    return coords


def _indexes(
    template: xr.DataArray | xr.Dataset, coords: Mapping[Any, xr.Variable]
) -> dict[Any, Any]:
    """Indexes of the coordinates that are unchanged; xarray makes those of new ones."""
    kept = {}
    for name, index in template.xindexes.items():
        owned = template.xindexes.get_all_coords(name)
        if all(n in coords and coords[n] is template.coords[n].variable for n in owned):
            kept[name] = index
    for name, variable in coords.items():
        new = name not in template.coords
        changed = not new and variable is not template.coords[name].variable
        if variable.dims == (name,) and (new or (changed and name in template.xindexes)):
            kept[name] = PandasIndex.from_variables({name: variable}, options={})
    return kept


def _resample(
    variable: xr.Variable, dim: str, ratio: Fraction, size: int, along: bool
) -> xr.Variable | None:
    """Coordinates at the middles of the output's voxels, linear between those of the input.

    What is no number, or a whole one that is not the coordinate of the dim itself (`along`), is
    that of the nearest voxel. None where there is no way: one voxel has no spacing.
    """
    n = variable.sizes[dim]
    at = (np.arange(size) + 0.5) / float(ratio) - 0.5
    base = variable.to_base_variable() if isinstance(variable, xr.IndexVariable) else variable
    if variable.dtype.kind in "biuUS" and not along:  # such as the number of a region
        return base.isel({dim: np.clip(np.rint(at).astype(int), 0, n - 1)})
    if n < 2 or variable.dtype.kind not in "fiuMm":
        return None
    low = np.clip(np.floor(at).astype(int), 0, n - 2)
    first, second = base.isel({dim: low}), base.isel({dim: low + 1})
    if variable.dtype.kind in "iu":
        first, second = first.astype("float64"), second.astype("float64")
    part = xr.Variable(dim, at - low)
    resampled: xr.Variable = (first + (second - first) * part).transpose(*variable.dims)
    if variable.dtype.kind == "f":
        resampled = resampled.astype(variable.dtype)
    resampled.attrs = dict(variable.attrs)
    return resampled


def _flags(plan: Plan, output: Output) -> dict[str, Any]:
    """CF attributes of a result that is a class."""
    if not plan.rule.classes:
        return {}
    values = np.arange(output.channels or 1, dtype=output.dtype)
    names = output.labels or tuple(f"class_{k}" for k in values)
    meanings = " ".join("_".join(str(name).split()) for name in names)
    return {"flag_values": values, "flag_meanings": meanings}
