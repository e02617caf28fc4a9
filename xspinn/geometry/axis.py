"""One core dim of a plan: its lattice, its weights, and the blocks that share the patches out.

A block owns the patches whose weight begins in its chunk. What they read is its read box, what
they write its write box; both may reach beyond the chunk, by halo and by spill. All of it is a
product over dims, so one dim at a time is enough.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property, lru_cache
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from xspinn.geometry.boxes import Span
from xspinn.geometry.lattice import Boundary, patch_starts
from xspinn.geometry.windows import FloatArray, Window, partition_of_unity

__all__ = ["Axis", "Footprint"]


@dataclass(frozen=True)
class Axis:
    """Geometry of one core dim, in voxels of the input.

    Attributes
    ----------
    dim : str
        Name of the dim.
    size, patch, overlap : int
        Voxels of the array, of a patch, and shared by neighbouring patches.
    boundary : str or float
        The boundary rule; see `xspinn.geometry.lattice.patch_starts`.
    window : str or tuple of float
        The window; see `xspinn.geometry.windows.resolve_window`.
    align : int
        All patch starts and block bounds are multiples of this.
    bounds : tuple of int
        Where blocks begin and end: first 0, last `size`.
    """

    dim: str
    size: int
    patch: int
    overlap: int
    boundary: Boundary = "none"
    window: Window = "ramp"
    align: int = 1
    bounds: tuple[int, ...] = ()

    @property
    def stride(self) -> int:
        """Voxels from one patch to the next."""
        return self.patch - self.overlap

    @cached_property
    def starts(self) -> tuple[int, ...]:
        """First voxel of every patch; negative where the array is extended."""
        return patch_starts(self.size, self.patch, self.overlap, self.boundary, self.align)

    @property
    def n_blocks(self) -> int:
        """Number of blocks along the dim."""
        return len(self.bounds) - 1

    @cached_property
    def chunks(self) -> tuple[int, ...]:
        """Voxels of every block's chunk."""
        return tuple(b - a for a, b in pairwise(self.bounds))

    @cached_property
    def patches(self) -> tuple[Span, ...]:
        """First patch of every block, and the one after its last.

        A patch belongs to the block where its weight begins, so a block writes beyond the end of
        its chunk and never before its beginning. In the order of blocks, what a block waits for
        is then always done before it, and a run never holds more than thin strips.
        """
        firsts = np.searchsorted(self._begins, self.bounds)
        firsts[-1] = len(self.starts)
        return tuple(pairwise(firsts.tolist()))

    @cached_property
    def _begins(self) -> npt.NDArray[np.int64]:
        """Where the weight of every patch, or of any after it, begins."""
        supports = self.footprint(Fraction(1)).supports
        begins = [lo if hi > lo else self.size - 1 for lo, hi in supports]
        return np.minimum.accumulate(np.array(begins)[::-1])[::-1]

    def gaps(self, bounds: Sequence[int]) -> npt.NDArray[np.int64]:
        """Return how far behind every inner bound the next patch begins: what spill costs."""
        inner = np.asarray(bounds[1:-1], dtype=np.int64)
        begins = np.append(self._begins, self.size)
        return begins[np.searchsorted(begins, inner)] - inner

    @cached_property
    def reads(self) -> tuple[Span, ...]:
        """Box that every block reads; it may reach beyond the array. Empty without patches."""
        return tuple(
            (self.starts[a], self.starts[b - 1] + self.patch) if b > a else (lo, lo)
            for lo, (a, b) in zip(self.bounds, self.patches, strict=False)
        )

    @cached_property
    def halo(self) -> Span:
        """Greatest reach of a read box into the chunks before its own, and after it."""
        before = after = 0
        for k, (lo, hi) in enumerate(self.reads):
            if hi > lo and k > 0:
                before = max(before, self.bounds[k] - lo)
            if hi > lo and k < self.n_blocks - 1:
                after = max(after, hi - self.bounds[k + 1])
        return before, after

    @property
    def extended(self) -> Span:
        """From the first voxel to the one after the last that any patch or the array holds."""
        return min(0, self.starts[0]), max(self.size, self.starts[-1] + self.patch)

    def footprint(self, scale: Fraction) -> Footprint:
        """Return what the patches write, for an output of this scale."""
        return _footprint(self, scale)


@lru_cache(maxsize=256)
def _footprint(axis: Axis, scale: Fraction) -> Footprint:
    return Footprint(axis, scale)


@dataclass(frozen=True)
class Footprint:
    """What the patches of an axis write, in voxels of one output.

    Attributes
    ----------
    axis : Axis
    scale : Fraction
        Output voxels for one input voxel.
    """

    axis: Axis
    scale: Fraction

    def _scaled(self, voxels: int) -> int:
        scaled = voxels * self.scale
        return -(-scaled.numerator // scaled.denominator)

    @cached_property
    def size(self) -> int:
        """Voxels of the output along the dim."""
        return self._scaled(self.axis.size)

    @cached_property
    def patch(self) -> int:
        """Voxels of a patch of the output."""
        return self._scaled(self.axis.patch)

    @cached_property
    def starts(self) -> tuple[int, ...]:
        """First voxel of every patch."""
        return tuple(self._scaled(s) for s in self.axis.starts)

    @cached_property
    def bounds(self) -> tuple[int, ...]:
        """Where the blocks' chunks begin and end."""
        return tuple(self._scaled(b) for b in self.axis.bounds)

    @cached_property
    def chunks(self) -> tuple[int, ...]:
        """Voxels of every block's chunk."""
        return tuple(b - a for a, b in pairwise(self.bounds))

    @cached_property
    def weights(self) -> tuple[FloatArray, ...]:
        """Weights of every patch; at each voxel they sum to one."""
        return partition_of_unity(self.axis.window, self.starts, self.patch, self.size)

    @cached_property
    def supports(self) -> tuple[Span, ...]:
        """Where every patch has weight, in voxels of the output; empty where it has none."""
        spans = []
        for start, weight in zip(self.starts, self.weights, strict=True):
            (at,) = np.nonzero(weight)
            spans.append((start + int(at[0]), start + int(at[-1]) + 1) if at.size else (0, 0))
        return tuple(spans)

    @cached_property
    def writes(self) -> tuple[Span, ...]:
        """Box that every block writes: its chunk and its spill."""
        spans = []
        for k, (a, b) in enumerate(self.axis.patches):
            held = [s for s in self.supports[a:b] if s[1] > s[0]]
            held.append((self.bounds[k], self.bounds[k + 1]))
            spans.append((min(lo for lo, _ in held), max(hi for _, hi in held)))
        return tuple(spans)

    @cached_property
    def targets(self) -> tuple[tuple[int, ...], ...]:
        """For every block, the blocks into whose chunks it writes, itself among them."""
        los, his = np.array(self.writes).T
        first = np.searchsorted(self.bounds, los, side="right") - 1
        stop = np.searchsorted(self.bounds, his, side="left")
        return tuple(tuple(range(a, b)) for a, b in zip(first.tolist(), stop.tolist(), strict=True))

    @cached_property
    def sources(self) -> tuple[tuple[int, ...], ...]:
        """For every block, the blocks that write into its chunk, itself among them."""
        found: list[list[int]] = [[] for _ in self.targets]
        for block, targets in enumerate(self.targets):
            for target in targets:
                found[target].append(block)
        return tuple(map(tuple, found))

    @cached_property
    def settled(self) -> tuple[Span, ...]:
        """Part of every block's chunk that no other block writes into; it may be empty."""
        spans = []
        for k, (lo, hi) in enumerate(pairwise(self.bounds)):
            # A write box holds its whole chunk, so those before reach in from the front only.
            before = [self.writes[j][1] for j in self.sources[k] if j < k]
            after = [self.writes[j][0] for j in self.sources[k] if j > k]
            first = min(max([lo, *before]), hi)
            spans.append((first, max(first, min([hi, *after]))))
        return tuple(spans)
