"""Boxes that reach beyond the array, from anything that can be sliced."""

import dask.array as da
import numpy as np
import pytest
import xarray as xr
import zarr
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import xspinn  # noqa: F401 - registers .spinn
from xspinn.graph.reading import read_box
from xspinn.graph.sources import find_source

MODES = {"reflect": "symmetric", "nearest": "edge", "periodic": "wrap"}


class Counted:
    """An array that counts the voxels that are read from it."""

    def __init__(self, array):
        self.array, self.shape, self.dtype, self.read = array, array.shape, array.dtype, 0

    def __getitem__(self, key):
        part = self.array[key]
        self.read += part.size
        return part


@given(st.data(), st.integers(1, 3))
def test_a_box_is_what_numpy_pads(data, ndim):
    shape = data.draw(st.tuples(*[st.integers(1, 6)] * ndim))
    rules = data.draw(st.tuples(*[st.sampled_from([*MODES, 2.5, -1.0])] * ndim))
    source = Counted(np.arange(np.prod(shape), dtype="f8").reshape(shape))
    padded = source.array
    for axis, rule in enumerate(rules):
        width = [(9, 9) if k == axis else (0, 0) for k in range(ndim)]
        more = {} if rule in MODES else {"constant_values": rule}
        padded = np.pad(padded, width, mode=MODES.get(rule, "constant"), **more)
    spans = []
    for size in shape:
        lo = data.draw(st.integers(-9, size + 8))
        spans.append((lo, data.draw(st.integers(lo, size + 9))))
    box = read_box(source, spans, rules)
    cut = tuple(slice(lo + 9, hi + 9) for lo, hi in spans)
    np.testing.assert_array_equal(box, padded[cut])
    assert source.read <= source.array.size, "nothing is read twice"


def test_where_dims_differ_in_their_number_the_last_dim_of_the_array_has_the_corner():
    box = read_box(np.zeros((2, 2)), [(-1, 2), (-1, 2)], [1.0, 7.0])
    np.testing.assert_array_equal(box, [[7, 1, 1], [7, 0, 0], [7, 0, 0]])


@pytest.mark.parametrize("order", ["yx", "xy"])
def test_corners_are_the_same_for_every_source(order):
    values = np.random.default_rng(0).random((20, 22))
    array = xr.DataArray(values, dims=("y", "x"))
    neighbours = nn.AvgPool2d(3, 1, 1)  # looks around, so that what lies outside is seen
    tiling = {
        "patch": dict.fromkeys(order, 8), "overlap": 4, "boundary": {"y": 7.0, "x": 1.0}
    }  # fmt: skip
    expected = array.spinn.predict(neighbours, **tiling)
    for computed in (array.chunk(7) * 1, array.chunk(2) * 1):
        result = computed.spinn.predict(neighbours, **tiling, blocks=max(computed.chunksizes["y"]))
        np.testing.assert_allclose(result, expected, atol=1e-12)


class NoEmptySlices:
    """A store that fails on an empty slice, as that of segysak does."""

    def __init__(self, values):
        self.values, self.shape, self.dtype, self.ndim = values, values.shape, values.dtype, 2

    def __getitem__(self, key):
        assert all(part.start < part.stop for part in key), key
        return self.values[key]


@pytest.mark.parametrize("spans", [[(2, 2), (0, 3)], [(0, 3), (0, 0)], [(4, 4), (6, 6)]])
def test_an_empty_box_is_not_read(spans):
    box = read_box(NoEmptySlices(np.ones((4, 6))), spans, ["none", "none"])
    assert box.shape == tuple(hi - lo for lo, hi in spans)


def test_blocks_without_patches_do_not_touch_the_source():
    values = np.random.default_rng(0).random((40, 40))
    array = xr.DataArray(da.from_array(NoEmptySlices(values), chunks=40), dims=("y", "x"))
    tiling = {"patch": {"y": 16, "x": 16}, "overlap": 0, "blocks": 4}
    assert any(lo == hi for lo, hi in array.spinn.plan(nn.Identity(), **tiling).axes[0].reads)
    np.testing.assert_allclose(array.spinn.predict(nn.Identity(), **tiling), values)


def sources(path):
    array = xr.DataArray(np.arange(60.0).reshape(6, 10), dims=("y", "x"), name="a")
    array.chunk(y=4, x=5).to_zarr(path / "a.zarr")
    array.to_netcdf(path / "a.nc")
    values = zarr.open_array(path / "a.zarr" / "a", mode="r")
    return {
        "numpy": array,
        "open_zarr": xr.open_zarr(path / "a.zarr")["a"],
        "open_zarr, other chunks": xr.open_zarr(path / "a.zarr", chunks={"y": 4, "x": 10})["a"],
        "open_zarr, no chunks": xr.open_zarr(path / "a.zarr", chunks=None)["a"],
        "open_dataset": xr.open_dataset(path / "a.nc")["a"],
        "open_dataset, chunks": xr.open_dataset(path / "a.nc", chunks={"x": 3})["a"],
        "part of what is lazily opened": xr.open_dataset(path / "a.nc")["a"][:, :],
        "from_array": array.copy(data=da.from_array(values, chunks=4)),
    }


@pytest.mark.parametrize("kind", [
    "numpy", "open_zarr", "open_zarr, other chunks", "open_zarr, no chunks", "open_dataset",
    "open_dataset, chunks", "part of what is lazily opened", "from_array",
])  # fmt: skip
def test_what_can_be_sliced(tmp_path, kind):
    array = sources(tmp_path)[kind]
    source = find_source(array.variable)
    assert source.sliceable is not None
    assert source.lazy == (kind != "numpy")
    assert source.road == ("memory" if kind == "numpy" else "the store") + ", by blocks"
    box = np.asarray(source.sliceable[slice(1, 3), slice(2, 7)])
    np.testing.assert_array_equal(box, np.arange(60.0).reshape(6, 10)[1:3, 2:7])
    assert array.variable._in_memory == (kind == "numpy")


def test_what_cannot(tmp_path):
    lazy = sources(tmp_path)["open_zarr"]
    for array in (lazy * 2, lazy.isel(x=slice(3)), lazy.T, lazy.astype("f4"), lazy.chunk(2)):
        source = find_source(array.variable)
        assert source.sliceable is None
        assert source.array is not None
        assert source.road == "dask's chunks, by map_overlap"


@pytest.mark.usefixtures("small_batches")
def test_what_from_array_was_told_is_kept():
    values = np.arange(60.0).reshape(6, 10)

    class Stored:
        shape, dtype, ndim = values.shape, values.dtype, 2

        def __getitem__(self, key):
            return values[key]

    def tenfold(array, key, **kwargs):
        return array[key] * 10

    locked = da.from_array(Stored(), chunks=3, lock=True)
    scaled = da.from_array(Stored(), chunks=3, getitem=tenfold)
    assert find_source(xr.Variable(("y", "x"), da.from_array(Stored(), chunks=3))).sliceable
    for array, factor in ((locked, 1), (scaled, 10)):
        given = xr.DataArray(array, dims=("y", "x"))
        assert find_source(given.variable).sliceable is None
        np.testing.assert_allclose(
            given.spinn.predict(lambda x: x, patch={"x": 4}), values * factor
        )


def test_scale_and_offset_are_decoded(tmp_path):
    array = xr.DataArray(np.arange(12.0).reshape(3, 4), dims=("y", "x"), name="a")
    encoding = {"a": {"dtype": "int16", "scale_factor": 0.5, "add_offset": 3.0, "_FillValue": -1}}
    array.to_dataset().to_netcdf(tmp_path / "packed.nc", encoding=encoding)
    with xr.open_dataset(tmp_path / "packed.nc", chunks={}) as packed:
        result = packed["a"].spinn.predict(lambda x: x * 2, patch={"x": 3}, overlap=1)
        np.testing.assert_allclose(result, array * 2)
        assert not {"scale_factor", "add_offset", "dtype"} & set(result.encoding)
