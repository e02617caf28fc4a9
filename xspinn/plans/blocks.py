"""Where blocks begin and end: uniform chunks that follow the input's, a batch and a budget.

Chunks are uniform but for the last, which is what zarr stores. They are a whole number of strides
wide, because then each block's spill is thinnest and the same for all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np

from xspinn.geometry.axis import Axis
from xspinn.plans.bounds import Blocks, as_blocks, given_blocks, loop_bounds, uniform_bounds
from xspinn.plans.outputs import Answer
from xspinn.plans.parts import Loop

__all__ = ["choose_blocks", "make_blocks", "voxel_bytes"]


def voxel_bytes(
    answers: Sequence[Answer], channels: int, dtype: np.dtype[Any], feed: np.dtype[Any]
) -> Fraction:
    """Bytes that a block takes for every voxel of its input: as read, as fed, and its sums.

    Parameters
    ----------
    answers : sequence of Answer
        What the model returns.
    channels : int
        Channels that it is fed with.
    dtype, feed : numpy.dtype
        Of the array, and what the model is fed with.

    Returns
    -------
    Fraction
    """
    sums = (
        (answer.channels or 1) * max(4, np.dtype(answer.dtype).itemsize) * math.prod(answer.scale)
        for answer in answers
    )
    return Fraction(channels * (dtype.itemsize + feed.itemsize)) + sum(sums)


def make_blocks(
    axes: Sequence[Axis],
    looped: Mapping[str, int],
    chunks: Mapping[str, int | None],
    blocks: Blocks,
    voxel: Fraction | int,
    budget: int,
    batch: int,
) -> tuple[tuple[Axis, ...], tuple[Loop, ...]]:
    """Give all dims their blocks: those asked for, the others by chunks, budget and batch.

    Parameters
    ----------
    axes : sequence of Axis
        The core dims, without bounds.
    looped : mapping of str to int
        Sizes of the looped dims.
    chunks : mapping of str to int or None
        Voxels of the input's widest chunk along every one of these dims; None where it has none.
    blocks : int, mapping or None
        What the user asks for; see `xspinn.predict`.
    voxel : Fraction or int
        Bytes that a block takes for every voxel that it reads.
    budget : int
        Bytes that a block should not exceed.
    batch : int
        Patches that a block should hold at least, as far as the budget lets it.

    Returns
    -------
    tuple of (tuple of Axis, tuple of Loop)
    """
    core = [axis.dim for axis in axes]
    asked = as_blocks(blocks, [*core, *looped], core)
    fixed = {axis.dim: given_blocks(axis, asked[axis.dim]) for axis in axes if axis.dim in asked}
    bounds = {
        dim: loop_bounds(looped[dim], None, asked[dim], dim) for dim in looped if dim in asked
    }
    widths = {
        dim: max(b - a for a, b in pairwise(bounds[dim])) if dim in bounds else chunks[dim] or size
        for dim, size in looped.items()
    }
    # A patch at every position of the looped dims must fit first; chunks that exist are kept.
    patch = math.prod(min(axis.patch, axis.size) for axis in axes)
    while voxel * patch * math.prod(widths.values()) > budget:
        unchunked = [d for d in widths if d not in asked and chunks[d] is None and widths[d] > 1]
        if not unchunked:
            break
        widest = max(unchunked, key=widths.__getitem__)
        widths[widest] = math.ceil(widths[widest] / 2)
    by_dim = {axis.dim: axis for axis in axes} | fixed
    free = [dim for dim in core if dim not in asked]
    chosen = choose_blocks(
        [by_dim[dim] for dim in free],
        [chunks[dim] for dim in free],
        lambda some: _Block(by_dim | {axis.dim: axis for axis in some}, widths).n_bytes(voxel),
        budget,
    )
    block = _Block(by_dim | {axis.dim: axis for axis in chosen}, widths)
    units = {dim: chunks[dim] or 1 for dim in looped if dim not in asked}
    block = _filled(block, free, looped, units, batch, lambda wider: wider.n_bytes(voxel) <= budget)
    loops = (
        Loop(dim, size, bounds[dim] if dim in bounds else uniform_bounds(size, block.widths[dim]))
        for dim, size in looped.items()
    )
    return tuple(block.axes[dim] for dim in core), tuple(loops)


@dataclass(frozen=True)
class _Block:
    """One block while its size is chosen: the core dims with their bounds, and looped widths."""

    axes: Mapping[str, Axis]
    widths: Mapping[str, int]

    def n_bytes(self, voxel: Fraction | int) -> int:
        """Bytes that it takes at so many a voxel."""
        box = math.prod(min(max(a.chunks) + a.overlap, a.size) for a in self.axes.values())
        return int(voxel * box * math.prod(self.widths.values()))

    @property
    def patches(self) -> int:
        """Patches of a block, the last of every dim aside."""
        return math.prod(map(_patches, self.axes.values())) * math.prod(self.widths.values())


def _patches(axis: Axis) -> int:
    if axis.n_blocks == 1:
        return len(axis.starts)
    return max(1, round(axis.patches[-1][0] / (axis.n_blocks - 1)))


def _filled(
    block: _Block,
    free: Sequence[str],
    looped: Mapping[str, int],
    units: Mapping[str, int],
    batch: int,
    fits: Callable[[_Block], bool],
) -> _Block:
    """Widen a block until it holds a batch, or nothing wider fits.

    A model that is called on a part of a batch is slower, and narrow blocks read most of their
    voxels twice.
    """
    while block.patches < batch:
        more = Fraction(batch, block.patches)
        wider = next(filter(fits, _wider(block, free, looped, units, more)), None)
        if wider is None:
            break
        block = wider
    return block


def _wider(
    block: _Block,
    free: Sequence[str],
    looped: Mapping[str, int],
    units: Mapping[str, int],
    more: Fraction,
) -> Iterator[_Block]:
    """Blocks that are wider along one dim, those that save the most halo first."""
    divided = [block.axes[dim] for dim in free if block.axes[dim].n_blocks > 1]
    for axis in sorted(divided, key=lambda a: (-a.overlap / a.chunks[0], a.chunks[0] / a.stride)):
        n = _more_units(axis.size, axis.chunks[0], axis.stride, more)
        wider = _widened(axis, n)
        while wider.chunks[0] <= axis.chunks[0]:
            n += 1
            wider = _widened(axis, n)
        yield replace(block, axes={**block.axes, axis.dim: wider})
    for dim, unit in units.items():
        if block.widths[dim] < looped[dim]:
            n = _more_units(looped[dim], block.widths[dim], unit, more)
            yield replace(block, widths={**block.widths, dim: min(n * unit, looped[dim])})


def _more_units(size: int, width: int, unit: int, more: Fraction) -> int:
    """Twice the units of a width, or as many as are needed, so that all widths come out alike."""
    now, total = math.ceil(width / unit), math.ceil(size / unit)
    wanted = min(2 * now, math.ceil(now * more))
    even = math.ceil(total / math.ceil(total / wanted))
    return even if even > now else wanted


def choose_blocks(
    axes: Sequence[Axis],
    chunks: Sequence[int | None],
    n_bytes: Callable[[Sequence[Axis]], int],
    budget: int,
) -> tuple[Axis, ...]:
    """Give every axis its blocks, close to the input's chunks and within a budget.

    Parameters
    ----------
    axes : sequence of Axis
        Without bounds.
    chunks : sequence of int or None
        Voxels of the input's chunks along each axis; None where it has none.
    n_bytes : callable
        Bytes that one block of these axes takes.
    budget : int
        Bytes that a block should not exceed. A block is one stride wide at least, so a large
        patch may still exceed it.

    Returns
    -------
    tuple of Axis
    """
    strides = [
        math.ceil(axis.size / axis.stride)
        if chunk is None or chunk >= axis.size
        else max(1, min(math.ceil(axis.size / axis.stride), round(chunk / axis.stride)))
        for axis, chunk in zip(axes, chunks, strict=True)
    ]
    blocks = [_widened(axis, n) for axis, n in zip(axes, strides, strict=True)]
    while n_bytes(blocks) > budget:
        # Halve the dim with the most strides: cubes have the least halo.
        for at in sorted(range(len(axes)), key=lambda i: strides[i], reverse=True):
            smaller = _widened(axes[at], math.ceil(strides[at] / 2))
            if strides[at] > 1 and smaller.chunks[0] < blocks[at].chunks[0]:
                strides[at] = math.ceil(strides[at] / 2)
                blocks[at] = smaller
                break
        else:
            break
    return tuple(blocks)


def _widened(axis: Axis, strides: int) -> Axis:
    """Blocks of `strides` strides, or as many more as it takes for halos to reach one chunk far.

    Where an extended array puts patches a voxel or two before the bounds, narrower chunks by so
    much have the thinner spill. Elsewhere they would thicken it, and a ragged width gains nothing.
    """
    most = 1 if axis.boundary == "none" else 3
    while True:
        widths = [strides * axis.stride - k * axis.align for k in range(most)]
        if widths[0] >= axis.size:
            return replace(axis, bounds=(0, axis.size))
        fits = [uniform_bounds(axis.size, width) for width in widths if width > 0]
        bounds = min(fits, key=lambda bounds: axis.gaps(bounds).max())
        wide, chunk = replace(axis, bounds=bounds), bounds[1]
        reach = max(wide.halo)
        if reach <= chunk:
            return wide
        strides = max(strides + 1, math.ceil(reach / axis.stride))
