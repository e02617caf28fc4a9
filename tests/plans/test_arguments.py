"""What a user writes is checked before anything runs, and what it costs is said."""

import warnings

import dask.array as da
import numpy as np
import pytest
import xarray as xr
from torch import nn

import xspinn
from xspinn.errors import SpinnWarning
from xspinn.plans.arguments import check_cost, make_axes


def axes(size, patch, overlap, n=2):
    dims = ("z", "y", "x")[-n:]
    patches, sizes = dict.fromkeys(dims, patch), dict.fromkeys(dims, size)
    return make_axes(patches, sizes, overlap, "ramp", "none", [1] * n, np.dtype("f4"))


def test_an_overlap_that_runs_every_voxel_very_often_is_warned_of():
    with pytest.warns(SpinnWarning) as caught:
        check_cost(axes(20_000, 256, 0.9999), 1)
    (warning,) = caught
    text = str(warning.message)
    assert "patch={'y': 256, 'x': 256} and overlap={'y': 255, 'x': 255} make 389,865,025" in text
    assert "every voxel about 65,536 times" in text
    assert "{'y': 64, 'x': 64} makes 10,816 patches" in text


def test_looped_dims_count_for_the_cost():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_cost(axes(300, 16, 15), 1)
    with pytest.warns(SpinnWarning, match="make 81,225,000 patches"):
        check_cost(axes(300, 16, 15), 1000)


@pytest.mark.parametrize(
    ("size", "patch", "overlap", "n"),
    [
        (1_000_000, 256, 64, 2),  # large, with an ordinary overlap
        (100_000, 64, 48, 3),  # larger, and three quarters of each patch shared
        (300, 32, 31, 2),  # a window around every voxel of a small image
    ],
)
def test_ordinary_jobs_are_not_warned_of(size, patch, overlap, n):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_cost(axes(size, patch, overlap, n), 1)


def test_the_warning_points_at_the_line_that_plans_and_comes_before_the_blocks():
    image = xr.DataArray(da.zeros((7000, 7000), chunks=2000, dtype="float32"), dims=("y", "x"))
    arguments = {"patch": {"y": 64, "x": 64}, "overlap": 60, "tune": False}
    with pytest.warns(SpinnWarning, match="about 256 times") as caught:
        xspinn.plan(image, nn.Identity(), **arguments)
    assert caught[0].filename == __file__
