"""In a class map a value of its own stands where scores are NaN."""

import numpy as np
import pytest
import xarray as xr
from helpers.strategies import chunked_cases
from hypothesis import given, settings
from hypothesis import strategies as st

import xspinn
from xspinn.errors import ModelError
from xspinn.plans.exchange import Layout

BLOCKS = pytest.mark.parametrize("blocks", [-1, 12], ids=["one block", "blocks"])
ARGUMENTS = {"patch": {"y": 8, "x": 8}, "overlap": 3, "window": "trim"}


def in_numpy(patch):
    """Let numpy finish every voxel that a device would finish otherwise."""
    laid_out = Layout.of

    def unsettled(plan, output, block):
        layout = laid_out(plan, output, block)
        return Layout(layout.box, layout.chunk, None, (layout.box,))

    patch.setattr(Layout, "of", unsettled)


def scores(count):
    """Return a model of so many scores: the last is NaN where the input is, and all below -1."""

    def model(batch):
        steps = np.arange(count, dtype=batch.dtype).reshape(1, -1, *[1] * (batch.ndim - 2))
        found = np.sin(3 * np.nan_to_num(batch) + steps * (2 * np.pi / count))
        found[:, -1:] += batch * 0
        return np.where(batch < -1, np.nan, found)

    return model


def broken(case, dtype="float32"):
    array = case.array(dtype)
    rng = np.random.default_rng(1)
    return array.where(rng.random(array.shape) > 0.1)


@pytest.mark.parametrize("device", [True, False], ids=["on the device", "in numpy"])
@pytest.mark.parametrize("combine", ["soft", "hard"])
@given(case_and_chunks=chunked_cases(max_ndim=2), count=st.sampled_from([2, 3, 40]))
@settings(max_examples=20)
def test_where_the_evidence_is_nan_there_is_no_class(device, combine, case_and_chunks, count):
    case, chunks = case_and_chunks
    array = broken(case)
    arguments = {**case.arguments, "blocks": chunks}
    with xspinn.set_options(check_nan=False):
        mean = array.spinn.predict(scores(count), **arguments)
    unknown = np.isnan(mean).any("channel").values
    with pytest.MonkeyPatch.context() as patch, xspinn.set_options(check_nan=False):
        plan = array.spinn.plan(scores(count), **arguments, combine=combine)
        if not device and plan.spills(plan.outputs[0]):
            in_numpy(patch)
        found = array.spinn.predict(scores(count), **arguments, combine=combine)
    assert found.dtype == "uint8"
    np.testing.assert_array_equal(found.values == 255, unknown)
    assert found.values[~unknown].max(initial=0) < count
    if combine == "soft":
        best = mean.fillna(0).argmax("channel").values
        np.testing.assert_array_equal(found.values[~unknown], best[~unknown])


@BLOCKS
@pytest.mark.parametrize("combine", ["soft", "hard"])
@pytest.mark.parametrize(
    ("count", "dtype", "fill"),
    [
        (255, None, 255),
        (256, "uint16", 65535),
        (300, None, 65535),
        (3, "int16", 32767),
        (3, "int64", 2**63 - 1),
        (3, "float32", np.nan),
    ],
)
def test_the_greatest_value_stands_for_no_class(count, dtype, fill, combine, blocks):
    array = xr.DataArray(np.zeros((24, 24), "float32"), dims=("y", "x"))
    array[0, 0] = array[7, 22] = np.nan
    arguments = {**ARGUMENTS, "blocks": blocks, "combine": combine, "dtype": dtype}
    result = array.spinn.predict(scores(count), **arguments)
    assert result.dtype == (dtype or np.min_scalar_type(count - 1))
    np.testing.assert_array_equal(result.values[[0, 7], [0, 22]], fill)
    known = result.where(array.notnull())
    assert len(np.unique(known.values[array.notnull().values])) == 1
    np.testing.assert_array_equal(result.encoding["fill_value"], fill)
    assert result.encoding["fill_value"].dtype == result.dtype
    assert result.attrs["flag_values"].tolist() == list(range(count))


@BLOCKS
@pytest.mark.parametrize("combine", ["soft", "hard"])
def test_where_no_value_is_left_nan_is_an_error(combine, blocks):
    array = xr.DataArray(np.zeros((24, 24), "float32"), dims=("y", "x"))
    arguments = {**ARGUMENTS, "blocks": blocks, "combine": combine}
    result = array.spinn.predict(scores(256), **arguments)
    assert result.dtype == "uint8"
    assert "fill_value" not in result.encoding
    array[7, 22] = np.nan
    said = r"x=22:23, have no class.* 256 classes leave no value of uint8.* give dtype='uint16'"
    with pytest.raises(ModelError, match=said):
        array.spinn.predict(scores(256), **arguments)


def test_all_classes_of_a_byte_are_classes():
    values = np.arange(256, dtype="float32").reshape(16, 16)

    def model(batch):
        steps = np.arange(256, dtype="float32").reshape(1, -1, 1, 1)
        return -abs(batch - steps)

    for blocks in (-1, 10):
        for combine in ("soft", "hard"):
            arguments = {**ARGUMENTS, "blocks": blocks, "combine": combine}
            result = xr.DataArray(values, dims=("y", "x")).spinn.predict(model, **arguments)
            assert result.dtype == "uint8"
            np.testing.assert_array_equal(result, values)
