"""Coordinates, dims, names, attributes and encodings of the result."""

import json

import dask.array as da
import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from torch import nn

from xspinn.errors import PlanError, SpinnWarning

pytestmark = pytest.mark.usefixtures("small_batches")

PATCH = {"y": 8, "x": 8}


@pytest.fixture(params=["numpy", "dask"])
def cube(request):
    values = np.random.default_rng(0).random((3, 20, 24))
    y, x = np.linspace(60, 50.5, 20), np.arange(24) * 0.25
    array = xr.DataArray(
        values,
        dims=("time", "y", "x"),
        coords={
            "time": pd.date_range("2020-01-01", periods=3),
            "y": ("y", y, {"units": "degrees_north"}),
            "x": x,
            "lat2d": (("y", "x"), y[:, None] + x),
            "station": ("x", [f"s{k}" for k in range(24)]),
            "month": ("time", [1, 1, 1]),
            "spatial_ref": ((), 0, {"crs_wkt": "WGS 84", "GeoTransform": "0 1 0 0 0 1"}),
        },
        name="t2m",
        attrs={"units": "K", "standard_name": "air_temperature", "title": "A cube"},
    )
    array.encoding = {"grid_mapping": "spatial_ref", "dtype": "int16", "scale_factor": 0.1}
    return array.chunk(time=2, y=7) if request.param == "dask" else array


def test_same_scale_keeps_everything_but_the_physics(cube):
    result = cube.spinn.predict(nn.Identity(), patch=PATCH, overlap=2)
    xr.testing.assert_allclose(result.drop_attrs(), cube.drop_attrs(), rtol=1e-12)
    assert set(result.coords) == set(cube.coords)
    assert result.y.attrs == cube.y.attrs
    assert isinstance(result.indexes["time"], pd.DatetimeIndex)
    assert result.name == "prediction"
    assert set(result.attrs) == {"title", "xspinn"}
    source = json.loads(result.attrs["xspinn"])
    assert set(source) == {"version", "model", "plan", "batch", "tuning"}
    assert result.encoding.get("grid_mapping") == "spatial_ref"
    assert "scale_factor" not in result.encoding
    bare = cube.spinn.predict(nn.Identity(), patch=PATCH, keep_attrs=False, name="faults")
    assert set(bare.attrs) == {"xspinn"}
    assert bare.name == "faults"


@pytest.mark.parametrize("factor", [2, 3])
def test_finer_output(cube, factor):
    up = nn.Upsample(scale_factor=factor, mode="nearest")
    result = cube.spinn.predict(up, patch=PATCH, overlap=2)
    assert dict(result.sizes) == {"time": 3, "y": 20 * factor, "x": 24 * factor}
    inner = result.isel(y=slice(factor // 2, None, factor), x=slice(factor // 2, None, factor))
    np.testing.assert_allclose(inner, cube, atol=1e-12)
    # Voxels of the output lie around the middle of the input's voxel.
    middles = result.y.values.reshape(20, factor).mean(1)
    np.testing.assert_allclose(middles, cube.y, atol=1e-12)
    np.testing.assert_allclose(np.diff(result.x), 0.25 / factor)
    np.testing.assert_allclose(
        result.lat2d.values.reshape(20, factor, 24, factor).mean((1, 3)), cube.lat2d, atol=1e-12
    )
    assert list(result.station.values[:factor]) == ["s0"] * factor
    assert result.y.attrs == cube.y.attrs
    assert result.spatial_ref.attrs == {"crs_wkt": "WGS 84"}
    pd.testing.assert_index_equal(result.indexes["time"], cube.indexes["time"])


@pytest.mark.parametrize("boundary", ["none", "reflect"])
def test_coarser_output(cube, boundary):
    pool = nn.AvgPool2d(4)
    result = cube.spinn.predict(pool, patch=PATCH, overlap=4, boundary=boundary)
    expected = cube.drop_vars("station").coarsen(y=4, x=4).mean()
    np.testing.assert_allclose(result, expected, atol=1e-12)
    np.testing.assert_allclose(result.y, expected.y, atol=1e-12)
    np.testing.assert_allclose(result.x, expected.x, atol=1e-12)
    assert result.dims == cube.dims


def test_coarser_output_of_a_size_that_does_not_divide(cube):
    ragged = cube.isel(y=slice(18), x=slice(23))
    result = ragged.spinn.predict(nn.AvgPool2d(4), patch=PATCH, boundary="nearest")
    assert dict(result.sizes) == {"time": 3, "y": 5, "x": 6}
    whole = cube.drop_vars("station").isel(y=slice(16), x=slice(20)).coarsen(y=4, x=4).mean()
    np.testing.assert_allclose(result[:, :4, :5], whole, atol=1e-12)


def test_coordinates_without_an_index_stay_without_and_lazy(cube):
    def refuse(block):
        raise AssertionError("computed")

    lazy = da.zeros(24, chunks=24).map_blocks(refuse, dtype=float, meta=np.empty(0))
    bare = xr.Coordinates({"x": ("x", lazy)}, indexes={})
    array = cube.drop_vars("x").assign_coords(bare)
    result = array.spinn.predict(nn.Identity(), patch=PATCH)
    assert "x" not in result.indexes
    assert result.x.chunks is not None


def test_regions_are_not_interpolated_and_what_goes_is_named(cube):
    array = cube.assign_coords(region=("y", [1, 7] * 10), sea=("x", [True, False] * 12))
    finer = array.spinn.predict(nn.Upsample(scale_factor=2), patch=PATCH)
    np.testing.assert_array_equal(finer.region, np.repeat(array.region.values, 2))
    np.testing.assert_array_equal(finer.sea, np.repeat(array.sea.values, 2))
    assert finer.sea.dtype == bool
    # The middle of four voxels lies between the second and the third; even places win.
    coarser = array.assign_coords(station=("x", np.arange(24))).spinn.predict(
        nn.AvgPool2d(4), patch=PATCH
    )
    assert coarser.station.values.tolist() == [2, 6, 10, 14, 18, 22]
    named = array.drop_vars("y").assign_coords(y=[f"row {k}" for k in range(20)])
    with pytest.warns(SpinnWarning, match="coordinate of dim 'y' is dropped"):
        finer = named.spinn.predict(nn.Upsample(scale_factor=2), patch=PATCH)
    assert "y" not in finer.coords


def test_grid_mapping_of_a_datasets_variables(cube):
    ds = cube.to_dataset(name="t2m")
    assert ds.spinn.predict(nn.Identity(), patch=PATCH).encoding["grid_mapping"] == "spatial_ref"


def test_a_selected_channel_makes_room_for_the_result(cube, tmp_path):
    one = cube.rename(time="channel").isel(channel=0)
    result = one.spinn.predict(nn.Conv2d(1, 3, 1).double(), patch=PATCH)
    assert "channel" not in result.coords
    result.to_netcdf(tmp_path / "three.nc")


def test_levels_of_an_index_survive_or_go_together(cube):
    levels = pd.MultiIndex.from_product([range(4), range(5)], names=("row", "step"))
    coords = xr.Coordinates.from_pandas_multiindex(levels, "y")
    stacked = cube.drop_vars(["y", "lat2d"]).assign_coords(coords)
    same = stacked.spinn.predict(nn.Identity(), patch=PATCH)
    pd.testing.assert_index_equal(same.indexes["y"], levels.rename(same.indexes["y"].names))
    finer = stacked.spinn.predict(nn.Upsample(scale_factor=2), patch=PATCH)
    assert not {"y", "row", "step"} & set(finer.coords)


def test_times_are_resampled_too(cube):
    up = nn.Upsample(scale_factor=2, mode="nearest")
    result = cube.isel(y=0, drop=True).spinn.predict(up, patch={"time": 2}, overlap=0)
    assert list(result.time.values[:2]) == list(
        pd.to_datetime(["2019-12-31 18:00", "2020-01-01 06:00"])
    )


class Heads(nn.Module):
    """Two outputs of two kinds."""

    def forward(self, x):
        return {"logits": torch.cat([x, 1 - x, 0 * x], 1), "depth": x[:, 0] * 2}


def test_several_outputs_become_a_dataset(cube):
    result = cube.spinn.predict(
        Heads(), patch=PATCH, overlap=3, output={"logits": {"facies": ["sand", "shale", "salt"]}}
    )
    assert isinstance(result, xr.Dataset)
    assert result.logits.dims == ("time", "facies", "y", "x")
    assert list(result.facies.values) == ["sand", "shale", "salt"]
    np.testing.assert_allclose(result.depth, cube * 2, atol=1e-12)
    np.testing.assert_allclose(result.logits.sel(facies="shale"), 1 - cube, atol=1e-12)
    assert (result.depth.chunks is not None) == (cube.chunks is not None)
    with pytest.raises(PlanError, match=r"returns several arrays, \['logits', 'depth'\]"):
        cube.spinn.predict(Heads(), patch=PATCH, output="facies")


def test_outputs_that_do_not_fit_one_dataset(cube):
    def scales(x):
        return {"fine": x, "coarse": x[:, :, ::2, ::2]}

    def channels(x):
        return {"two": np.concatenate([x, x], 1), "three": np.concatenate([x, x, x], 1)}

    with pytest.raises(PlanError, match="'fine' and 'coarse' differ in spatial scale"):
        cube.spinn.predict(scales, patch=PATCH)
    with pytest.raises(PlanError, match="different channels along one dim, 'channel'"):
        cube.spinn.predict(channels, patch=PATCH)
    named = cube.spinn.predict(channels, patch=PATCH, output={"two": "pair"})
    assert dict(named.sizes) == {"time": 3, "y": 20, "x": 24, "pair": 2, "channel": 3}


def test_outputs_are_known_by_name_not_by_order(cube):
    calls = []

    def model(batch):
        calls.append(1)
        parts = [("a", batch), ("b", -batch)]
        return dict(parts if len(calls) % 2 else parts[::-1])

    result = cube.spinn.predict(model, patch=PATCH, overlap=2, batch=1)
    np.testing.assert_allclose(result.a, cube, atol=1e-12)
    np.testing.assert_allclose(result.b, -cube, atol=1e-12)


def test_tuples_are_numbered(cube):
    result = cube.spinn.predict(lambda x: (x, x[:, 0] * 2), patch=PATCH)
    assert list(result) == ["output_0", "output_1"]
    np.testing.assert_allclose(result.output_1, cube * 2, atol=1e-12)


@pytest.mark.parametrize("combine", ["soft", "hard"])
def test_classes_carry_cf_flags(cube, combine):
    def model(batch):
        return np.concatenate([batch, 1 - batch, 0 * batch], 1)

    result = cube.spinn.predict(
        model, patch=PATCH, overlap=2, combine=combine,
        output={"facies": ["sand", "grey shale", "salt"]},
    )  # fmt: skip
    assert result.dims == cube.dims
    assert result.dtype == "uint8"
    np.testing.assert_array_equal(result.attrs["flag_values"], [0, 1, 2])
    assert result.attrs["flag_values"].dtype == "uint8"
    assert result.attrs["flag_meanings"] == "sand grey_shale salt"
    np.testing.assert_array_equal(result, (cube < 0.5).astype("uint8"))


def test_many_classes_get_a_wider_dtype(cube):
    result = cube.spinn.predict(lambda x: np.repeat(x, 300, 1), patch=PATCH, combine="soft")
    assert result.dtype == "uint16"


def test_activation_settles_channels_and_dtype(cube):
    result = cube.spinn.predict(
        lambda x: (x > 0.5).astype(int), patch=PATCH, activation="sigmoid", window="trim"
    )
    np.testing.assert_allclose(result, 1 / (1 + np.exp(-1.0 * (cube > 0.5))), atol=1e-6)
    assert result.dtype == "float32"
    second = cube.spinn.predict(
        lambda x: np.concatenate([x, -x], 1), patch=PATCH, activation=lambda t: t[:, 1:]
    )
    np.testing.assert_allclose(second, -cube, atol=1e-12)
    assert second.dims == cube.dims
    power = (cube * 1j).spinn.predict(nn.Identity(), patch=PATCH, activation=torch.abs)
    assert power.dtype == "float64"
    np.testing.assert_allclose(power, cube, atol=1e-12)


def test_softmax_comes_before_the_mean(cube):
    def model(batch):
        return np.concatenate([batch * 5, batch], 1)

    result = cube.spinn.predict(model, patch=PATCH, activation="softmax", output="p")
    np.testing.assert_allclose(result.sum("p"), 1)
    np.testing.assert_allclose(result.isel(p=0), 1 / (1 + np.exp(-4 * cube)), atol=1e-12)
    custom = cube.spinn.predict(model, patch=PATCH, activation=torch.abs, output="p")
    np.testing.assert_allclose(custom.isel(p=1), abs(cube), atol=1e-12)


def test_channels_of_the_input(cube):
    conv = nn.Conv2d(3, 2, 1).double()
    result = cube.spinn.predict(conv, patch=PATCH, overlap=2, channel="time")
    assert result.dims == ("channel", "y", "x")
    assert "month" not in result.coords
    weight, bias = conv.weight.detach().numpy()[:, :, 0, 0], conv.bias.detach().numpy()
    expected = np.einsum("oc,cyx->oyx", weight, cube) + bias[:, None, None]
    np.testing.assert_allclose(result, expected, atol=1e-12)
    same = cube.spinn.predict(nn.Identity(), patch=PATCH, channel="time", output="time")
    xr.testing.assert_allclose(same.drop_attrs(), cube.drop_attrs())
    fewer = cube.spinn.predict(conv, patch=PATCH, channel="time", output="time")
    assert dict(fewer.sizes) == {"time": 2, "y": 20, "x": 24}
    assert not {"time", "month"} & set(fewer.coords), "labels of three channels, for two"
    one = cube.transpose("y", "time", "x").spinn.predict(
        nn.Conv2d(3, 1, 1).double(), patch=PATCH, channel="time"
    )
    assert one.dims == ("y", "x")


def test_a_dataset_is_a_stack_of_channels(cube):
    ds = xr.Dataset({"u": cube, "v": (cube * 2).transpose("x", "time", "y")})
    result = ds.spinn.predict(lambda x: x[:, :1] + 10 * x[:, 1:], patch=PATCH, overlap=2)
    np.testing.assert_allclose(result, cube * 21, rtol=1e-12)
    assert result.dims == cube.dims
    assert (result.chunks is not None) == (cube.chunks is not None)
    same = ds.spinn.predict(nn.Identity(), patch=PATCH, channel="wind", output="wind")
    assert list(same.wind.values) == ["u", "v"]
    np.testing.assert_allclose(same.sel(wind="v"), cube * 2, rtol=1e-12)


@pytest.mark.parametrize(
    ("dtype", "feed"),
    [("bool", "float32"), ("uint8", "float32"), ("int16", "float32"), ("int32", "float64"),
     ("uint64", "float64"), ("float16", "float16"), (">f4", "float32"), (">f8", "float64")],
)  # fmt: skip
def test_integers_and_bools_are_cast_as_documented(dtype, feed):
    array = xr.DataArray(np.arange(48).reshape(6, 8) % 2, dims=("y", "x")).astype(dtype)
    seen = []

    def model(batch):
        seen.append(batch.dtype)
        return batch

    result = array.spinn.predict(model, patch={"y": 4, "x": 4}, boundary="reflect")
    assert set(seen) == {np.dtype(feed)}
    np.testing.assert_array_equal(result, array.astype(feed))
    conv = nn.Conv2d(1, 1, 1)
    assert array.spinn.predict(conv, patch={"y": 4, "x": 4}).dtype == "float32"
    assert array.spinn.plan(conv.double(), patch={"y": 4, "x": 4}).feed == "float64"


def test_dtype_of_the_result(cube):
    assert cube.spinn.predict(nn.Identity(), patch=PATCH, dtype="float32").dtype == "float32"
    half = cube.spinn.predict(nn.Conv2d(1, 1, 1).bfloat16(), patch=PATCH)
    assert half.dtype == "float32"
