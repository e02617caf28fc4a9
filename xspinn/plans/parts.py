"""What a plan is made of besides its core dims: looped dims, and the arrays that come out."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

__all__ = ["Loop", "Output"]


@dataclass(frozen=True)
class Loop:
    """A dim that the model does not see.

    Attributes
    ----------
    dim : str
    size : int
    bounds : tuple of int
        Where blocks begin and end.
    """

    dim: str
    size: int
    bounds: tuple[int, ...]

    @property
    def chunks(self) -> tuple[int, ...]:
        """Positions of every block's chunk."""
        return tuple(b - a for a, b in pairwise(self.bounds))


@dataclass(frozen=True)
class Output:
    """One array that the model returns.

    Attributes
    ----------
    name : str or None
        Name of the variable; None where the model returns one tensor.
    channels : int or None
        Channels that the model returns; None where it returns no channel axis.
    dim : str or None
        Name of the result's channel dim; None where the result has none.
    labels : tuple of str or float, or None
        Labels of the channels.
    scale : tuple of (int, int)
        For every core dim, the output's voxels over the input's, as numerator and denominator.
    dtype : str
        Of the result.
    accumulate : str
        Dtype of the sums.
    """

    name: str | None
    channels: int | None
    dim: str | None
    labels: tuple[str | float, ...] | None
    scale: tuple[tuple[int, int], ...]
    dtype: str
    accumulate: str

    @property
    def scaled(self) -> bool:
        """Whether any dim has another spatial scale than the input."""
        return any(ratio != (1, 1) for ratio in self.scale)
