"""What hypothesis draws: arrays, patches, overlaps, windows, boundaries and blocks that fit."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import xarray as xr
from hypothesis import strategies as st

from xspinn.geometry.axis import Axis
from xspinn.geometry.windows import WINDOWS
from xspinn.plans.arguments import make_axes

DIMS = ("t", "z", "y", "x")


@dataclass(frozen=True)
class Case:
    """One way to cut an array into patches."""

    shape: dict[str, int]
    patch: dict[str, int]
    overlap: dict[str, int]
    window: str
    boundary: dict[str, str | float]

    def axes(self) -> tuple[Axis, ...]:
        ones = [1] * len(self.patch)
        return make_axes(
            self.patch, self.shape, self.overlap, self.window, self.boundary, ones, np.dtype("f8")
        )

    @property
    def arguments(self) -> dict:
        return {
            "patch": self.patch,
            "overlap": self.overlap,
            "window": self.window,
            "boundary": self.boundary,
        }

    def array(self, dtype: str = "float64", seed: int = 0) -> xr.DataArray:
        values = np.random.default_rng(seed).standard_normal(tuple(self.shape.values()))
        return xr.DataArray(values.astype(dtype), dims=tuple(self.shape), name="noise")


boundaries = st.sampled_from(["none", "reflect", "nearest", "periodic", 0, -1.5])


@st.composite
def cases(draw: st.DrawFn, max_ndim: int = 4, boundary: st.SearchStrategy = boundaries) -> Case:
    ndim = draw(st.integers(1, max_ndim))
    widest = {1: 12, 2: 8, 3: 5, 4: 3}[ndim]
    shape, patch, overlap, rules = {}, {}, {}, {}
    for dim in DIMS[-ndim:]:
        patch[dim] = draw(st.integers(1, widest))
        overlap[dim] = draw(st.integers(0, patch[dim] - 1))
        rules[dim] = draw(boundary)
        least = patch[dim] if rules[dim] == "none" else 1
        shape[dim] = draw(st.integers(least, least + 2 * widest + 1))
    case = Case(shape, patch, overlap, draw(st.sampled_from(WINDOWS)), rules)
    while math.prod(len(axis.starts) for axis in case.axes()) > 300:
        # Halve the longest lattice: patches are what an example costs.
        longest = max(case.axes(), key=lambda axis: len(axis.starts))
        wide = {**case.shape, longest.dim: max(longest.patch, longest.size // 2)}
        if wide == case.shape:
            case = Case(wide, case.patch, dict.fromkeys(case.patch, 0), case.window, case.boundary)
        else:
            case = Case(wide, case.patch, case.overlap, case.window, case.boundary)
    return case


def splits(draw: st.DrawFn, size: int) -> tuple[int, ...]:
    """Sizes that sum to `size`: ragged chunks."""
    cuts = sorted(draw(st.sets(st.integers(1, max(1, size - 1)), max_size=4)) - {size})
    return tuple(b - a for a, b in zip([0, *cuts], [*cuts, size], strict=True))


@st.composite
def chunked_cases(draw: st.DrawFn, max_ndim: int = 4) -> tuple[Case, dict[str, tuple[int, ...]]]:
    """A case, and ragged chunks for its array."""
    case = draw(cases(max_ndim))
    return case, {dim: splits(draw, size) for dim, size in case.shape.items()}
