"""Read a box that may reach beyond the array's faces, from anything that can be sliced."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from xspinn.axis import Span
from xspinn.lattice import Boundary, extended_indices

__all__ = ["Sliceable", "read_box"]


class Sliceable(Protocol):
    """What a block can read its own box from: numpy, zarr, netCDF through xarray, ..."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def __getitem__(self, key: Any) -> Any:
        """Return a part, for a tuple of slices."""


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
        For every dim, what lies outside; see `xspinn.lattice.extended_indices`.

    Returns
    -------
    numpy.ndarray
        What lies inside is read once, also where it is reflected or repeated.

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
            self.runs = [(slice(0, hi - lo), slice(lo, hi))]
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
