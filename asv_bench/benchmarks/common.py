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


class UNet(torch.nn.Module):
    """A small U-Net, in 2-D or 3-D: two convolutions a level, max pooling, transposed ones up."""

    def __init__(
        self, dims: int, inside: int = 1, outside: int = 1, base: int = 8, levels: int = 3
    ) -> None:
        super().__init__()
        self.out_channels = outside  # torch_em asks for it by this name
        self.conv = getattr(torch.nn, f"Conv{dims}d")
        self.pool = getattr(torch.nn.functional, f"max_pool{dims}d")
        transposed = getattr(torch.nn, f"ConvTranspose{dims}d")
        widths = [base * 2**level for level in range(levels)]
        pairs = list(itertools.pairwise(widths))
        self.first = self._twice(inside, base)
        self.down = torch.nn.ModuleList(self._twice(a, b) for a, b in pairs)
        self.up = torch.nn.ModuleList(transposed(b, a, 2, stride=2) for a, b in reversed(pairs))
        self.join = torch.nn.ModuleList(self._twice(2 * a, a) for a, _ in reversed(pairs))
        self.last = self.conv(base, outside, 1)

    def _twice(self, inside: int, outside: int) -> torch.nn.Sequential:
        return torch.nn.Sequential(
            self.conv(inside, outside, 3, padding=1),
            torch.nn.ReLU(),
            self.conv(outside, outside, 3, padding=1),
            torch.nn.ReLU(),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        kept = []
        for step in self.down:
            kept.append(x)
            x = step(self.pool(x, 2))
        for up, join in zip(self.up, self.join, strict=True):
            x = join(torch.cat([kept.pop(), up(x)], 1))
        return self.last(x)


class UNet3d(UNet):
    """The U-Net of most benchmarks: one channel in, one out."""

    def __init__(self, base: int = 8, levels: int = 3) -> None:
        super().__init__(3, base=base, levels=levels)


# -- the usual recipe ------------------------------------------------------------------------


def starts(size: int, patch: int, overlap: int) -> list[int]:
    """First voxel of every patch along a dim, the last one shifted to end with the dim."""
    return [*range(0, size - patch, patch - overlap), size - patch]


def map_overlap_recipe(
    volume: np.ndarray,
    model: Any,
    *,
    chunk: int,
    patch: int,
    overlap: int,
    batch: int,
    outside: int | None = None,
) -> da.Array:
    """Return the usual way: chunks with a symmetric halo, each tiled on its own, halo cut off.

    With `outside`, the first axis of the volume holds the model's channels, and so does that of
    the result, where there are this many.
    """
    # With `meta`, dask does not call the model to find out what it returns.
    options = {"model": model, "patch": patch, "overlap": overlap, "batch": batch}
    if outside is None:
        x = da.from_array(volume, chunks=chunk)
        return x.map_overlap(_tile, depth=overlap, boundary="none", meta=x._meta, **options)
    x = da.from_array(volume, chunks=(-1, *[chunk] * (volume.ndim - 1)))
    depth = {axis: overlap if axis else 0 for axis in range(volume.ndim)}
    # What map_overlap does, in its three steps, since the middle one changes the channels.
    haloed = da.overlap.overlap(x, depth=depth, boundary="none")
    chunks = ((outside,), *haloed.chunks[1:])
    tiled = haloed.map_blocks(_tile, chunks=chunks, meta=x._meta, outside=outside, **options)
    return da.overlap.trim_internal(tiled, depth, boundary="none")


def _tile(
    data: np.ndarray, model: Any, patch: int, overlap: int, batch: int, outside: int | None = None
) -> np.ndarray:
    channels = data[None] if outside is None else data
    shape = channels.shape[1:]
    window = np.minimum(np.arange(1, patch + 1), np.arange(patch, 0, -1)).astype("float32")
    weight = functools.reduce(np.multiply.outer, [np.minimum(window, overlap or 1)] * len(shape))
    total = np.zeros((outside or 1, *shape), data.dtype)
    sums = np.zeros(shape, data.dtype)
    places = list(itertools.product(*(starts(size, patch, overlap) for size in shape)))
    for first in range(0, len(places), batch):
        boxes = [
            tuple(slice(s, s + patch) for s in place) for place in places[first : first + batch]
        ]
        answers = np.asarray(model(np.stack([channels[:, *box] for box in boxes])))
        for box, answer in zip(boxes, answers, strict=True):
            total[:, *box] += answer * weight
            sums[box] += weight
    result = total / sums
    return result[0] if outside is None else result
