"""From what a user writes to the axes of a plan, with every mistake named here."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import numpy as np

from xspinn.errors import PlanError, warn
from xspinn.geometry.axis import Axis
from xspinn.geometry.lattice import BOUNDARIES, Boundary, patch_starts, resolve_overlap
from xspinn.geometry.windows import WindowLike, resolve_window

__all__ = [
    "ActivationLike",
    "BoundaryLike",
    "Input",
    "OverlapLike",
    "WindowsLike",
    "check_array",
    "check_cost",
    "check_patch",
    "default_batch",
    "make_axes",
]

OverlapLike: TypeAlias = "float | Mapping[str, float]"
BoundaryLike: TypeAlias = "Boundary | Mapping[str, Boundary]"
WindowsLike: TypeAlias = "WindowLike | Mapping[str, WindowLike]"
ActivationLike: TypeAlias = "str | Callable[[Any], Any] | None"


@dataclass(frozen=True)
class Input:
    """The array to run over, without its voxels.

    Attributes
    ----------
    dims : tuple of str
    shape : tuple of int
    dtype : numpy.dtype
    chunks : mapping of str to int or None
        The widest chunk along every dim: of dask, else of the file; None where there is none.
    channel : str or None
        The dim that holds the channels.
    names : tuple of str
        Names of its coordinates.
    """

    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    chunks: Mapping[str, int | None]
    channel: str | None
    names: tuple[str, ...]

    @property
    def sizes(self) -> dict[str, int]:
        """Voxels along every dim."""
        return dict(zip(self.dims, self.shape, strict=True))

    @property
    def channels(self) -> int:
        """Channels that the model is fed with."""
        return 1 if self.channel is None else self.sizes[self.channel]


MAX_TIMES = 100
"""How many times every voxel may be run without a warning: overlap 0.75 in a volume takes 64."""

MIN_VOXELS = 10**10
"""Voxels that a job runs, below which it is done in minutes however often it runs each."""


def check_array(dims: Sequence[Any], shape: Sequence[int], dtype: np.dtype[Any]) -> None:
    """Refuse arrays that no model can be run over: duplicate dims, no voxels, no numbers."""
    twice = [dim for dim in dims if list(dims).count(dim) > 1]
    if twice:
        raise PlanError(
            f"dim {twice[0]!r} appears twice in {tuple(dims)}: patches are named by dim, so each "
            "name may stand once. Rename one with da.variable.copy() and new dims."
        )
    odd = [dim for dim in dims if not isinstance(dim, str)]
    if odd:
        raise PlanError(
            f"dim {odd[0]!r} is {type(odd[0]).__name__}, not a string: rename it with da.rename."
        )
    unknown = [dim for dim, size in zip(dims, shape, strict=True) if size != size]
    if unknown:
        raise PlanError(
            f"dask does not know the size of dim {unknown[0]!r}, so there is no lattice to plan: "
            "call da.data.compute_chunk_sizes() first."
        )
    empty = [dim for dim, size in zip(dims, shape, strict=True) if size == 0]
    if empty:
        raise PlanError(
            f"dim {empty[0]!r} has size 0: there is nothing to predict. Check the selection that "
            "made the array."
        )
    if dtype.kind not in "fiucb":
        raise PlanError(
            f"the array is of dtype {dtype}; a model needs numbers: bool, integer, float or "
            "complex. Convert it first, for example with da.astype('float32')."
        )


def check_patch(patch: Any, sizes: Mapping[str, int], channel: str | None) -> dict[str, int]:
    """Return the patch with plain integers, or say what is wrong with it."""
    if not (isinstance(patch, Mapping) and patch):
        raise PlanError(
            f"patch={patch!r}: give a mapping of dim to voxels, such as "
            f"patch={{{', '.join(f'{dim!r}: 64' for dim in list(sizes)[-2:])}}}."
        )
    for dim, size in patch.items():
        if dim not in sizes:
            raise PlanError(
                f"patch names dim {dim!r}, which the array does not have; its dims are "
                f"{dict(sizes)}."
            )
        if dim == channel:
            raise PlanError(
                f"dim {dim!r} is both in patch and the channel dim: the model sees all channels "
                "at once, so leave it out of patch."
            )
        if isinstance(size, bool) or not isinstance(size, int | np.integer) or size < 1:
            raise PlanError(f"patch={{{dim!r}: {size!r}}}: expected a positive integer of voxels.")
    if channel is not None and channel not in sizes:
        raise PlanError(
            f"channel={channel!r} is not a dim of the array; its dims are {dict(sizes)}."
        )
    return {dim: int(size) for dim, size in patch.items()}


def make_axes(
    patch: Mapping[str, int],
    sizes: Mapping[str, int],
    overlap: OverlapLike,
    window: WindowsLike,
    boundary: BoundaryLike,
    align: Sequence[int],
    dtype: np.dtype[Any],
) -> tuple[Axis, ...]:
    """Make the core dims' axes, without blocks.

    Parameters
    ----------
    patch, sizes : mapping of str to int
        Voxels of a patch, as `check_patch` returns it, and of the array.
    overlap : int, float or mapping
        Voxels or fraction; in a mapping, dims that are not named have none.
    window : str, array_like, callable or mapping
    boundary : str, float or mapping
        In a mapping, dims that are not named have ``"none"``.
    align : sequence of int
        For every core dim; see `xspinn.geometry.axis.Axis`.
    dtype : numpy.dtype
        Of the array; a constant boundary must be one of its values.

    Returns
    -------
    tuple of Axis
    """
    overlaps = _spread(overlap, patch, "overlap", 0)
    windows = _spread(window, patch, "window", "ramp")
    boundaries = _spread(boundary, patch, "boundary", "none")
    axes = []
    for (dim, width), unit in zip(patch.items(), align, strict=True):
        axes.append(
            Axis(
                dim=dim,
                size=sizes[dim],
                patch=width,
                overlap=_overlap(dim, width, overlaps[dim], unit),
                boundary=_boundary(dim, boundaries[dim], dtype),
                window=resolve_window(windows[dim], width, dim),
                align=unit,
            )
        )
        _check_fit(axes[-1])
    return tuple(axes)


def _spread(value: Any, patch: Mapping[str, int], name: str, missing: Any) -> dict[str, Any]:
    """One value for every core dim, from one value or a mapping."""
    if not isinstance(value, Mapping):
        return dict.fromkeys(patch, value)
    unknown = [dim for dim in value if dim not in patch]
    if unknown:
        raise PlanError(f"{name} names dim {unknown[0]!r}, which patch does not: {dict(patch)}.")
    return {dim: value.get(dim, missing) for dim in patch}


def _overlap(dim: str, patch: int, value: Any, align: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise PlanError(
            f"overlap of dim {dim!r} is {value!r}; expected voxels (an integer) or a fraction of "
            "the patch (a float in [0, 1))."
        )
    if isinstance(value, float | np.floating) and not 0 <= value < 1:
        raise PlanError(
            f"overlap of dim {dim!r} is {value!r}; a float is a fraction of the patch and must be "
            "in [0, 1). For voxels give an integer."
        )
    overlap = resolve_overlap(cast(float, value), patch, align)
    if not 0 <= overlap < patch:
        raise PlanError(
            f"overlap of dim {dim!r} is {overlap} voxels; expected 0 to {patch - 1}, less than the "
            f"patch of {patch}: the stride, patch - overlap, must be 1 at least."
        )
    if (patch - overlap) % align:
        lower = overlap - (align - (patch - overlap) % align)
        fits = [n for n in (lower, lower + align) if 0 <= n < patch]
        raise PlanError(
            f"the model returns one voxel for every {align} along {dim!r}, so patches must start "
            f"at multiples of {align}; patch {patch} and overlap {overlap} give a stride of "
            f"{patch - overlap}. Use an overlap of {' or '.join(map(str, fits))}."
        )
    return overlap


def _boundary(dim: str, value: Any, dtype: np.dtype[Any]) -> Boundary:
    if isinstance(value, str):
        if value in BOUNDARIES:
            return value
    elif isinstance(value, int | float | np.number | bool):
        with np.errstate(all="ignore"):
            kept = np.array(value).astype(dtype)
        if kept == value or (dtype.kind in "fc" and not np.isfinite(value)) or dtype.kind == "f":
            return float(value)
        raise PlanError(f"boundary={value!r} of dim {dim!r} is not a value of dtype {dtype}.")
    raise PlanError(
        f"boundary of dim {dim!r} is {value!r}; expected one of {list(BOUNDARIES)} or a number."
    )


def _check_fit(axis: Axis) -> None:
    if axis.boundary != "none":
        return
    if axis.size < axis.patch:
        raise PlanError(
            f"dim {axis.dim!r} has {axis.size} voxels, fewer than the patch of {axis.patch}: use a "
            f"smaller patch, or extend the array with boundary='reflect', 'nearest', 'periodic' "
            "or a number."
        )
    if axis.size % axis.align:
        keep = axis.size // axis.align * axis.align
        raise PlanError(
            f"the model returns one voxel for every {axis.align} along {axis.dim!r}, and its size, "
            f"{axis.size}, is not a multiple of that: cut it with da.isel({axis.dim}=slice({keep}))"
            ", or extend it with boundary='reflect'."
        )


def default_batch(patch: Mapping[str, int], channels: int, voxels: int) -> int:
    """Patches in one call, so that a batch holds about this many voxels."""
    return max(1, voxels // (math.prod(patch.values()) * channels))


def check_cost(axes: Sequence[Axis], looped: int) -> None:
    """Warn of overlaps by which every voxel of a large array is run very often.

    Parameters
    ----------
    axes : sequence of Axis
        The core dims.
    looped : int
        Positions of the looped dims.
    """
    patch = math.prod(axis.patch for axis in axes)
    times = patch / math.prod(axis.stride for axis in axes)
    count = looped * math.prod(len(axis.starts) for axis in axes)
    if times <= MAX_TIMES or count * patch < MIN_VOXELS:
        return
    fewer = {a.dim: resolve_overlap(0.25, a.patch, a.align) for a in axes}
    left = looped * math.prod(
        len(patch_starts(a.size, a.patch, fewer[a.dim], a.boundary, a.align)) for a in axes
    )
    warn(
        f"patch={_dims(axes, 'patch')} and overlap={_dims(axes, 'overlap')} make {count:,} "
        f"patches, which run every voxel about {times:,.0f} times. If that is not meant, give a "
        f"smaller overlap: {fewer} makes {left:,} patches."
    )


def _dims(axes: Sequence[Axis], name: str) -> dict[str, int]:
    return {axis.dim: getattr(axis, name) for axis in axes}
