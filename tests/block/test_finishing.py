"""Sums become the result's dtype: rounded, clipped, and never a number where there is none."""

import numpy as np
import pytest
import torch
import xarray as xr
from helpers.strategies import chunked_cases
from hypothesis import given, settings

from xspinn.errors import ModelError

INTEGERS = ["uint8", "int8", "uint16", "int16", "int32", "uint32", "int64", "uint64"]

BLOCKS = pytest.mark.parametrize(
    "blocks", [-1, {"y": (13, 11), "x": (9, 15)}], ids=["one block", "blocks"]
)
"""A single block is finished as a whole; of several, what neighbours add to is finished later."""


def tiling(window="gaussian", blocks=-1, **arguments):
    return {"patch": {"y": 8, "x": 8}, "overlap": 3, "window": window, "blocks": blocks,
            **arguments}  # fmt: skip


def grey(values):
    return xr.DataArray(np.asarray(values), dims=("y", "x"))


# -- integers --------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["uint8", "int16", "int64"])
@given(case_and_chunks=chunked_cases(max_ndim=2))
@settings(max_examples=30)
def test_an_identity_model_returns_integers_as_they_are(dtype, case_and_chunks):
    case, chunks = case_and_chunks
    most = 256 if dtype == "uint8" else 30_000
    values = np.random.default_rng(0).integers(0, most, tuple(case.shape.values()))
    array = xr.DataArray(values.astype("float32"), dims=tuple(case.shape))
    arguments = {**case.arguments, "blocks": chunks, "dtype": dtype}
    result = array.spinn.predict(torch.nn.Identity(), **arguments)
    assert result.dtype == dtype
    np.testing.assert_array_equal(result, array)


@BLOCKS
@pytest.mark.parametrize("dtype", [*INTEGERS, "bool"])
def test_ones_stay_ones(dtype, blocks):
    array = grey(np.zeros((24, 24), "float32"))
    result = array.spinn.predict(np.ones_like, **tiling(blocks=blocks), dtype=dtype)
    assert result.dtype == dtype
    assert bool((result == 1).all())


@BLOCKS
@pytest.mark.parametrize("own", ["float32", "float64"])
@pytest.mark.parametrize("dtype", INTEGERS)
def test_what_is_out_of_range_gets_the_end_of_it(own, dtype, blocks):
    info = np.iinfo(dtype)
    array = grey(np.zeros((24, 24), own))
    values = [-np.inf, -1e30, info.min, -0.4, 0.6, info.max, 1e30, np.inf]
    expected = [info.min, info.min, info.min, 0, 1, info.max, info.max, info.max]
    array[0, : len(values)] = values
    # Of a maximum nothing is weighed, so that infinity stays what it is.
    arguments = tiling("trim", blocks, combine="max", dtype=dtype)
    result = array.spinn.predict(torch.nn.Identity(), **arguments)
    assert result.values[0, : len(values)].tolist() == expected
    assert not result[1:].any()


@BLOCKS
def test_halves_and_what_rounds_beyond_the_range(blocks):
    array = grey(np.zeros((24, 24), "float32"))
    array[0, :6] = [0.5, 1.5, 254.5, 255.4, 255.5, -0.5]
    arguments = tiling("trim", blocks, combine="max")
    result = array.spinn.predict(torch.nn.Identity(), **arguments, dtype="uint8")
    assert result.values[0, :6].tolist() == [0, 2, 254, 255, 255, 0]


@BLOCKS
@pytest.mark.parametrize("combine", ["mean", "max"])
def test_labels_are_clipped_and_not_wrapped(combine, blocks):
    array = grey(np.zeros((24, 24), "float32"))
    array[0, :5] = [-300, -1, 200, 256, 2**31]
    arguments = tiling("trim", blocks, combine=combine)

    def model(batch):
        return batch.astype("int64")

    for dtype, expected in {
        "uint8": [0, 0, 200, 255, 255],
        "int8": [-128, -1, 127, 127, 127],
        "uint64": [0, 0, 200, 256, 2**31],
        "bool": [True] * 5,
        "int64": [-300, -1, 200, 256, 2**31],
    }.items():
        result = array.spinn.predict(model, **arguments, dtype=dtype)
        assert result.values[0, :5].tolist() == expected
        assert not result[1:].any()


@BLOCKS
@pytest.mark.parametrize("combine", ["mean", "max"])
def test_labels_beyond_a_byte_are_summed_as_what_they_are(combine, blocks):
    values = np.random.default_rng(0).integers(-(2**40), 2**40, (24, 24))
    array = grey(values)

    def model(batch):
        return batch.astype("int64")

    result = array.spinn.predict(model, **tiling("trim", blocks, combine=combine))
    assert result.dtype == "int64"
    np.testing.assert_array_equal(result, array)


@BLOCKS
def test_a_mask_is_true_from_one_half(blocks):
    array = grey(np.zeros((24, 24), "float32"))
    array[0, :5] = [-1, 0.49, 0.5, 0.9, 7]
    arguments = tiling("trim", blocks, combine="max", dtype=bool)
    result = array.spinn.predict(torch.nn.Identity(), **arguments)
    assert result.values[0, :5].tolist() == [False, False, True, True, True]
    assert not result[1:].any()


@BLOCKS
def test_floats_beyond_the_range_become_infinite(blocks):
    array = grey(np.full((24, 24), 1e6, "float32"))
    result = array.spinn.predict(torch.nn.Identity(), **tiling(blocks=blocks), dtype="float16")
    assert result.dtype == "float16"
    assert bool(np.isposinf(result).all())


# -- NaN -------------------------------------------------------------------------------------


@BLOCKS
@pytest.mark.parametrize("dtype", ["uint8", "int64", "bool"])
def test_nan_is_no_integer(dtype, blocks):
    array = grey(np.zeros((24, 24), "float32"))
    array[15, 7] = array[16, 3] = np.nan
    lazy = array.chunk(y=12, x=12)
    arguments = tiling(blocks=blocks, dtype=dtype)
    place = r"2 of \d+ values of the result in block \(\d, 0\), first at y=15:16, x=7:8, are NaN"
    for one in (array, lazy):
        with pytest.raises(ModelError, match=f"{place}, which {dtype} cannot hold"):
            one.spinn.predict(torch.nn.Identity(), **arguments).compute(scheduler="sync")


@BLOCKS
def test_the_place_of_nan_is_that_of_the_input(blocks):
    """With dims before and after the core dims, channels among them, and a finer output."""
    cube = xr.DataArray(np.zeros((3, 2, 24, 24), "float32"), dims=("time", "band", "y", "x"))
    cube[2, 0, 17, 20] = np.nan
    cube = cube.transpose("y", "band", "x", "time")
    finer = torch.nn.Upsample(scale_factor=2)
    blocks = {"y": 12, "x": 12, "time": 2} if blocks != -1 else -1
    with pytest.raises(ModelError, match=r"first at time=2:3, y=17:18, x=20:21, are NaN"):
        cube.spinn.predict(finer, **tiling("trim", blocks), channel="band", dtype="int16")


@BLOCKS
def test_nan_names_its_output(blocks):
    array = grey(np.zeros((24, 24), "float32"))
    array[15, 7] = np.nan

    def model(batch):
        return {"height": batch * 0 + 1, "slope": np.nan_to_num(batch)}

    with pytest.raises(ModelError, match="output 'height' in block"):
        array.spinn.predict(model, **tiling(blocks=blocks), dtype="int16")
