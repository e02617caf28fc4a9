"""Where blocks begin and end: uniform chunks that follow the input's and a memory budget.

Chunks are uniform but for the last, which is what zarr stores. They are a whole number of strides
wide, because then each block's spill is thinnest and the same for all.
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np

from xspinn.errors import PlanError
from xspinn.geometry.axis import Axis

__all__ = ["Blocks", "as_blocks", "choose_blocks", "given_blocks", "loop_bounds", "uniform_bounds"]

Blocks: TypeAlias = "int | Mapping[str, int | Sequence[int]] | None"


def uniform_bounds(size: int, chunk: int) -> tuple[int, ...]:
    """Bounds of chunks of `chunk` voxels, the last one what is left.

    Examples
    --------
    >>> uniform_bounds(10, 4)
    (0, 4, 8, 10)
    """
    return (*range(0, size, chunk), size)


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
    much have the thinner spill.
    """
    while True:
        widths = [strides * axis.stride - k * axis.align for k in range(3)]
        if widths[0] >= axis.size:
            return replace(axis, bounds=(0, axis.size))
        fits = [uniform_bounds(axis.size, width) for width in widths if width > 0]
        bounds = min(fits, key=lambda bounds: axis.gaps(bounds).max())
        wide, chunk = replace(axis, bounds=bounds), bounds[1]
        reach = max(wide.halo)
        if reach <= chunk:
            return wide
        strides = max(strides + 1, math.ceil(reach / axis.stride))


def given_blocks(axis: Axis, blocks: int | Sequence[int]) -> Axis:
    """Give an axis the blocks that a user asks for: one size, or the size of each.

    Raises
    ------
    PlanError
        If the sizes are not positive, do not sum to the dim's size, or are not multiples of the
        axis' alignment.
    """
    try:
        if isinstance(blocks, bool | str):
            raise TypeError
        several = np.iterable(blocks)
        listed: Any = blocks if several else [blocks]
        sizes = [operator.index(n) for n in listed]
    except TypeError:
        raise PlanError(
            f"blocks={{{axis.dim!r}: {blocks!r}}}: give a number of voxels, several that sum to "
            f"{axis.size}, or -1 for one block."
        ) from None
    if several:
        if min(sizes, default=0) < 1 or sum(sizes) != axis.size:
            raise PlanError(
                f"blocks={{{axis.dim!r}: {tuple(sizes)}}}: the sizes must be positive and sum to "
                f"{axis.size}, the size of dim {axis.dim!r}; they sum to {sum(sizes)}."
            )
        bounds = tuple(itertools.accumulate(sizes, initial=0))
    else:
        chunk = axis.size if sizes[0] == -1 else sizes[0]
        if chunk < 1:
            raise PlanError(
                f"blocks={{{axis.dim!r}: {blocks}}}: a block has one voxel at least; give voxels, "
                f"a tuple of voxels that sums to {axis.size}, or -1 for one block."
            )
        bounds = uniform_bounds(axis.size, min(chunk, axis.size))
    off = [b for b in bounds[:-1] if b % axis.align]
    if off:
        raise PlanError(
            f"blocks along {axis.dim!r} begin at voxel {off[0]}, but the model returns one voxel "
            f"for every {axis.align}: blocks must be multiples of {axis.align}."
        )
    return replace(axis, bounds=bounds)


def loop_bounds(
    size: int, chunk: int | None, blocks: int | Sequence[int] | None, dim: str
) -> tuple[int, ...]:
    """Bounds of the blocks along a looped dim: given, or uniform with the input's widest chunk."""
    if blocks is None:
        return uniform_bounds(size, size if chunk is None else chunk)
    return given_blocks(Axis(dim, size, 1, 0), blocks).bounds


def as_blocks(
    blocks: int | Mapping[str, int | Sequence[int]] | None, dims: Sequence[str], core: Sequence[str]
) -> dict[str, int | Sequence[int]]:
    """Spread the argument `blocks` over the dims; one integer holds for all core dims."""
    if blocks is None:
        return {}
    if isinstance(blocks, Mapping):
        unknown = [dim for dim in blocks if dim not in dims]
        if unknown:
            raise PlanError(
                f"blocks names dim {unknown[0]!r}, which the array does not have or which holds "
                f"the channels; its dims are {list(dims)}."
            )
        return dict(blocks)
    return dict.fromkeys(core, blocks)
