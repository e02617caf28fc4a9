"""What dtype a model is fed with, for an array of another."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from xspinn.errors import ModelError

__all__ = ["HALF", "check_integers", "default_feed", "feed_of", "torch_dtype"]

HALF = (torch.float16, torch.bfloat16)


def default_feed(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the dtype that a model without a dtype of its own is fed with.

    Floats and complex numbers stay as they are. Bools and integers become the smallest of
    float32 and float64 that holds them all.
    """
    if dtype.kind in "fc":
        return torch_dtype(dtype)
    return np.dtype("float32" if dtype.itemsize <= 2 else "float64")


def feed_of(own: torch.dtype | None, dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the dtype to feed a model with whose weights are of a dtype, for an array's dtype."""
    if own is None:
        return default_feed(dtype)
    if dtype.kind == "c" and not own.is_complex:
        raise ModelError(
            f"the array is {dtype}, but the model's weights are {own}: a real model cannot take "
            "complex input. Predict on da.real or abs(da), or stack real and imaginary parts as "
            "channels."
        )
    # Half-precision weights are fed with float32 by numpy and cast on the device.
    if own in HALF:
        return np.dtype("float32")
    return check_integers(torch.empty(0, dtype=own).numpy().dtype, dtype)


def check_integers(feed: np.dtype[Any], dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the dtype to feed a model with, unless that would cut off fractions or digits."""
    if feed.kind in "iub" and not np.can_cast(dtype, feed, "safe"):
        raise ModelError(
            f"the array is {dtype}, but the model takes {feed}, which cannot hold its values: "
            f"scale or round them as the model expects, and give da.astype({str(feed)!r})."
        )
    return feed


def torch_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the dtype that torch can add up: unsigned integers become wider signed ones."""
    if dtype.kind == "u" and dtype.itemsize > 1:
        if dtype.itemsize == 8:
            raise ModelError("the model returned uint64, which torch cannot add up: return int64.")
        return np.dtype(f"int{dtype.itemsize * 16}")
    if dtype.kind in "fc" and dtype.itemsize > (8 if dtype.kind == "f" else 16):
        return np.dtype("float64" if dtype.kind == "f" else "complex128")
    return dtype.newbyteorder("=")
