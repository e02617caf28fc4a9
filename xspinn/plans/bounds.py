"""Bounds of blocks: uniform ones, and those that a user asks for."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np

from xspinn.errors import PlanError
from xspinn.geometry.axis import Axis

__all__ = ["Blocks", "as_blocks", "given_blocks", "loop_bounds", "uniform_bounds"]

Blocks: TypeAlias = "int | Mapping[str, int | Sequence[int]] | None"
"""What a user may ask for; see `xspinn.predict`."""


def uniform_bounds(size: int, chunk: int) -> tuple[int, ...]:
    """Bounds of chunks of `chunk` voxels, the last one what is left.

    Examples
    --------
    >>> uniform_bounds(10, 4)
    (0, 4, 8, 10)
    """
    return (*range(0, size, chunk), size)


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
    blocks: Blocks, dims: Sequence[str], core: Sequence[str]
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
