"""Private parts of xarray that are used; tried with xarray 2025.1.2 and 2026.9.0.

`in_memory`
    no public property says whether ``.data`` would read: `xarray.Variable._in_memory`.
`unwrapped`
    `xarray.Variable._data`, and the attribute ``array`` by which the wrappers of `xarray` hold what
    they wrap. Where these change, a variable that was opened without chunks has another token each
    time.
`file_behind`
    ``datastore`` and ``variable_name`` of the arrays of netCDF backends. Where these change, as
    above.
`zarr_behind`
    ``get_array`` of the arrays of the zarr backend. Where it changes, as above.
"""

from __future__ import annotations

from typing import Any

import xarray as xr

__all__ = ["file_behind", "in_memory", "unwrapped", "zarr_behind"]


def in_memory(variable: xr.Variable) -> bool:
    """Return whether the values are there, so that asking for them reads nothing.

    Parameters
    ----------
    variable : xarray.Variable

    Returns
    -------
    bool
        False for dask arrays and for what was opened without chunks and not loaded.
    """
    return bool(variable._in_memory)


def unwrapped(lazy: Any) -> tuple[Any, list[Any]]:
    """Take off what xarray puts around an array that a backend opened.

    Parameters
    ----------
    lazy : xarray.Variable or array
        What was opened without chunks, or what xarray gave to dask.

    Returns
    -------
    array : Any
        What the backend opened.
    wrappers : list
        Names and settings of what was around it, from the outside: selections, decoding, caching.
    """
    array = lazy._data if isinstance(lazy, xr.Variable) else lazy
    wrappers = []
    while type(array).__module__.startswith("xarray.") and hasattr(array, "array"):
        settings = _attributes(array)
        inner = settings.pop("array")
        settings.pop("_copied", None)  # by an assignment, after which the array is another
        key = settings.get("key")
        if key is not None:
            settings["key"] = (type(key).__name__, key.tuple)
        wrappers.append((type(array).__name__, sorted(settings.items())))
        array = inner
    return array, wrappers


def _attributes(obj: Any) -> dict[str, Any]:
    slots = [name for kind in type(obj).__mro__ for name in getattr(kind, "__slots__", ())]
    held = {name: getattr(obj, name) for name in slots if hasattr(obj, name)}
    return held | getattr(obj, "__dict__", {})


def file_behind(array: Any) -> tuple[str, str, str] | None:
    """Return which variable of which file an array of a netCDF backend reads.

    Parameters
    ----------
    array : Any
        See `unwrapped`.

    Returns
    -------
    tuple of str, or None
        Path of the file, path of the group in it, name of the variable. None for other arrays, and
        for what is no file.
    """
    opened = getattr(getattr(array, "datastore", None), "ds", None)
    name = getattr(array, "variable_name", None)
    if opened is None or name is None:
        return None
    group = getattr(opened, "path", None) or getattr(opened, "name", None) or "/"
    while getattr(opened, "parent", None) is not None:
        opened = opened.parent
    # netCDF4 says filepath(); h5netcdf and scipy say filename.
    path = opened.filepath() if hasattr(opened, "filepath") else getattr(opened, "filename", None)
    return (path, str(group), name) if isinstance(path, str) else None


def zarr_behind(array: Any) -> Any | None:
    """Return the `zarr.Array` that an array of the zarr backend reads, or that it is.

    Parameters
    ----------
    array : Any
        See `unwrapped`.

    Returns
    -------
    zarr.Array or None
        None for all other arrays.
    """
    module = type(array).__module__
    if module == "xarray.backends.zarr" and hasattr(array, "get_array"):
        return array.get_array()
    return array if module.split(".")[0] == "zarr" and hasattr(array, "store") else None
