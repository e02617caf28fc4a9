"""Where an array's voxels come from: a store that blocks can slice themselves, or dask chunks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, cast

import dask.array as da
import numpy as np
import xarray as xr

from xspinn.graph.reading import InPieces, Sliceable
from xspinn.graph.tokens import token_of
from xspinn.hooks.dask import behind
from xspinn.hooks.xarray import in_memory

__all__ = ["Source", "Stacked", "find_source"]


@dataclass(frozen=True)
class Source:
    """The voxels of an array, in one of two kinds.

    Attributes
    ----------
    sliceable : array-like or None
        What blocks read their own boxes from.
    array : dask.array.Array or None
        The chunks to take, where nothing can be sliced.
    identity : str or callable
        The token, or what returns it: it may look at every file of a store.
    lazy : bool
        Whether the array is not in memory: the result is lazy then, too.
    """

    sliceable: Sliceable | None
    array: da.Array | None
    identity: str | Callable[[], str]
    lazy: bool

    @cached_property
    def token(self) -> str:
        """Identifies the voxels; `xspinn.graph.tokens` says what equal tokens promise."""
        return self.identity if isinstance(self.identity, str) else self.identity()

    @property
    def road(self) -> str:
        """How blocks get their voxels, in a few words."""
        if self.sliceable is None:
            return "dask's chunks, by map_overlap"
        return "the store, by blocks" if self.lazy else "memory, by blocks"


class Lazy:
    """A variable that xarray opened without chunks: slicing it reads just that part."""

    def __init__(self, variable: xr.Variable) -> None:
        self.variable = variable
        self.shape = variable.shape
        self.dtype = variable.dtype

    def __getitem__(self, key: tuple[slice, ...]) -> Any:
        return self.variable[key].to_numpy()


class Stacked:
    """Several sources of one shape, along a new first dim: the variables of a dataset."""

    def __init__(self, parts: Sequence[Sliceable], dtype: np.dtype[Any]) -> None:
        self.parts = parts
        self.shape = (len(parts), *parts[0].shape)
        self.dtype = dtype

    def __getitem__(self, key: tuple[slice, ...]) -> Any:
        return np.stack([np.asarray(p[key[1:]], self.dtype) for p in self.parts[key[0]]])


def find_source(variable: xr.Variable) -> Source:
    """Find out how blocks get the voxels of a variable; nothing is read.

    Parameters
    ----------
    variable : xarray.Variable
        On numpy, on dask, or lazily opened.

    Returns
    -------
    Source
        Sliceable for numpy and for what `xarray.open_zarr` and `xarray.open_dataset` give,
        chunked by dask or not; dask chunks for all else.
    """
    token = partial(token_of, variable)
    if in_memory(variable):
        return Source(cast(Sliceable, variable.to_numpy()), None, token, False)
    data = variable.data if variable.chunks is not None else None
    if isinstance(data, da.Array):
        return Source(_in_pieces(behind(data), variable), data, token, True)
    return Source(_in_pieces(Lazy(variable), variable), None, token, True)


def _in_pieces(source: Sliceable | None, variable: xr.Variable) -> Sliceable | None:
    """Read a few chunks at a time where the variable says how its store is chunked."""
    stored = variable.encoding.get("preferred_chunks") or {}
    chunks = [stored.get(dim) for dim in variable.dims]
    if source is None or not all(isinstance(chunk, int) and chunk > 0 for chunk in chunks):
        return source
    return InPieces(source, cast("list[int]", chunks))
