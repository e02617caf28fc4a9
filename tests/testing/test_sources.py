"""Everything that blocks read by themselves keeps the contract, and what does not is named."""

import threading

import dask.array as da
import numpy as np
import pytest
import xarray as xr
import zarr

from xspinn.graph.reading import InPieces
from xspinn.graph.sources import Stacked, find_source
from xspinn.testing import check_source

VALUES = np.random.default_rng(0).integers(0, 1000, (6, 10)) / 2
PACKED = {"dtype": "int16", "scale_factor": 0.5, "_FillValue": -1}
ARRAY = xr.DataArray(VALUES, dims=("y", "x"), name="a")


def stored(path, version):
    ARRAY.chunk(y=4, x=5).to_dataset().to_zarr(path, zarr_format=version, consolidated=False)
    return path


def opened_zarr(path, version, **options):
    return xr.open_zarr(stored(path, version), consolidated=False, **options)["a"]


def opened_file(path, engine="netcdf4", **options):
    encoding = {"a": PACKED} if engine == "netcdf4" else {}
    ARRAY.to_dataset().to_netcdf(path, engine=engine, encoding=encoding)
    return xr.open_dataset(path, engine=engine, **options)["a"]


def h5(path):
    pytest.importorskip("h5netcdf")
    return opened_file(path, engine="h5netcdf")


SOURCES = {
    "numpy": lambda path: VALUES,
    "DataArray in memory": lambda path: ARRAY,
    "zarr 2": lambda path: zarr.open_array(stored(path, 2) / "a", mode="r"),
    "zarr 3": lambda path: zarr.open_array(stored(path, 3) / "a", mode="r"),
    "open_zarr, 2": lambda path: opened_zarr(path, 2),
    "open_zarr, 3": lambda path: opened_zarr(path, 3),
    "open_zarr, no chunks": lambda path: opened_zarr(path, 3, chunks=None),
    "from_array": lambda path: ARRAY.copy(
        data=da.from_array(zarr.open_array(stored(path, 3) / "a", mode="r"), chunks=4)
    ),
    "netCDF": opened_file,
    "netCDF, chunks": lambda path: opened_file(path, chunks={"x": 3}),
    "netCDF, scipy": lambda path: opened_file(path, engine="scipy"),
    "netCDF, h5netcdf": h5,
    "a selection": lambda path: opened_file(path)[:6, list(range(10))],
}


@pytest.mark.parametrize("kind", SOURCES)
def test_sources_keep_the_contract(kind, tmp_path):
    check_source(SOURCES[kind](tmp_path / "a"), like=VALUES, other_process=False)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["open_zarr, 3", "netCDF", "netCDF, h5netcdf", "from_array"])
def test_sources_are_read_in_other_processes(kind, tmp_path):
    check_source(SOURCES[kind](tmp_path / "a"), like=VALUES)


def test_variables_of_a_dataset_and_pieces_keep_it(tmp_path):
    opened = [opened_zarr(tmp_path / "a", 3), opened_file(tmp_path / "b")]
    parts = [find_source(array.variable).sliceable for array in opened]
    check_source(Stacked(parts, np.dtype("f8")), like=np.stack([VALUES] * 2), other_process=False)
    pieces = InPieces(zarr.open_array(tmp_path / "a" / "a", mode="r"), (4, 5))
    check_source(pieces, like=VALUES, other_process=False)


class Source:
    """A source that a test spoils."""

    shape, dtype, ndim = VALUES.shape, VALUES.dtype, 2

    def __getitem__(self, key):
        return VALUES[key]


class Wider(Source):
    dtype = np.dtype("f4")


class Shifted(Source):
    def __getitem__(self, key):
        return VALUES[key] + key[0].start


class Unpicklable(Source):
    def __init__(self):
        self.lock = threading.Lock()


class Forgetting(Source):
    def __init__(self):
        self.values = VALUES

    def __getitem__(self, key):
        return self.values[key]

    def __getstate__(self):
        return {"values": VALUES + 1}


class Racing(Source):
    """Keeps where it is asked to read, as one that seeks in a file does."""

    def __init__(self):
        self.barrier = threading.Barrier(2)

    def __getitem__(self, key):
        self.key = key
        if threading.current_thread() is not threading.main_thread():
            self.barrier.wait(30)
        return VALUES[self.key]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (Wider(), "has the dtype float64, not float32"),
        (Shifted(), "is wrong"),
        (Unpicklable(), "cannot be pickled, so no worker can read it"),
        (Forgetting(), "its pickle reads something else"),
        (ARRAY.chunk(4) * 2, "blocks cannot read it, since dask computes it"),
        (object(), "it has no shape"),
    ],
)
def test_what_does_not_keep_it_is_named(source, message):
    with pytest.raises(AssertionError, match=message):
        check_source(source, other_process=False)


def test_a_source_that_threads_confuse_is_named():
    with pytest.raises(AssertionError, match="where threads read at once"):
        check_source(Racing(), other_process=False)


def test_wrong_values_are_named():
    check_source(Source(), like=VALUES, other_process=False)
    with pytest.raises(AssertionError, match="not what it should be"):
        check_source(Source(), like=VALUES + 1, other_process=False)
