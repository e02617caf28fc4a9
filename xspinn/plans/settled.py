"""What is settled before anything runs, and what follows from it: patches, blocks, dims, boxes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise

from xspinn.geometry.axis import Axis, Footprint
from xspinn.geometry.boxes import Span
from xspinn.geometry.combine import Combine, get_combine
from xspinn.plans.parts import Loop, Output
from xspinn.plans.tuning import Tuning

__all__ = ["Settled"]


@dataclass(frozen=True, repr=False, eq=False)
class Settled:
    """The fields of `xspinn.Plan`, and the geometry that follows from them."""

    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str
    feed: str
    axes: tuple[Axis, ...]
    loops: tuple[Loop, ...]
    channel: str | None
    outputs: tuple[Output, ...]
    combine: str
    activation: str | None
    batch: int
    tuning: Tuning = field(default_factory=Tuning)

    def __post_init__(self) -> None:
        for axis in self.axes:
            lo, hi = axis.starts[0], axis.starts[-1] + axis.patch
            gaps = any(b - a > axis.patch for a, b in pairwise(axis.starts))
            if lo > 0 or hi < axis.size or gaps:
                raise AssertionError(f"the lattice does not cover dim {axis.dim!r}: {axis}")

    # -- geometry ------------------------------------------------------------------------------

    @property
    def rule(self) -> Combine:
        """The combine rule."""
        return get_combine(self.combine)

    @property
    def channels(self) -> int:
        """Channels that the model is fed with."""
        return 1 if self.channel is None else self.shape[self.dims.index(self.channel)]

    @property
    def lattice_shape(self) -> tuple[int, ...]:
        """Patches along every core dim."""
        return tuple(len(axis.starts) for axis in self.axes)

    @property
    def n_patches(self) -> int:
        """Patches of the whole array, over all positions of the looped dims."""
        return math.prod(self.lattice_shape) * math.prod(loop.size for loop in self.loops)

    @property
    def parts(self) -> tuple[Loop | Axis, ...]:
        """The dims that blocks divide: the looped dims, then the core dims."""
        return (*self.loops, *self.axes)

    @property
    def block_grid(self) -> tuple[int, ...]:
        """Blocks along every one of `parts`."""
        return tuple(len(part.bounds) - 1 for part in self.parts)

    @property
    def n_blocks(self) -> int:
        """Blocks of the whole array: the tasks that run the model."""
        return math.prod(self.block_grid)

    def footprints(self, output: Output) -> tuple[Footprint, ...]:
        """Return what the patches write along every core dim, for one output.

        Parameters
        ----------
        output : Output
            One of the plan's.

        Returns
        -------
        tuple of Footprint
            One a core dim.
        """
        return tuple(
            axis.footprint(Fraction(*ratio))
            for axis, ratio in zip(self.axes, output.scale, strict=True)
        )

    def spills(self, output: Output) -> bool:
        """Whether any block writes beyond its own chunk."""
        return any(
            len(targets) > 1 for print_ in self.footprints(output) for targets in print_.targets
        )

    # -- dims and blocks of the result ---------------------------------------------------------

    @property
    def channel_at(self) -> int:
        """Where the channel axis stands among `raw_dims`."""
        if self.channel is not None:
            return self.dims.index(self.channel)
        return min(self.dims.index(axis.dim) for axis in self.axes)

    @property
    def raw_dims(self) -> tuple[str | None, ...]:
        """Dims of what blocks sum up: the input's, with one axis of channels, named None."""
        rest: list[str | None] = [dim for dim in self.dims if dim != self.channel]
        return (*rest[: self.channel_at], None, *rest[self.channel_at :])

    def result_dims(self, output: Output) -> tuple[str, ...]:
        """Dims of one output: those of the input, with its own channel dim or none."""
        dims = (output.dim if dim is None else dim for dim in self.raw_dims)
        return tuple(dim for dim in dims if dim is not None)

    def chunks(self, output: Output) -> tuple[tuple[int, ...], ...]:
        """Chunks of one output along `result_dims`."""
        widths = {p.axis.dim: p.chunks for p in self.footprints(output)}
        raw = self._along_raw(output, widths)
        kept = (output.dim is not None or dim is not None for dim in self.raw_dims)
        return tuple(itertools.compress(raw, kept))

    def raw_chunks(self, output: Output) -> tuple[tuple[int, ...], ...]:
        """Widths of what blocks write, spill included, along `raw_dims`."""
        prints = self.footprints(output)
        return self._along_raw(
            output, {p.axis.dim: tuple(hi - lo for lo, hi in p.writes) for p in prints}
        )

    def _along_raw(
        self, output: Output, widths: Mapping[str, tuple[int, ...]]
    ) -> tuple[tuple[int, ...], ...]:
        by_dim: dict[str | None, tuple[int, ...]] = {None: (output.channels or 1,)}
        by_dim.update(widths)
        by_dim.update({loop.dim: loop.chunks for loop in self.loops})
        return tuple(by_dim[dim] for dim in self.raw_dims)

    def block_at(self, index: Sequence[int]) -> tuple[int, ...]:
        """Turn a place along `raw_dims` into one along `block_grid`."""
        by_dim = dict(zip(self.raw_dims, index, strict=True))
        return tuple(by_dim[part.dim] for part in self.parts)

    # -- boxes of one block --------------------------------------------------------------------

    def position(self, block: Sequence[int]) -> dict[str, Span]:
        """Return the chunk of a block: dim -> first voxel and the one after the last.

        Parameters
        ----------
        block : sequence of int
            Its place in `block_grid`.
        """
        return {
            part.dim: (part.bounds[k], part.bounds[k + 1])
            for part, k in zip(self.parts, block, strict=True)
        }

    def read_box(self, block: Sequence[int]) -> dict[str, Span]:
        """Return what a block reads, in voxels of the extended array: dim -> span."""
        box = self.position(block)
        if self.channel is not None:
            box[self.channel] = (0, self.channels)
        for axis, k in zip(self.axes, block[len(self.loops) :], strict=True):
            box[axis.dim] = axis.reads[k]
        return {dim: box[dim] for dim in self.dims}
