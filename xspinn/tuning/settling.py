"""How the model of a plan is called: as the user says, as measured, or by torch's defaults."""

from __future__ import annotations

import math
from dataclasses import replace

from dask import config

from xspinn.errors import PlanError
from xspinn.machine.threads import cores
from xspinn.models.base import Model
from xspinn.options import get_options
from xspinn.plans.plan import Plan
from xspinn.plans.request import Request
from xspinn.plans.tuning import Asked
from xspinn.tuning.choosing import choose

__all__ = ["settle"]

MAX_BATCHES = 8
"""Usual batches, beyond which it does not matter how large a block is: none larger is tried."""


def settle(plan: Plan, model: Model, request: Request, device: str | None, lazy: bool) -> Plan:
    """Return the plan with the batch and the tuning that it will be run with.

    Parameters
    ----------
    plan : Plan
        With the default batch, or the user's.
    model : Model
    request : Request
    device : str or None
        Where it runs, in torch's words.
    lazy : bool
        Whether the job may run on a cluster.

    Returns
    -------
    Plan

    Raises
    ------
    PlanError
        If the model cannot be called in the way that is asked for.
    """
    precision, tuning = request.precision, request.tuning
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
        given=request.batch is not None,
        patches=plan.n_patches,
        block=min(_largest(plan), MAX_BATCHES * plan.batch),
        at_once=_at_once(plan.n_blocks),
        precision=precision,
        device=device,
        tune=request.tune is True,
        allocator=get_options()["allocator"],
    )
    choice = choose(model, asked, lazy)
    return replace(plan, batch=choice.batch, tuning=choice.tuning)


def _largest(plan: Plan) -> int:
    """Patches of the largest block."""
    core = math.prod(max(b - a for a, b in axis.patches) for axis in plan.axes)
    return core * math.prod(max(loop.chunks) for loop in plan.loops)


def _at_once(blocks: int) -> int:
    """How many blocks dask may run at the same time, as far as its configuration says."""
    if config.get("scheduler", None) in ("sync", "synchronous", "single-threaded"):
        return 1
    return min(blocks, config.get("num_workers", None) or blocks, cores())
