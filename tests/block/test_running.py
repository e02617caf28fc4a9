"""A model keeps in the run to what it answered when it was asked."""

import numpy as np
import pytest
import torch
import xarray as xr

from xspinn.errors import ModelError

ARGUMENTS = {"patch": {"y": 8, "x": 8}, "overlap": 2, "window": "trim"}


def changing(asked, later):
    """Return a model that answers zeros, by which it is asked, in another dtype than the rest."""

    def model(batch):
        return batch.astype(later if batch.any() else asked)

    return model


def image(dtype="float64"):
    return xr.DataArray(np.full((16, 16), 0.75, dtype), dims=("y", "x"))


@pytest.mark.parametrize("combine", ["mean", "max"])
@pytest.mark.parametrize(
    ("asked", "later"),
    [
        ("int64", "float64"),
        ("uint8", "float32"),
        ("bool", "float32"),
        ("bool", "int64"),
        ("uint8", "int64"),
        ("int32", "int64"),
        ("int64", "bool"),
        ("float32", "int64"),
        ("float32", "bool"),
        ("float64", "complex128"),
        ("int64", "complex64"),
    ],
)
def test_another_kind_of_dtype_than_it_answered_is_an_error(asked, later, combine):
    said = f"the model returned {later}, but {asked} when it was asked before the run"
    for array in (image(), image().chunk(y=8)):
        with pytest.raises(ModelError, match=said) as caught:
            array.spinn.predict(changing(asked, later), **ARGUMENTS, combine=combine).compute(
                scheduler="sync"
            )
        assert "xspinn: in block (" in "".join(caught.value.__notes__)


def test_a_complex_model_must_not_turn_real():
    with pytest.raises(ModelError, match="returned float32, but complex64 when it was asked"):
        image().spinn.predict(changing("complex64", "float32"), **ARGUMENTS)


def test_the_error_names_the_output():
    turned = changing("int64", "float32")
    with pytest.raises(ModelError, match="returned float32 as output 'mask', but int64 when"):
        image().spinn.predict(lambda x: {"height": x, "mask": turned(x)}, **ARGUMENTS)


@pytest.mark.parametrize(
    ("asked", "later"),
    [
        ("float32", "float64"),
        ("float64", "float32"),
        ("float16", "float32"),
        ("complex64", "complex128"),
        ("int64", "int32"),
        ("int64", "uint8"),
    ],
)
def test_another_width_that_loses_nothing_is_none(asked, later):
    result = image().spinn.predict(changing(asked, later), **ARGUMENTS)
    assert result.dtype == asked
    np.testing.assert_array_equal(result, image().astype(later))


def test_it_counts_what_the_activation_makes_of_it():
    """It gets integers as floats, so their dtype may change."""
    result = image().spinn.predict(changing("int64", "float32"), **ARGUMENTS, activation="sigmoid")
    np.testing.assert_allclose(result, torch.sigmoid(torch.tensor(0.75)), rtol=1e-6)
