"""The contract that every source keeps, for stores and lazy arrays of your own."""

from __future__ import annotations

import pickle
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cloudpickle
import dask.array as da
import numpy as np
import numpy.typing as npt
import xarray as xr

from xspinn.graph.reading import Sliceable, read_box
from xspinn.graph.sources import find_source

__all__ = ["check_source"]

Boxes = list[tuple[slice, ...]]


def check_source(
    source: Any, *, like: npt.ArrayLike | None = None, other_process: bool = True
) -> None:
    """Check that blocks can read an array by themselves.

    A block reads its own box, from whichever thread or worker it runs in. The contract is that of
    `dask.array.from_array`, and the same that numpy, zarr and netCDF are tested with: ``shape`` and
    ``dtype``; a tuple of slices, one a dim, each with a start and a stop, gives that part, of that
    shape and dtype, each time and from several threads at once; a pickle of the array reads the
    same, also in another process. Empty slices and steps are never asked for.

    Parameters
    ----------
    source : xarray.DataArray or array-like
        A labelled array that was opened lazily, or what `dask.array.from_array` would be given.
        All of it is read, so give it a small one: some voxels along each dim.
    like : array-like, optional
        The values that it must give; by default what it gives when it is read as a whole.
    other_process : bool, default: True
        Also read it in a new process, which takes some seconds.

    Raises
    ------
    AssertionError
        Says what does not hold.

    Examples
    --------
    >>> import numpy as np, zarr
    >>> from xspinn.testing import check_source
    >>> check_source(zarr.array(np.ones((6, 10)), chunks=(4, 5)), other_process=False)

    An array that forgets what it was asked for does not pass:

    >>> class Transposed:
    ...     shape, dtype, values = (3, 2), np.dtype("f8"), np.ones((2, 3))
    ...
    ...     def __getitem__(self, key):
    ...         return self.values[key]
    >>> check_source(Transposed())
    Traceback (most recent call last):
    ...
    AssertionError: <Transposed >: [0:3, 0:2] has the shape (2, 2), not (3, 2).
    """
    sliceable = _sliceable(source)
    check = _Checks(source, sliceable, like)
    check.parts()
    check.boxes()
    check.threads()
    check.pickles()
    if other_process:
        check.other_process()
    check.predicts()


def _sliceable(source: Any) -> Sliceable:
    if not isinstance(source, xr.DataArray):
        for name in ("shape", "dtype", "__getitem__"):
            _require(hasattr(source, name), source, f"it has no {name}")
        return source  # type: ignore[no-any-return]
    found = find_source(source.variable)
    if found.sliceable is None:
        raise AssertionError(
            f"{_name(source)}: blocks cannot read it, since dask computes it: give what was "
            "opened, before any computation or selection on dask's chunks."
        )
    return found.sliceable


class _Checks:
    """What is checked, of one source."""

    def __init__(self, source: Any, sliceable: Sliceable, like: npt.ArrayLike | None) -> None:
        self.source, self.sliceable = source, sliceable
        self.shape, self.dtype = sliceable.shape, sliceable.dtype
        self.require(
            isinstance(self.shape, tuple) and all(isinstance(n, int) for n in self.shape),
            f"its shape is {self.shape!r}, not a tuple of int",
        )
        self.require(
            isinstance(self.dtype, np.dtype), f"its dtype is {self.dtype!r}, not a numpy.dtype"
        )
        self.require(0 not in self.shape, f"its shape is {self.shape}: there is nothing to read")
        whole = tuple(slice(0, n) for n in self.shape)
        self.values = self.read(self.sliceable, whole)
        if like is not None:
            self.same(self.values, np.asarray(like), "as a whole it is not what it should be")

    def parts(self) -> None:
        """Read boxes of several sizes and places, and some of them again."""
        for box in (boxes := _boxes(self.shape)) + boxes[:2]:
            self.same(self.read(self.sliceable, box), self.values[box], f"{_text(box)} is wrong")

    def boxes(self) -> None:
        """Read as blocks do, also beyond the faces of the array."""
        spans = [(-1, n + 1) for n in self.shape]
        found = read_box(self.sliceable, spans, ["nearest"] * len(spans))
        self.same(found, np.pad(self.values, 1, mode="edge"), "a box beyond its faces is wrong")

    def threads(self) -> None:
        """Read from several threads at once."""
        boxes = _boxes(self.shape) * 4
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda box: np.asarray(self.sliceable[box]), boxes))
        for box, part in zip(boxes, found, strict=True):
            self.same(part, self.values[box], f"{_text(box)} is wrong where threads read at once")

    def pickles(self) -> None:
        """Read from a pickle."""
        copy = pickle.loads(self._pickle())
        box = _boxes(self.shape)[0]
        self.same(self.read(copy, box), self.values[box], "its pickle reads something else")

    def _pickle(self) -> bytes:
        try:
            return bytes(cloudpickle.dumps(self.sliceable))
        except Exception as error:
            raise AssertionError(
                f"{_name(self.source)}: it cannot be pickled, so no worker can read it: {error}"
            ) from error

    def other_process(self) -> None:
        """Unpickle it in a new process and read it there, as a worker does."""
        box = _boxes(self.shape)[0]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "source"
            path.write_bytes(cloudpickle.dumps((sys.path, self._pickle(), box)))
            command = [sys.executable, "-c", _OTHER, str(path)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            self.require(done.returncode == 0, f"it fails in another process:\n{done.stderr}")
            found = pickle.loads(path.with_suffix(".out").read_bytes())
        self.same(found, self.values[box], "it reads something else in another process")

    def predicts(self) -> None:
        """Run over it in blocks, some of which have no patch of their own."""
        array = self.source
        if isinstance(array, np.ndarray):
            array = xr.DataArray(array)
        elif not isinstance(array, xr.DataArray):
            empty = np.empty((0,) * len(self.shape), self.dtype)
            array = xr.DataArray(da.from_array(array, chunks=-1, name=False, meta=empty))
        found = find_source(array.variable).sliceable
        self.require(found is not None, "dask.array.from_array does not take it as a whole")
        dims = {str(dim): size for dim, size in array.sizes.items()}
        result = array.spinn.predict(
            _same, patch={dim: -(-n // 2) for dim, n in dims.items()}, overlap=0, tune=False,
            blocks={dim: max(1, n // 4) for dim, n in dims.items()},
        )  # fmt: skip
        equal = np.allclose(result, self.values, rtol=1e-6, atol=0, equal_nan=True)
        self.require(equal, "a model that returns its input changes it")

    def read(self, source: Sliceable, box: Sequence[slice]) -> npt.NDArray[Any]:
        """Read one box and look at its shape and dtype."""
        found = np.asarray(source[tuple(box)])
        shape = tuple(part.stop - part.start for part in box)
        self.require(found.shape == shape, f"{_text(box)} has the shape {found.shape}, not {shape}")
        self.require(
            found.dtype == self.dtype, f"{_text(box)} has the dtype {found.dtype}, not {self.dtype}"
        )
        return found

    def same(self, found: npt.NDArray[Any], wanted: npt.NDArray[Any], what: str) -> None:
        floats = self.dtype.kind in "fc"
        self.require(np.array_equal(found, wanted, equal_nan=floats), what)

    def require(self, holds: bool, what: str) -> None:
        _require(holds, self.source, what)


def _boxes(shape: Sequence[int]) -> Boxes:
    """Boxes in all corners and the middle, no wider than two thirds of a dim."""
    found = []
    for place in (0.5, 0.0, 1.0):
        for share in (0.67, 0.3):
            widths = [max(1, int(n * share)) for n in shape]
            firsts = [int((n - width) * place) for n, width in zip(shape, widths, strict=True)]
            found.append(tuple(slice(a, a + w) for a, w in zip(firsts, widths, strict=True)))
    return found


def _same(batch: Any) -> Any:
    return batch


def _text(box: Sequence[slice]) -> str:
    return "[" + ", ".join(f"{part.start}:{part.stop}" for part in box) + "]"


def _name(source: Any) -> str:
    kind = "xarray.DataArray" if isinstance(source, xr.DataArray) else type(source).__name__
    return f"<{kind} {getattr(source, 'name', None) or ''}>"


def _require(holds: bool, source: Any, what: str) -> None:
    if not holds:
        raise AssertionError(f"{_name(source)}: {what}.")


_OTHER = """
import pathlib, pickle, sys
path = pathlib.Path(sys.argv[1])
where, source, box = pickle.loads(path.read_bytes())
sys.path[:] = where
import numpy as np
found = np.asarray(pickle.loads(source)[box])
path.with_suffix(".out").write_bytes(pickle.dumps(found))
"""
