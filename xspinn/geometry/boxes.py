"""Boxes of voxels: one span a dim, where two meet, and what one leaves of another."""

from __future__ import annotations

from typing import TypeAlias

__all__ = ["Box", "Span", "around", "is_filled", "meet", "slices"]

Span: TypeAlias = tuple[int, int]
"""First voxel and the one after the last."""

Box: TypeAlias = tuple[Span, ...]
"""One span for every dim."""


def meet(one: Box, other: Box) -> Box:
    """Return where two boxes meet; spans that end where they begin, or before, hold nothing.

    Examples
    --------
    >>> meet(((0, 4), (0, 4)), ((2, 6), (5, 9)))
    ((2, 4), (5, 4))
    """
    return tuple((max(a, c), min(b, d)) for (a, b), (c, d) in zip(one, other, strict=True))


def is_filled(box: Box) -> bool:
    """Return whether a box holds any voxel.

    Examples
    --------
    >>> is_filled(((2, 4), (0, 1))), is_filled(((2, 4), (5, 4)))
    (True, False)
    """
    return all(lo < hi for lo, hi in box)


def around(outer: Box, inner: Box) -> tuple[Box, ...]:
    """Cut what `inner` leaves of `outer` into boxes, no two of which meet.

    Examples
    --------
    >>> around(((0, 4), (0, 4)), ((0, 3), (1, 4)))
    (((3, 4), (0, 4)), ((0, 3), (0, 1)))
    """
    return tuple(
        (*inner[:k], span, *outer[k + 1 :])
        for k, ((lo, hi), (first, stop)) in enumerate(zip(outer, inner, strict=True))
        for span in ((lo, first), (stop, hi))
        if span[0] < span[1]
    )


def slices(box: Box, within: Box) -> tuple[slice, ...]:
    """Return the slices that cut a box out of an array of another one.

    Examples
    --------
    >>> slices(((2, 4), (5, 9)), ((0, 8), (5, 9)))
    (slice(2, 4, None), slice(0, 4, None))
    """
    pairs = zip(box, within, strict=True)
    return tuple(slice(lo - start, hi - start) for (lo, hi), (start, _) in pairs)
