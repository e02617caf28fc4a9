"""Combine rules: how several predictions of one voxel become one.

A rule is data: a map before the sum, the sum itself, a map after it. It serves overlapping
patches and ensembles alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from xspinn.errors import PlanError

__all__ = ["COMBINES", "Combine", "get_combine"]


@dataclass(frozen=True)
class Combine:
    """How the predictions that cover a voxel become one.

    Attributes
    ----------
    name : str
    before : {"identity", "one_hot"}
        Applied to every prediction: nothing, or a one at the greatest channel.
    reduce : {"sum", "max"}
        The weighted sum, or the greatest prediction among the patches of positive weight.
    after : {"identity", "argmax"}
        Applied to the reduced values: nothing, or the number of the greatest channel, the
        lowest one where several are equal.
    """

    name: str
    before: Literal["identity", "one_hot"]
    reduce: Literal["sum", "max"]
    after: Literal["identity", "argmax"]

    @property
    def classes(self) -> bool:
        """Whether the answer is a class, and no longer one value a channel."""
        return self.after == "argmax"


COMBINES = {
    rule.name: rule
    for rule in (
        Combine("mean", "identity", "sum", "identity"),
        Combine("soft", "identity", "sum", "argmax"),
        Combine("hard", "one_hot", "sum", "argmax"),
        Combine("max", "identity", "max", "identity"),
    )
}


def get_combine(name: str) -> Combine:
    """Return the combine rule of this name.

    Examples
    --------
    >>> get_combine("soft").after
    'argmax'
    """
    try:
        return COMBINES[name]
    except (KeyError, TypeError):
        raise PlanError(f"combine={name!r} is not known; give one of {list(COMBINES)}.") from None
