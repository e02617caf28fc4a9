"""What xspinn uses of xarray's private parts is still there."""

import numpy as np
import pytest
import xarray as xr
import zarr

from xspinn.hooks.xarray import file_behind, in_memory, unwrapped, zarr_behind

CHANGED = "xarray holds what it opens otherwise: see xspinn/hooks/xarray.py"


@pytest.fixture
def array():
    return xr.DataArray(np.arange(60.0).reshape(6, 10), dims=("y", "x"), name="a")


@pytest.fixture
def file(array, tmp_path):
    array.to_netcdf(tmp_path / "a.nc", group="g")
    with xr.open_dataset(tmp_path / "a.nc", group="g") as opened:
        yield opened["a"]


@pytest.fixture
def store(array, tmp_path):
    array.chunk(4).to_zarr(tmp_path / "a.zarr", consolidated=False)
    return tmp_path / "a.zarr"


def test_in_memory(array, file):
    assert in_memory(array.variable)
    assert not in_memory(array.chunk(4).variable)
    assert not in_memory(file.variable), CHANGED
    assert not in_memory(file[1:].variable), CHANGED
    file.load()
    assert in_memory(file.variable), CHANGED


def test_selections_stand_in_the_wrappers(file):
    root, wrappers = unwrapped(file.variable)
    assert hasattr(root, "datastore"), CHANGED
    other, cut = unwrapped(file[1:3].variable)
    assert other is root, CHANGED
    assert cut != wrappers, CHANGED
    assert "slice(1, 3, 1)" in str(cut), CHANGED
    assert not in_memory(file.variable)


def test_decoding_stands_in_the_wrappers(array, tmp_path):
    packed = {"dtype": "int16", "scale_factor": 0.5, "_FillValue": -1}
    array.to_dataset().to_netcdf(tmp_path / "a.nc", encoding={"a": packed})
    with xr.open_dataset(tmp_path / "a.nc") as opened:
        assert "scale_factor" in str(unwrapped(opened["a"].variable)[1]), CHANGED


def test_netcdf_says_its_file(file, tmp_path):
    found = file_behind(unwrapped(file.variable)[0])
    assert found == (str(tmp_path / "a.nc"), "/g", "a"), CHANGED
    assert file_behind(np.zeros(3)) is None


@pytest.mark.parametrize("chunks", [None, {}])
def test_zarr_says_its_array(store, chunks):
    opened = xr.open_zarr(store, chunks=chunks, consolidated=False)["a"]
    lazy = opened.variable
    if chunks is not None:
        (name,) = [key for key in opened.data.dask if str(key).startswith("original-")]
        node = opened.data.dask[name]
        lazy = getattr(node, "value", node)
    found = zarr_behind(unwrapped(lazy)[0])
    assert isinstance(found, zarr.Array), CHANGED
    assert found.path == "a"
    assert zarr_behind(found) is found
    assert zarr_behind(np.zeros(3)) is None
