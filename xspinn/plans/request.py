"""What a user asks for: one frozen value, with the only defaults there are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from xspinn.errors import PlanError
from xspinn.geometry.combine import Combine, get_combine
from xspinn.plans.arguments import ActivationLike, BoundaryLike, OverlapLike, WindowsLike
from xspinn.plans.bounds import Blocks
from xspinn.plans.outputs import OutputLike
from xspinn.plans.tuning import TuneLike, Tuning, as_tuning, check_precision

__all__ = ["Request"]


@dataclass(frozen=True, kw_only=True)
class Request:
    """The arguments of a plan, as `xspinn.predict` describes them.

    Whatever shows a user one of these arguments makes a request and passes it on. What needs no
    array to be checked is checked here, the rest when the plan is made.

    Raises
    ------
    PlanError
        If the combine rule, the batch, the precision or the tuning is none.

    Examples
    --------
    >>> request = Request(patch={"y": 64, "x": 64}, combine="soft")
    >>> request.overlap, request.rule.classes
    (0.25, True)
    """

    patch: Mapping[str, int]
    overlap: OverlapLike = 0.25
    window: WindowsLike = "ramp"
    combine: str = "mean"
    boundary: BoundaryLike = "none"
    channel: str | None = None
    output: OutputLike = None
    activation: ActivationLike = None
    batch: int | None = None
    blocks: Blocks = None
    dtype: Any = None
    device: str | None = None
    tune: TuneLike = True
    precision: str = "float32"

    def __post_init__(self) -> None:
        get_combine(self.combine)
        check_precision(self.precision)
        as_tuning(self.tune, self.precision)
        whole = isinstance(self.batch, int | np.integer) and not isinstance(self.batch, bool)
        if self.batch is not None and not (whole and self.batch > 0):
            raise PlanError(f"batch={self.batch!r}: expected a positive number of patches.")

    @property
    def rule(self) -> Combine:
        """The combine rule."""
        return get_combine(self.combine)

    @property
    def tuning(self) -> Tuning | None:
        """How the model is called, where the user says so; None where it is to be measured."""
        return as_tuning(self.tune, self.precision)
