"""What an array's voxels are known by.

Tasks are named after tokens, and a cluster runs tasks of one name once. So equal tokens promise
equal voxels, as far as a store tells without being read; and where it does not tell, the token is
new each time.

=========================================  =======================================================
array                                      known by
=========================================  =======================================================
in memory                                  its values
opened without chunks                      the store, the selection and how values are decoded
on dask                                    dask's name for it, and all stores that the graph reads
zarr in a folder                           name, size, time of change and inode of every file
netCDF                                     the same of the one file; group and variable
anything else that xarray opened           nothing: a new token each time
=========================================  =======================================================

What cannot be seen: a file of equal size that is changed in place within the tick of the file
system's clock (some milliseconds), or whose time is set back; and what dask computes from other
sources than ``dask.array.from_array``, for which dask's name has to do.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any
from uuid import uuid4

import dask.array as da
import numpy as np
import numpy.typing as npt
import xarray as xr
from dask import config
from dask.base import tokenize

from xspinn.hooks.dask import originals
from xspinn.hooks.xarray import file_behind, in_memory, unwrapped, zarr_behind

__all__ = ["token_of"]

MAX_FILES = 100_000
"""Files of a zarr array that are looked at, of 5 to 10 µs each; with more, tokens are new."""

BUFFER_VOXELS = 2**20
"""Voxels that are hashed at a time, and copied where they do not lie in C order."""


def token_of(variable: xr.Variable) -> str:
    """Return a token of a variable's voxels; no voxel is read from a store.

    Parameters
    ----------
    variable : xarray.Variable

    Returns
    -------
    str
        Equal tokens promise equal voxels.
    """
    if in_memory(variable):
        return _of_values(variable.to_numpy())
    if variable.chunks is not None and isinstance(variable.data, da.Array):
        return _of_dask(variable.data)
    array, wrappers = unwrapped(variable)
    return _hash(wrappers, _store(array) or _unknown())


def _of_values(values: npt.NDArray[Any]) -> str:
    digest = hashlib.sha256(f"{values.shape}:{values.dtype.str}".encode())
    for part in np.nditer(
        values, ["external_loop", "buffered", "zerosize_ok"], order="C", buffersize=BUFFER_VOXELS
    ):
        digest.update(np.asarray(part).view(np.uint8).data)
    return digest.hexdigest()


def _of_dask(array: da.Array) -> str:
    stores = [_store(unwrapped(original)[0]) for original in originals(array)]
    return _hash(array.name, stores) if any(stores) else array.name


def _store(array: Any) -> list[Any] | None:
    """What the store of an array says of its content; None where it says nothing."""
    found = file_behind(array)
    if found is not None:
        path, *where = found
        return [*_files(Path(path)), *where]
    stored = zarr_behind(array)
    if stored is None:
        return None
    folder = _folder(stored.store)
    return _unknown() if folder is None else _files(folder / stored.path)


def _folder(store: Any) -> Path | None:
    """Folder of a zarr store on this machine's file system."""
    if getattr(store, "root", None) is not None:
        return Path(store.root)
    protocol = getattr(getattr(store, "fs", None), "protocol", ())
    local = {"file", "local"} & ({protocol} if isinstance(protocol, str) else {*protocol})
    return Path(store.path) if local else None


def _files(path: Path) -> list[Any]:
    """Facts of a file, or of all files below a folder."""
    path = path.absolute()
    facts: list[Any] = []
    try:
        folders = [path] if path.is_dir() else []
        if not folders:
            facts.append(("", *_facts(path.stat())))
        while folders:
            for entry in os.scandir(folders.pop()):
                if entry.is_dir():
                    folders.append(Path(entry.path))
                else:
                    facts.append((entry.path, *_facts(entry.stat())))
            if len(facts) > MAX_FILES:
                return _unknown()
    except OSError:  # such as a chunk that is deleted at this moment
        return _unknown()
    return [str(path), *sorted(facts)]


def _facts(stat: os.stat_result) -> tuple[int, int, int]:
    return stat.st_size, stat.st_mtime_ns, stat.st_ino


def _unknown() -> list[Any]:
    return [uuid4().hex]


def _hash(*facts: Any) -> str:
    try:
        with config.set({"tokenize.ensure-deterministic": True}):
            return tokenize(*facts)
    except Exception:  # noqa: BLE001 - dask raises errors of several kinds
        return uuid4().hex
