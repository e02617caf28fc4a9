"""Windows: the weight of each voxel of a patch, made into a partition of unity.

The lattice is a product of 1-D lattices and windows are products of 1-D windows. So the weights
are settled once, in 1-D, before anything runs: along each dim the window of every patch is
divided by the sum of all windows at that voxel. Blending is then a plain sum.

A voxel is best predicted by the patch in whose middle it lies. The default, ``"ramp"``, therefore
changes from one patch to the next within 4 voxels in the middle of what the two share.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from xspinn.errors import PlanError

__all__ = ["WINDOWS", "Window", "WindowLike", "partition_of_unity", "resolve_window"]

FloatArray: TypeAlias = npt.NDArray[np.float64]
Window: TypeAlias = "str | tuple[float, ...]"
"""A name of `WINDOWS`, or the weights of a window of the user's, one a voxel of the patch."""
WindowLike: TypeAlias = "str | npt.ArrayLike | Callable[[int], npt.ArrayLike]"

WINDOWS = ("ramp", "trim", "gaussian", "hann", "linear", "uniform")

RAMP = 4
"""Width of the default ramp, in voxels."""


def resolve_window(window: WindowLike, patch: int, dim: str) -> Window:
    """Turn what a user gives as a window into a name or a tuple of weights.

    Parameters
    ----------
    window : str, array_like or callable
        One of `WINDOWS`; or weights of shape (patch,); or a function of the patch size that
        returns them, such as ``scipy.signal.windows.tukey``.
    patch : int
        Voxels of a patch along the dim.
    dim : str
        Name of the dim, for errors.

    Returns
    -------
    str or tuple of float

    Raises
    ------
    PlanError
        If the name is unknown, or the weights have another shape, are negative, not finite or
        all zero.
    """
    if isinstance(window, str):
        if window not in WINDOWS:
            raise PlanError(
                f"window={window!r} is not known; give one of {list(WINDOWS)}, an array with one "
                f"weight a voxel of the patch, or a function of the patch size that returns one."
            )
        return window
    values = np.asarray(window(patch) if callable(window) else window, dtype=np.float64)
    if values.shape != (patch,):
        raise PlanError(
            f"the window of dim {dim!r} has shape {values.shape}, but the patch has {patch} "
            f"voxels along it: give weights of shape ({patch},), for each dim its own with "
            "window={dim: weights}."
        )
    if not np.isfinite(values).all() or (values < 0).any() or not values.any():
        raise PlanError(
            f"the window of dim {dim!r} must be finite and not negative, with one weight above "
            f"zero at least; got values from {values.min()} to {values.max()}."
        )
    return tuple(values.tolist())


@lru_cache(maxsize=256)
def partition_of_unity(
    window: Window, starts: tuple[int, ...], patch: int, size: int
) -> tuple[FloatArray, ...]:
    """Weights of every patch along one dim; at each voxel of the array they sum to one.

    Parameters
    ----------
    window : str or tuple of float
        As `resolve_window` returns it.
    starts : tuple of int
        First voxel of every patch, increasing, without gaps between patches.
    patch, size : int
        Voxels of a patch and of the array.

    Returns
    -------
    tuple of numpy.ndarray of float64, each of shape (patch,)
        Zero outside the array. Read-only.

    Notes
    -----
    ``w_k(x) = w(x - s_k) / sum_j w(x - s_j)``, with samples at half-integers. Where all windows
    are zero (a window that is zero at its rim, at the array's face) the patch whose middle is
    nearest counts fully.

    Examples
    --------
    >>> first, second = partition_of_unity("linear", (0, 4), patch=8, size=12)
    >>> first.round(3).tolist()
    [1.0, 1.0, 1.0, 1.0, 0.875, 0.625, 0.375, 0.125]
    """
    raw = _crossfades(window, starts, patch) if window in ("ramp", "trim", "linear") else None
    weights = raw if raw is not None else [_profile(window, patch) for _ in starts]
    total = np.zeros(size)
    for start, weight in zip(starts, weights, strict=True):
        inside = slice(max(0, -start), max(0, min(patch, size - start)))
        weight[: inside.start] = 0
        weight[inside.stop :] = 0
        total[start + inside.start : start + inside.stop] += weight[inside]
    for voxel in np.flatnonzero(total == 0):
        middle = np.asarray(starts) + patch / 2
        nearest = int(np.abs(middle - (voxel + 0.5)).argmin())
        weights[nearest][voxel - starts[nearest]] = total[voxel] = 1
    for start, weight in zip(starts, weights, strict=True):
        lo, hi = max(0, -start), max(0, min(patch, size - start))
        weight[lo:hi] /= total[start + lo : start + hi]
        weight.flags.writeable = False
    return tuple(weights)


def _profile(window: Window, patch: int) -> FloatArray:
    """Return the weights of a window that is the same for every patch."""
    x = np.arange(patch) + 0.5
    if window == "gaussian":
        sigma = patch / 8  # as usual
        return np.asarray(np.exp(-0.5 * ((x - patch / 2) / sigma) ** 2))
    if window == "hann":
        return np.asarray(np.sin(np.pi * x / patch) ** 2)
    if window == "uniform":
        return np.ones(patch)
    return np.array(window, dtype=np.float64)


def _crossfades(window: Window, starts: tuple[int, ...], patch: int) -> list[FloatArray]:
    """Return the weights of windows that change from a patch to the next as late as they can.

    That is around the middle of what the two truly share, which is more where the last patch was
    shifted. At a face there is no next patch, so the weight stays one.
    """
    weights = [np.ones(patch) for _ in starts]
    for k in range(len(starts) - 1):
        shared = starts[k] + patch - starts[k + 1]
        middle = (starts[k] + patch + starts[k + 1]) / 2
        width = {"ramp": min(RAMP, shared), "trim": 0, "linear": shared}[str(window)]
        for later in (False, True):
            x = np.arange(patch) + 0.5 + starts[k + later]
            if width == 0:
                rise = (x >= middle).astype(np.float64)
            else:
                rise = np.clip((x - middle) / width + 0.5, 0, 1)
            if window == "ramp":
                rise = np.sin(0.5 * np.pi * rise) ** 2
            weights[k + later] *= rise if later else 1 - rise
    return weights
