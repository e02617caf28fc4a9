"""What comes after the sum of all patches: arg max, channel axis, dtype.

Weights sum to one up to rounding, so a mean of ones may be a little less. Where the result holds
whole numbers the mean is therefore rounded and never cut off, and what lies beyond the range of its
dtype gets the end of that range. NaN is no whole number, but an error; in a class map it is no
class, which has a value of its own, see `xspinn.plans.outputs.no_class`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from xspinn.block.piece import Piece
from xspinn.block.written import Array
from xspinn.errors import ModelError
from xspinn.plans.outputs import no_class

__all__ = ["VOTES", "finish", "finish_labels"]

VOTES = 2.0**20
"""Votes are counted in this unit, so that ties stay ties whatever the order of summation."""


def finish(piece: Piece, sums: Array) -> Array:
    """Apply what comes after the sum: arg max, channel axis, dtype.

    Parameters
    ----------
    piece : Piece
        Where the sums stand.
    sums : numpy.ndarray
        Dims as in the plan's `raw_dims`. It is not changed.

    Returns
    -------
    numpy.ndarray
        Dims as in the plan's `result_dims`.

    Raises
    ------
    ModelError
        If the result's dtype has no value for NaN that is among the sums.
    """
    plan, at = piece.plan, piece.plan.channel_at
    if plan.rule.classes:
        if plan.rule.before == "one_hot":
            sums = np.rint(sums * VOTES)
        unknown = np.asarray(np.isnan(sums).any(at)) if _has_nan(sums) else None
        return _classes(piece, sums.argmax(at), unknown)
    dtype = np.dtype(piece.output.dtype)
    if dtype.kind in "iub" and _has_nan(sums):
        raise ModelError(
            f"{piece.count(np.isnan(sums))} are NaN, which {dtype} cannot hold: leave dtype out, "
            "or give a float, or fill NaN beforehand, in the input with da.fillna(...) or in what "
            "the model returns."
        )
    if piece.output.dim is None:
        sums = sums.squeeze(at)
    if dtype.kind in "iu":
        return _whole(sums, dtype)
    if dtype.kind == "b" and sums.dtype.kind == "f":
        return np.asarray(sums >= 0.5)
    with np.errstate(over="ignore"):  # infinity, as on a device
        return sums.astype(dtype, copy=False)


def finish_labels(piece: Piece, labels: Array) -> Array:
    """Give the result's dtype to classes, where the greatest value of theirs stands for none.

    Parameters
    ----------
    piece : Piece
        Where they stand.
    labels : numpy.ndarray of int
        Dims as in the plan's `result_dims`.

    Returns
    -------
    numpy.ndarray

    Raises
    ------
    ModelError
        If the result's dtype has no value left for voxels without a class.
    """
    if labels.dtype == piece.output.dtype:
        return labels
    return _classes(piece, labels, labels == np.iinfo(labels.dtype).max)


def _classes(piece: Piece, labels: Array, unknown: npt.NDArray[np.bool_] | None) -> Array:
    output = piece.output
    dtype = np.dtype(output.dtype)
    found = labels.astype(dtype, copy=False)
    if unknown is None or not unknown.any():
        return found
    fill = no_class(output)
    if fill is None:
        wider = np.dtype(f"{dtype.kind}{2 * dtype.itemsize}")
        at = piece.plan.channel_at
        raise ModelError(
            f"{piece.count(np.expand_dims(unknown, at))} have no class, because scores are NaN, "
            f"and {output.channels} classes leave no value of {dtype} for that: give "
            f"dtype={str(wider)!r}, or fill NaN beforehand, in the input with da.fillna(...) or in "
            "what the model returns."
        )
    found[unknown] = fill
    return found


def _whole(sums: Array, dtype: np.dtype[Any]) -> Array:
    """Round to the nearest whole number, and clip to the range of an integer dtype."""
    if np.can_cast(sums.dtype, dtype):
        return sums.astype(dtype, copy=False)
    info = np.iinfo(dtype)
    least, most = sums.min().item(), sums.max().item()
    with np.errstate(invalid="ignore"):  # what does not fit is put right below
        if sums.dtype.kind == "f":
            # Into the result at once: numpy converts a few thousand values at a time.
            found = np.rint(sums, out=np.empty(sums.shape, dtype), casting="unsafe")
        else:
            found = sums.astype(dtype)
    # The ends of a wide dtype may have no float of their own, and the next one is beyond them.
    if least <= info.min - 0.5:
        found[sums <= info.min] = info.min
    if most >= info.max + 0.5:
        found[sums >= info.max] = info.max
    return found


def _has_nan(sums: Array) -> bool:
    """Whether any is NaN: the greatest is, if any is, and that needs no copy."""
    return sums.dtype.kind == "f" and bool(np.isnan(sums.max()))
