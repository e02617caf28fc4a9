"""Class maps come back from stores as the integers that they are, and gaps as no class."""

import shutil

import numpy as np
import pytest
import xarray as xr
import zarr
from packaging.version import Version

import xspinn  # noqa: F401 # for the accessor

ARGUMENTS = {"patch": {"y": 8, "x": 8}, "overlap": 2, "blocks": 8}


def facies(batch):
    return np.concatenate([batch - 0.5, 0.5 - batch], axis=1)


@pytest.fixture(params=["memory", "dask"])
def classes(request):
    """Two classes, with a voxel of none."""
    values = np.random.default_rng(0).random((16, 24)).astype("float32")
    values[3, 5] = np.nan
    image = xr.DataArray(values, dims=("y", "x"))
    image = image.chunk() if request.param == "dask" else image
    return image.spinn.predict(facies, **ARGUMENTS, combine="soft", output={"facies": ["a", "b"]})


def check(opened, classes):
    assert opened.dtype == "uint8"
    assert opened[3, 5] == 255
    np.testing.assert_array_equal(opened, classes)
    assert list(opened.attrs["flag_values"]) == [0, 1]
    assert opened.attrs["flag_meanings"] == "a b"
    assert "_FillValue" not in {**opened.attrs, **opened.encoding}


@pytest.mark.parametrize("version", [2, 3])
def test_classes_stay_integers_in_zarr(classes, version, tmp_path):
    path = tmp_path / "classes.zarr"
    classes.to_dataset().to_zarr(path, zarr_format=version)
    check(xr.open_zarr(path)["prediction"].load(), classes)


@pytest.mark.skipif(
    Version(xr.__version__) < Version("2025.3.1"), reason="xarray drops fill_value from encodings"
)
def test_what_was_never_written_to_zarr_is_no_class(classes, tmp_path):
    path = tmp_path / "classes.zarr"
    classes.chunk(y=8, x=8).to_dataset().to_zarr(path, zarr_format=3)
    assert zarr.open_array(path / "prediction").fill_value == 255
    shutil.rmtree(path / "prediction" / "c" / "1")
    opened = xr.open_zarr(path)["prediction"].load()
    assert (opened[8:] == 255).all()
    check(opened[:8], classes[:8])


def test_classes_stay_integers_in_netcdf(classes, tmp_path):
    path = tmp_path / "classes.nc"
    classes.to_netcdf(path)
    with xr.open_dataset(path) as opened:
        check(opened["prediction"].load(), classes)


def test_only_class_maps_are_given_a_fill():
    image = xr.DataArray(np.zeros((16, 24), "float32"), dims=("y", "x"))
    for options in ({}, {"combine": "max"}, {"dtype": "uint8"}):
        assert image.spinn.predict(facies, **ARGUMENTS, **options).encoding == {}
