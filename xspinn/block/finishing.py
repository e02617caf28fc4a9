"""What comes after the sum of all patches: arg max, channel axis, dtype."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from xspinn.plans.parts import Output
from xspinn.plans.plan import Plan

__all__ = ["VOTES", "finish"]

VOTES = 2.0**20
"""Votes are counted in this unit, so that ties stay ties whatever the order of summation."""


def finish(plan: Plan, output: Output, sums: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Apply what comes after the sum: arg max, channel axis, dtype.

    Parameters
    ----------
    plan : Plan
    output : Output
    sums : numpy.ndarray
        Dims as in the plan's `raw_dims`.

    Returns
    -------
    numpy.ndarray
        Dims as in the plan's `result_dims`.
    """
    if plan.rule.before == "one_hot":
        sums = np.rint(sums * VOTES)
    if plan.rule.classes:
        sums = sums.argmax(plan.channel_at)
    elif output.dim is None:
        sums = sums.squeeze(plan.channel_at)
    return sums.astype(output.dtype, copy=False)
