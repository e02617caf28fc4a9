"""What all blocks of one run share, besides the model.

Schedulers unpickle it without running it, so this module does not import torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import uuid4

import numpy.typing as npt

from xspinn.plans.plan import Plan

__all__ = ["CancelToken", "Job"]


class CancelToken:
    """Tells the blocks of one computation that nobody waits for them any more.

    It holds for this process. A process that a job is sent to gets a token of its own.

    Attributes
    ----------
    cancelled : bool
    """

    def __init__(self) -> None:
        self.cancelled = False

    def __reduce__(self) -> tuple[type[CancelToken], tuple[()]]:
        return CancelToken, ()


@dataclass(frozen=True)
class Job:
    """Plan, device and what else a block needs to know.

    Attributes
    ----------
    plan : Plan
    device : str or None
        None for the best of the process that runs a block.
    activation : str, callable or None
        Applied to the model's output; see `xspinn.models.activations`.
    coords : dict
        Dim -> its coordinate values, for messages.
    check_nan : bool
        Whether to look for NaN that the input does not explain.
    answered : dict
        Output -> the dtype that the model answered with when it was asked, and must keep to.
    run : str
        Tells this run from all others.
    turns : bool
        Whether its blocks take turns to call the model. Where a model's call made the job, they do
        not, since that call has its turn until they are done.
    cancel : CancelToken
        A run may be computed several times, each with a token of its own; see
        `xspinn.graph.cancelling`.
    """

    plan: Plan
    device: str | None = None
    activation: str | Callable[[Any], Any] | None = None
    coords: dict[str, npt.NDArray[Any]] = field(default_factory=dict)
    check_nan: bool = True
    answered: dict[str | None, str] = field(default_factory=dict)
    run: str = field(default_factory=lambda: uuid4().hex)
    turns: bool = True
    cancel: CancelToken = field(default_factory=CancelToken, repr=False, compare=False)

    def computed_anew(self, *, turns: bool) -> Job:
        """Return the job for one computation, which can be cancelled without the others.

        Parameters
        ----------
        turns : bool
            Whether its blocks take turns; those of a job that never does will not either way.
        """
        return replace(self, turns=self.turns and turns, cancel=CancelToken())

    def where(self, spans: dict[str, tuple[int, int]]) -> str:
        """Say where a box is, in voxels and in coordinates."""
        words = []
        for dim, (lo, hi) in spans.items():
            word = f"{dim}={lo}:{hi}"
            if dim in self.coords:
                values = self.coords[dim]
                first, last = values[max(lo, 0)], values[min(hi, len(values)) - 1]
                word += f" ({first} to {last})" if hi - lo > 1 else f" ({first})"
            words.append(word)
        return ", ".join(words)
