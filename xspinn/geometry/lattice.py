"""The lattice: where all patches of one dim start, and what lies beyond the array's faces.

The lattice is anchored to the array's origin and depends on the size, the patch, the overlap and
the boundary rule alone: never on chunks, blocks or workers. So the answer does not, either.
"""

from __future__ import annotations

import math
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = ["BOUNDARIES", "Boundary", "extended_indices", "patch_starts", "resolve_overlap"]

Boundary: TypeAlias = "str | float"
"""One of `BOUNDARIES` or a number, as in `dask.array.map_overlap`."""

BOUNDARIES = ("none", "reflect", "nearest", "periodic")


def resolve_overlap(overlap: float, patch: int, align: int = 1) -> int:
    """Overlap in voxels, from voxels (an integer) or a fraction of the patch (a float).

    Parameters
    ----------
    overlap : int or float
        Voxels, or a fraction in [0, 1) of `patch`.
    patch : int
        Voxels of a patch.
    align : int, default: 1
        A fraction is rounded so that ``patch - overlap`` is a multiple of this. Voxels that are
        given as such are kept.

    Returns
    -------
    int

    Examples
    --------
    >>> resolve_overlap(0.25, 64), resolve_overlap(16, 64), resolve_overlap(0.2, 64, align=4)
    (16, 16, 12)
    """
    if not isinstance(overlap, float | np.floating):
        return int(overlap)
    stride = align * max(1, round(patch * (1 - float(overlap)) / align))
    return patch - min(stride, patch)


def patch_starts(
    size: int, patch: int, overlap: int, boundary: Boundary = "none", align: int = 1
) -> tuple[int, ...]:
    """First voxel of every patch along one dim.

    Under ``"none"`` nothing is invented: the last patch is shifted inwards so that it ends where
    the array ends. Under any other rule the array is extended by ``overlap // 2`` on both sides,
    and on the far side up to the lattice; starts may then be negative.

    Parameters
    ----------
    size, patch, overlap : int
        Voxels of the array, of a patch, and shared by neighbouring patches. ``overlap < patch``,
        and ``size >= patch`` under ``"none"``.
    boundary : str or float, default: "none"
        The boundary rule.
    align : int, default: 1
        All starts are multiples of this. It divides ``patch``, ``overlap`` and, under ``"none"``,
        ``size``; a model that returns one voxel for every `align` needs it.

    Returns
    -------
    tuple of int
        Strictly increasing.

    Examples
    --------
    >>> patch_starts(100, 32, 8)
    (0, 24, 48, 68)
    >>> patch_starts(100, 32, 8, "reflect")
    (-4, 20, 44, 68, 92)
    """
    stride = patch - overlap
    if boundary == "none":
        starts = list(range(0, size - patch + 1, stride))
        if starts[-1] + patch < size:
            starts.append(size - patch)
        return tuple(starts)
    before = math.ceil(overlap // 2 / align) * align
    count = max(0, math.ceil((size + 2 * before - patch) / stride)) + 1
    return tuple(stride * k - before for k in range(count))


def extended_indices(start: int, stop: int, size: int, boundary: Boundary) -> npt.NDArray[np.int64]:
    """Where voxels ``start:stop`` of the extended array come from in the array itself.

    Parameters
    ----------
    start, stop : int
        Range along the dim; it may reach beyond ``0:size`` by any amount.
    size : int
        Voxels of the array along the dim.
    boundary : str or float
        The boundary rule. ``"reflect"`` repeats the face voxel, as dask's does. Under a number
        and ``"none"``, voxels outside have no origin: they are -1.

    Returns
    -------
    numpy.ndarray of int64, shape (stop - start,)

    Examples
    --------
    >>> extended_indices(-2, 5, 3, "reflect").tolist()
    [1, 0, 0, 1, 2, 2, 1]
    >>> extended_indices(-2, 5, 3, "periodic").tolist()
    [1, 2, 0, 1, 2, 0, 1]
    """
    at = np.arange(start, stop, dtype=np.int64)
    if boundary == "reflect":
        at %= 2 * size
        return np.where(at < size, at, 2 * size - 1 - at)
    if boundary == "nearest":
        return at.clip(0, size - 1)
    if boundary == "periodic":
        return at % size
    return np.where((at < 0) | (at >= size), -1, at)
