"""Where an array's voxels come from: a store that blocks can slice themselves, or dask chunks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import getitem
from typing import Any, cast
from uuid import uuid4

import dask.array as da
import numpy as np
import xarray as xr
from dask.array.core import getter, getter_inline, getter_nofancy

from xspinn.graph.reading import InPieces, Sliceable

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
    token : str
        Identifies the voxels.
    lazy : bool
        Whether the array is not in memory: the result is lazy then, too.
    """

    sliceable: Sliceable | None
    array: da.Array | None
    token: str
    lazy: bool


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
    data = variable._data  # ``.data`` would read a lazily opened array
    if isinstance(data, da.Array):
        return Source(_in_pieces(_behind(data), variable), data, data.name, True)
    if isinstance(data, np.ndarray):
        return Source(cast(Sliceable, data), None, uuid4().hex, False)
    if variable._in_memory:
        return Source(cast(Sliceable, variable.to_numpy()), None, uuid4().hex, False)
    return Source(_in_pieces(Lazy(variable), variable), None, uuid4().hex, True)


def _in_pieces(source: Sliceable | None, variable: xr.Variable) -> Sliceable | None:
    """Read a few chunks at a time where the variable says how its store is chunked."""
    stored = variable.encoding.get("preferred_chunks") or {}
    chunks = [stored.get(dim) for dim in variable.dims]
    if source is None or not all(isinstance(chunk, int) and chunk > 0 for chunk in chunks):
        return source
    return InPieces(source, cast("list[int]", chunks))


def _behind(array: da.Array) -> Sliceable | None:
    """Return what `dask.array.from_array` was given, if the array is just that and no more.

    dask keeps it under a key of its own, beside one layer of getters.
    """
    graph = array.__dask_graph__()
    layers = getattr(graph, "layers", {})
    name = f"original-{array.name}"
    if set(layers) != {name, array.name}:
        return None
    # Only what dask itself reads by slices, without a lock that blocks would have to take.
    task = getattr(layers[array.name], "task", None)
    known = (getter, getter_nofancy, getter_inline, getitem)
    if task is None or task.func not in known or task.kwargs.get("lock"):
        return None
    node = layers[name].get(name)
    source = getattr(node, "value", node)
    fits = getattr(source, "shape", None) == array.shape and hasattr(source, "__getitem__")
    return source if fits and getattr(source, "dtype", None) == array.dtype else None
