"""What several benchmarks share: stores, models, and the counting of calls."""

from __future__ import annotations

import functools
import itertools
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import torch
import xarray as xr
import zarr

DIMS = ("z", "y", "x")


def open_source(source: str, folder: Path, shape: tuple[int, ...], chunk: int) -> xr.DataArray:
    """Return a lazy float32 array of zeros: in a zarr store, or known to dask only."""
    dims = DIMS[-len(shape) :]
    if source == "dask":
        return xr.DataArray(da.zeros(shape, dtype="float32", chunks=chunk), dims=dims)
    zarr.create_array(
        folder / "empty.zarr",
        name="volume",
        shape=shape,
        chunks=(chunk,) * len(shape),
        dtype="float32",
        fill_value=0.0,
        dimension_names=dims,
        overwrite=True,
    )
    return xr.open_zarr(folder / "empty.zarr", consolidated=False, mask_and_scale=False)["volume"]


# -- models ----------------------------------------------------------------------------------

_patches = 0


def counted(patches: np.ndarray) -> np.ndarray:
    """Return the input, and count the patches in it."""
    global _patches
    _patches += len(patches)
    return patches


def take_count() -> int:
    """Return how many patches `counted` has seen since this was last asked."""
    global _patches
    seen, _patches = _patches, 0
    return seen


class UNet3d(torch.nn.Module):
    """A small 3-D U-Net: two convolutions a level, max pooling down, transposed ones up."""

    def __init__(self, base: int = 8, levels: int = 3) -> None:
        super().__init__()
        widths = [base * 2**level for level in range(levels)]
        pairs = list(itertools.pairwise(widths))
        self.first = self._twice(1, base)
        self.down = torch.nn.ModuleList(self._twice(a, b) for a, b in pairs)
        self.up = torch.nn.ModuleList(
            torch.nn.ConvTranspose3d(b, a, 2, stride=2) for a, b in reversed(pairs)
        )
        self.join = torch.nn.ModuleList(self._twice(2 * a, a) for a, _ in reversed(pairs))
        self.last = torch.nn.Conv3d(base, 1, 1)

    @staticmethod
    def _twice(inside: int, outside: int) -> torch.nn.Sequential:
        return torch.nn.Sequential(
            torch.nn.Conv3d(inside, outside, 3, padding=1),
            torch.nn.ReLU(),
            torch.nn.Conv3d(outside, outside, 3, padding=1),
            torch.nn.ReLU(),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        kept = []
        for step in self.down:
            kept.append(x)
            x = step(torch.nn.functional.max_pool3d(x, 2))
        for up, join in zip(self.up, self.join, strict=True):
            x = join(torch.cat([kept.pop(), up(x)], 1))
        return self.last(x)


# -- the usual recipe ------------------------------------------------------------------------


def starts(size: int, patch: int, overlap: int) -> list[int]:
    """First voxel of every patch along a dim, the last one shifted to end with the dim."""
    return [*range(0, size - patch, patch - overlap), size - patch]


def map_overlap_recipe(
    volume: np.ndarray, model: Any, *, chunk: int, patch: int, overlap: int, batch: int
) -> da.Array:
    """Return the usual way: chunks with a symmetric halo, each tiled on its own, halo cut off."""
    x = da.from_array(volume, chunks=chunk)
    # With `meta`, dask does not call the model to find out what it returns.
    options = {"meta": x._meta, "model": model, "patch": patch, "overlap": overlap, "batch": batch}
    return x.map_overlap(_tile, depth=overlap, boundary="none", **options)


def _tile(data: np.ndarray, model: Any, patch: int, overlap: int, batch: int) -> np.ndarray:
    window = np.minimum(np.arange(1, patch + 1), np.arange(patch, 0, -1)).astype("float32")
    weight = functools.reduce(np.multiply.outer, [np.minimum(window, overlap or 1)] * data.ndim)
    total, sums = np.zeros_like(data), np.zeros_like(data)
    places = list(itertools.product(*(starts(size, patch, overlap) for size in data.shape)))
    for first in range(0, len(places), batch):
        boxes = [
            tuple(slice(s, s + patch) for s in place) for place in places[first : first + batch]
        ]
        answers = np.asarray(model(np.stack([data[box] for box in boxes])[:, None]))[:, 0]
        for box, answer in zip(boxes, answers, strict=True):
            total[box] += answer * weight
            sums[box] += weight
    return total / sums
