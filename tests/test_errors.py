"""Every mistake is named before anything runs: what was got, what was expected, the fix."""

import re

import dask.array as da
import numpy as np
import pytest
import xarray as xr
from helpers.networks import fail_on_large, nan_on_large
from torch import nn

import xspinn
from xspinn.errors import ModelError, PlanError, SpinnWarning

PATCH = {"y": 8, "x": 8}


def image(**kwargs):
    values = np.random.default_rng(0).random((20, 24), dtype="float32")
    return xr.DataArray(values, dims=("y", "x"), **kwargs)


@pytest.fixture
def never():
    """Return a dask array that must not be computed."""

    def fail():
        raise AssertionError("computed")

    chunk = da.from_delayed(__import__("dask").delayed(fail)(), (20, 24), "float32")
    return xr.DataArray(chunk, dims=("y", "x"), coords={"lat": ("y", np.arange(20.0))})


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"patch": {"z": 8}}, r"dim 'z', which the array does not have.*\{'y': 20, 'x': 24\}"),
        ({"patch": 8}, "give a mapping of dim to voxels"),
        ({"patch": {}}, "give a mapping"),
        ({"patch": {"y": 0, "x": 8}}, "'y': 0.*positive integer"),
        ({"patch": {"y": 8.0, "x": 8}}, "'y': 8.0.*positive integer"),
        ({"overlap": 8}, "overlap of dim 'y' is 8 voxels; expected 0 to 7"),
        ({"overlap": -1}, "is -1 voxels"),
        ({"overlap": 1.5}, r"1.5; a float is a fraction.*For voxels give an integer"),
        ({"overlap": "auto"}, "'auto'; expected voxels"),
        ({"overlap": {"z": 2}}, "overlap names dim 'z', which patch does not"),
        ({"patch": {"y": 32, "x": 8}}, r"'y' has 20 voxels, fewer than the patch of 32.*reflect"),
        ({"boundary": "mirror"}, r"'mirror'; expected one of \['none'"),
        ({"boundary": None}, "boundary of dim 'y' is None"),
        ({"window": "boxcar"}, "window='boxcar' is not known"),
        ({"window": [1, 2, 3]}, r"shape \(3,\), but the patch has 8"),
        ({"combine": "median"}, "combine='median' is not known"),
        ({"channel": "band"}, "channel='band' is not a dim"),
        ({"channel": "x"}, "both in patch and the channel dim"),
        ({"batch": 0}, "batch=0"),
        ({"blocks": {"band": 2}}, "blocks names dim 'band'"),
        ({"blocks": {"y": (3, 3)}}, "sum to 20"),
        ({"blocks": 0}, "one voxel at least"),
        ({"blocks": 2.5}, "give a number of voxels"),
        ({"blocks": {"y": None}}, "give a number of voxels"),
        ({"blocks": {"y": [10.5, 9.5]}}, "give a number of voxels"),
        ({"blocks": True}, "give a number of voxels"),
        ({"batch": True}, "batch=True"),
        ({"dtype": "foo"}, "dtype='foo'"),
        ({"dtype": str}, "holds no numbers"),
        ({"name": "lat"}, "name='lat' is the name of a coordinate"),
        ({"output": "lat"}, "would be dim 'lat'"),
        ({"output": {"t": np.array([1], "m8[ns]")}}, r"labels of 't'.*assign_coords"),
        ({"device": "meta"}, "not known to torch"),
        ({"device": "tpu9"}, "'tpu9' is not known to torch"),
        ({"activation": "swish"}, "'swish' is not known"),
        ({"combine": "soft"}, "chooses among channels, but the model's result has 1 channel"),
        ({"activation": "softmax"}, "chooses among channels"),
        ({"output": {"y": [1]}}, "would be dim 'y'"),
        ({"output": {"facies": ["a", "b"]}}, "names 2 channels.*has 1"),
        ({"output": 3}, "output=3"),
    ],
)
def test_arguments_that_do_not_fit(never, arguments, match):
    arguments = {"patch": PATCH, "overlap": 2, **arguments}
    with pytest.raises(PlanError, match=match):
        never.spinn.predict(nn.Identity(), **arguments)


@pytest.mark.parametrize(
    ("array", "match"),
    [
        (image().astype(object), "dtype object"),
        (image().astype(str), "dtype <U32"),
        (image().astype("datetime64[ns]"), "datetime64"),
        (image().isel(y=slice(0)), "dim 'y' has size 0"),
        (image().rename(y=3), "dim 3 is int"),
    ],
)
def test_arrays_that_no_model_takes(array, match):
    with pytest.raises(PlanError, match=match):
        array.spinn.predict(nn.Identity(), patch={"x": 8})


def test_duplicate_dims():
    with pytest.warns(UserWarning, match="[Dd]uplicate"):
        array = xr.DataArray(np.zeros((8, 8)), dims=("x", "x"))
    with pytest.raises(PlanError, match=r"'x' appears twice in \('x', 'x'\)"):
        array.spinn.predict(nn.Identity(), patch={"x": 8})


def test_unknown_chunks():
    values = da.from_array(np.random.default_rng(0).random((20, 24)), chunks=10)
    array = xr.DataArray(values[values[:, 0] > 0.5], dims=("y", "x"))
    with pytest.raises(PlanError, match=r"size of dim 'y'.*compute_chunk_sizes"):
        array.spinn.predict(nn.Identity(), patch=PATCH)


def test_lazy_modules():
    with pytest.raises(ModelError, match=r"lazy parameters.*run it once"):
        image().spinn.predict(nn.LazyConv2d(1, 3, padding=1), patch=PATCH)


def test_not_an_xarray():
    with pytest.raises(PlanError, match="got ndarray: name the dims"):
        xspinn.predict(np.zeros(8), nn.Identity(), patch={"x": 8})


@pytest.mark.parametrize(
    ("model", "match"),
    [
        (nn.Conv2d(3, 1, 3), r"expects 3 channels, but it was fed with 1.*channel="),
        (nn.Conv3d(1, 1, 3), "failed on one patch of zeros"),
        (nn.Flatten(), r"returned an array of shape \(1, 64\).*4 or 3 axes"),
        (nn.Conv2d(1, 1, 3), r"8 voxels of dim 'y' into 6.*padding='same'"),
        (nn.Conv2d(1, 1, 5), r"8 voxels of dim 'y' into 4.*1/2 is not a spatial scale"),
        (lambda x: x[:, :, 1:-1, 1:-1], r"8 voxels of dim 'y' into 6"),
        (lambda x: x[:, :, 2:-2, 2:-2], r"into 4.*1/2 is not a spatial scale"),
        (lambda x: x.astype("uint64"), "return int64"),
        (lambda x: np.ma.masked_less(x.astype(int), 1), "masked array of int64"),
        (lambda x: x[0, 0], "returned an array of shape"),
        (lambda x: "words", "returned 'str' where a tensor was expected"),
        (lambda x: {}, "returned nothing"),
        (lambda x: 1 / 0, "failed on one patch of zeros.*ZeroDivisionError"),
        ("faults.pt", "'faults.pt' cannot be read: .*No such file"),
    ],
)
def test_models_that_cannot_be_placed(never, model, match):
    with pytest.raises(ModelError, match=re.compile(match, re.DOTALL)):
        never.spinn.predict(model, patch=PATCH, overlap=2)


def test_complex_input_to_a_real_model():
    with pytest.raises(ModelError, match=r"complex64.*da\.real"):
        image().astype("complex64").spinn.predict(nn.Conv2d(1, 1, 3, padding=1), patch=PATCH)


def test_complex_input_to_a_model_that_takes_it():
    array = image().astype("complex128") * 1j
    result = array.spinn.predict(nn.Identity(), patch=PATCH, overlap=3, window="gaussian")
    np.testing.assert_allclose(result, array, atol=1e-12)
    with pytest.raises(PlanError, match="compares values"):
        array.spinn.predict(nn.Identity(), patch=PATCH, combine="max")


def test_labels_cannot_be_averaged():
    with pytest.raises(PlanError, match=r"int64.*window='trim'"):
        image().spinn.predict(lambda x: (x > 0.5).astype(int), patch=PATCH)
    mask = image().spinn.predict(lambda x: x > 0.5, patch=PATCH, window="trim")
    assert mask.dtype == bool
    np.testing.assert_array_equal(mask, image() > 0.5)
    most = image().spinn.predict(lambda x: x > 0.5, patch=PATCH, combine="max")
    np.testing.assert_array_equal(most, image() > 0.5)


def test_classes_that_the_dtype_cannot_hold():
    for dtype in ("int8", bool, "complex64"):
        with pytest.raises(PlanError, match="cannot hold 300 classes"):
            image().spinn.predict(
                lambda x: np.repeat(x, 300, 1), patch=PATCH, combine="soft", dtype=dtype
            )


def test_outputs_named_like_what_is_there():
    array = image(coords={"y": np.arange(20)})
    for taken in ("x", "y"):
        with pytest.raises(PlanError, match=f"array named '{taken}'"):
            array.spinn.predict(lambda b, taken=taken: {taken: b}, patch=PATCH)


def test_a_device_that_is_not_there():
    with pytest.raises(PlanError, match="device='cuda:63' is not there"):
        image().spinn.predict(nn.Conv2d(1, 1, 1), patch=PATCH, device="cuda:63")


def test_times_among_a_datasets_variables():
    ds = xr.Dataset({"a": image(), "t": image().astype("datetime64[ns]")})
    with pytest.raises(PlanError, match="datetime64"):
        ds.spinn.predict(nn.Identity(), patch=PATCH)


def test_constant_that_the_dtype_cannot_hold():
    with pytest.raises(PlanError, match="boundary=-1 of dim 'y' is not a value of dtype uint8"):
        image().astype("uint8").spinn.predict(nn.Identity(), patch=PATCH, boundary=-1)


def test_stride_that_a_coarser_output_cannot_take():
    pool = nn.AvgPool2d(4)
    array = image()
    with pytest.raises(PlanError, match=r"one voxel for every 4.*overlap of 0 or 4"):
        array.spinn.predict(pool, patch=PATCH, overlap=3)
    with pytest.raises(PlanError, match=r"da.isel\(x=slice\(20\)\)"):
        array.isel(x=slice(23)).spinn.predict(pool, patch=PATCH, overlap=4)
    with pytest.raises(PlanError, match="multiples of 4"):
        array.spinn.predict(pool, patch=PATCH, overlap=4, blocks=10)


@pytest.mark.parametrize("lazy", [False, True])
def test_model_that_raises_names_the_place_and_keeps_its_error(lazy):
    array = image(coords={"y": np.linspace(50, 40, 20), "x": np.arange(24) * 0.5})
    array[18, 5] = 9
    array = array.chunk(y=10) if lazy else array
    with pytest.raises(RuntimeError, match="too large") as caught:
        array.spinn.predict(fail_on_large, patch=PATCH, overlap=2, batch=1, blocks=12).compute(
            scheduler="sync"
        )
    (note,) = caught.value.__notes__
    assert "in block (1, 0) of (2, 2), y=12:20 (43.68" in note
    assert "batch of 1 patches begins at y=12:20 (43.68" in note
    assert any("fail_on_large" in str(entry.name) for entry in caught.traceback)


def test_a_model_that_raises_stop_iteration():
    """Generators, of which blocks are made, would turn it into an error that says nothing."""

    def model(batch):
        return next(iter(())) if batch.max() > 1 else batch

    array = image()
    array[18, 5] = 9
    for scheduler in ("sync", "threads"):
        lazy = array.chunk(y=10).spinn.predict(model, patch=PATCH, overlap=2, batch=1, blocks=12)
        with pytest.raises(ModelError, match=r"the model raised StopIteration\(\)") as caught:
            lazy.compute(scheduler=scheduler)
        assert isinstance(caught.value.__cause__, StopIteration)
        (note,) = caught.value.__notes__
        assert "in block (1, 0) of (2, 2), y=12:20" in note
        assert "batch of 1 patches begins at y=12:20" in note


def test_nan_for_finite_input_warns_once_and_names_the_first_place():
    array = image(coords={"y": np.arange(20) * 10.0})
    array[13, 5] = array[14, 6] = 9
    with pytest.warns(SpinnWarning, match=r"y=13:14 \(130.0\), x=5:6") as caught:
        result = array.spinn.predict(nan_on_large, patch=PATCH, overlap=2, window="trim")
    assert len(caught) == 1
    assert int(result.isnull().sum()) == 2


def test_votes_of_nan_are_not_silent():
    def model(batch):
        return np.concatenate([batch, nan_on_large(batch)], 1)

    array = image()
    array[13, 5] = 9
    with pytest.warns(SpinnWarning, match="y=13:14, x=5:6"):
        array.spinn.predict(model, patch=PATCH, overlap=2, combine="hard")


def test_nan_is_not_looked_for_where_that_is_turned_off():
    array = image()
    array[13, 5] = 9
    with xspinn.set_options(check_nan=False):
        lazy = array.chunk(10).spinn.predict(nan_on_large, patch=PATCH)
    assert int(lazy.isnull().sum()) == 1


def test_nan_of_the_input_is_no_surprise():
    array = image()
    array[3, 3] = np.nan
    result = array.spinn.predict(nn.Identity(), patch=PATCH, overlap=2)
    np.testing.assert_allclose(result, array, atol=1e-6)


def test_a_model_that_changes_its_mind():
    calls = []

    def model(batch):
        calls.append(1)
        return batch if len(calls) == 1 else batch[:, :, 1:]

    with pytest.raises(ModelError, match=r"expected .* as it answered before the run"):
        image().spinn.predict(model, patch=PATCH)


def test_dataset_variables_must_share_dims():
    ds = xr.Dataset({"a": image(), "b": image().isel(x=0, drop=True)})
    with pytest.raises(PlanError, match=r"'b' has dims \('y',\), but 'a' has"):
        ds.spinn.predict(nn.Identity(), patch=PATCH)
    with pytest.raises(PlanError, match="no data variables"):
        xr.Dataset().spinn.predict(nn.Identity(), patch=PATCH)


def test_options():
    assert xspinn.get_options()["check_nan"] is True
    with pytest.raises(PlanError, match="not an option"):
        xspinn.set_options(blocks=3)
    with pytest.raises(PlanError, match="positive integer"):
        xspinn.set_options(block_bytes=0)
    with xspinn.set_options(block_bytes=10):
        assert xspinn.get_options()["block_bytes"] == 10
    assert xspinn.get_options()["block_bytes"] == 128 * 2**20
