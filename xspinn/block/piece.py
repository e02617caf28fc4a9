"""A part of what a block writes, which knows where its voxels lie in the array.

Schedulers unpickle what uses this without running it, so this module does not import torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from xspinn.geometry.boxes import Box, Span
from xspinn.plans.parts import Output
from xspinn.plans.plan import Plan

__all__ = ["Piece"]


@dataclass(frozen=True)
class Piece:
    """A part of what one block writes, for one output.

    Attributes
    ----------
    plan : Plan
    output : Output
        One of the plan's.
    block : sequence of int
        Its place in the plan's `block_grid`.
    box : tuple of tuple of int
        Within the block's write box, along the plan's `raw_dims`.
    """

    plan: Plan
    output: Output
    block: Sequence[int]
    box: Box

    def voxel(self, place: Sequence[int]) -> dict[str, Span]:
        """Return the voxel of the input at a place in the piece: dim -> span.

        Parameters
        ----------
        place : sequence of int
            Along `raw_dims`.
        """
        plan = self.plan
        inside = dict(zip(plan.raw_dims, place, strict=True))
        at = {dim: n + lo for (dim, n), (lo, _) in zip(inside.items(), self.box, strict=True)}
        found = {}
        for loop, k in zip(plan.loops, self.block, strict=False):
            found[loop.dim] = loop.bounds[k] + at[loop.dim]
        prints = plan.footprints(self.output)
        for p, k in zip(prints, self.block[len(plan.loops) :], strict=True):
            voxel = int((p.writes[k][0] + at[p.axis.dim]) / p.scale)
            found[p.axis.dim] = min(voxel, p.axis.size - 1)
        return {dim: (first, first + 1) for dim, first in found.items()}

    def count(self, marked: npt.NDArray[np.bool_]) -> str:
        """Begin a message about some values of the piece: how many there are, and where.

        Parameters
        ----------
        marked : numpy.ndarray of bool
            Dims as in `raw_dims`.
        """
        name = "the result" if self.output.name is None else f"output {self.output.name!r}"
        first = np.unravel_index(int(marked.argmax()), marked.shape)
        spans = self.voxel([int(n) for n in first]).items()
        place = ", ".join(f"{dim}={lo}:{hi}" for dim, (lo, hi) in spans)
        return (
            f"{int(marked.sum())} of {marked.size} values of {name} in block {tuple(self.block)}, "
            f"first at {place},"
        )
