"""Read a box that may reach beyond the array's faces, from anything that can be sliced."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from xspinn.geometry.boxes import Span
from xspinn.geometry.lattice import Boundary, extended_indices

__all__ = ["InPieces", "Sliceable", "read_box"]


class Sliceable(Protocol):
    """What a block can read its own box from: numpy, zarr, netCDF through xarray, ..."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def __getitem__(self, key: Any) -> Any:
        """Return a part, for a tuple of slices."""


READ_BYTES = 16 * 2**20
"""Bytes of whole chunks that are read in one go, where it is known how they lie."""


class InPieces:
    """Something sliceable that is stored in chunks, read a few chunks at a time.

    Stores decode all chunks that a slice touches at once, which for a block at the corner of eight
    chunks is many times the block.
    """

    def __init__(self, whole: Sliceable, chunks: Sequence[int]) -> None:
        self.whole = whole
        self.chunks = tuple(chunks)
        self.shape, self.dtype = whole.shape, whole.dtype

    def __getitem__(self, key: tuple[slice, ...]) -> Any:
        spans = [(part.start, part.stop) for part in key]
        cuts = self._cuts(spans)
        if all(len(cut) == 1 for cut in cuts):
            return self.whole[key]
        found = np.empty([hi - lo for lo, hi in spans], self.dtype)
        for piece in itertools.product(*cuts):
            into = tuple(
                slice(a - lo, b - lo) for (a, b), (lo, _) in zip(piece, spans, strict=True)
            )
            found[into] = np.asarray(self.whole[tuple(slice(a, b) for a, b in piece)])
        return found

    def _cuts(self, spans: Sequence[Span]) -> list[list[Span]]:
        """Cut spans at the bounds of chunks, along the first dims and as few as will do."""
        touched = [
            -(-hi // chunk) - lo // chunk
            for (lo, hi), chunk in zip(spans, self.chunks, strict=True)
        ]
        n_bytes = math.prod(touched) * math.prod(self.chunks) * self.dtype.itemsize
        cuts = [[span] for span in spans]
        for dim, (lo, hi) in enumerate(spans):
            if n_bytes <= READ_BYTES:
                break
            first = (lo // self.chunks[dim] + 1) * self.chunks[dim]
            edges = [lo, *range(first, hi, self.chunks[dim]), hi]
            cuts[dim] = list(itertools.pairwise(edges))
            n_bytes //= max(1, touched[dim])
        return cuts


def read_box(
    source: Sliceable, spans: Sequence[Span], boundaries: Sequence[Boundary]
) -> npt.NDArray[Any]:
    """Return a box of the array, extended beyond its faces by the boundary rules.

    Parameters
    ----------
    source : array-like
        Anything that takes a tuple of slices.
    spans : sequence of (int, int)
        For every dim, the first voxel and the one after the last; they may lie outside.
    boundaries : sequence of str or float
        For every dim, what lies outside; see `xspinn.geometry.lattice.extended_indices`.

    Returns
    -------
    numpy.ndarray
        What lies inside is read once, also where it is reflected or repeated. Of a box that holds
        nothing of the array nothing is read: some stores fail on an empty slice.

    Examples
    --------
    >>> import numpy as np
    >>> read_box(np.arange(5), [(-2, 3)], ["periodic"]).tolist()
    [3, 4, 0, 1, 2]
    """
    dims = [
        _Gather(span, size, boundary)
        for span, size, boundary in zip(spans, source.shape, boundaries, strict=True)
    ]
    box = np.empty([dim.held for dim in dims], source.dtype)
    for runs in itertools.product(*(dim.runs for dim in dims)):
        box[tuple(into for into, _ in runs)] = np.asarray(source[tuple(of for _, of in runs)])
    for number, dim in enumerate(dims):
        if dim.take is not None:
            box = _spread(box, number, dim)
    return box


class _Gather:
    """How one dim of a box comes from the array: what is read, and where each voxel is taken."""

    def __init__(self, span: Span, size: int, boundary: Boundary) -> None:
        lo, hi = span
        self.boundary = boundary
        self.take: npt.NDArray[np.int64] | None = None
        if lo >= 0 and hi <= size:
            self.held = hi - lo
            # None where the span is empty, and then none for the whole box.
            self.runs = [(slice(0, hi - lo), slice(lo, hi))] if hi > lo else []
            return
        at = extended_indices(lo, hi, size, boundary)
        present = np.unique(at[at >= 0])
        self.held = len(present)
        self.take = np.where(at < 0, -1, np.searchsorted(present, at))
        cuts = np.flatnonzero(np.diff(present) > 1) + 1
        edges = [0, *cuts.tolist(), len(present)]
        self.runs = [
            (slice(a, b), slice(int(present[a]), int(present[b - 1]) + 1))
            for a, b in itertools.pairwise(edges)
            if b > a
        ]


def _spread(box: npt.NDArray[Any], axis: int, dim: _Gather) -> npt.NDArray[Any]:
    assert dim.take is not None
    outside = dim.take < 0
    shape = (*box.shape[:axis], len(dim.take), *box.shape[axis + 1 :])
    if not outside.any():
        return box.take(dim.take, axis)
    fill = 0 if isinstance(dim.boundary, str) else dim.boundary
    out = np.full(shape, fill, box.dtype)
    inside: list[Any] = [slice(None)] * box.ndim
    inside[axis] = ~outside
    out[tuple(inside)] = box.take(dim.take[~outside], axis)
    return out
