"""Functions that cannot be pickled run wherever nothing needs a copy of them."""

import threading

import dask
import numpy as np
import pytest
import torch
import xarray as xr
from distributed import Client
from helpers.clusters import cluster

import xspinn
from xspinn.errors import ModelError

TILES = {"patch": {"y": 16, "x": 16}, "overlap": 4, "blocks": 24}
REFUSED = (
    r"function (locked|tensors) cannot be pickled \(TypeError: .*lock.*cannot be sent to other"
)


def closures():
    held = threading.Lock()

    def locked(batch):
        with held:
            return batch * 2

    def tensors(batch: torch.Tensor):
        with held:
            return batch * 2

    return locked, tensors


@pytest.fixture(params=[0, 1], ids=["numpy", "torch"])
def function(request):
    return closures()[request.param]


@pytest.fixture
def image():
    values = np.random.default_rng(0).random((50, 40), dtype="float32")
    return xr.DataArray(values, dims=("y", "x"))


def test_a_function_that_holds_a_lock_runs_in_this_process(image, function):
    expected = 2 * image
    xr.testing.assert_allclose(image.spinn.predict(function, **TILES), expected)
    for source in (image.chunk(24), image.chunk(20) + 0):
        lazy = source.spinn.predict(function, **TILES)
        for scheduler in ("threads", "synchronous"):
            xr.testing.assert_allclose(lazy.compute(scheduler=scheduler), expected)


def test_in_other_processes_it_is_refused_with_the_reason(image, function):
    lazy = image.chunk(24).spinn.predict(function, **TILES)
    with dask.config.set(num_workers=1), pytest.raises(ModelError, match=REFUSED):
        lazy.compute(scheduler="processes")
    with cluster(workers=1, threads=1) as workers, Client(workers):
        with pytest.raises(ModelError, match=r"cannot be built in worker tcp.*" + REFUSED):
            lazy.compute()
        # An array in memory is computed here.
        xr.testing.assert_allclose(image.spinn.predict(function, **TILES), 2 * image)


def test_what_it_holds_cannot_be_compared_so_each_handle_has_a_key_of_its_own(function):
    one, two = xspinn.as_model(function), xspinn.as_model(function)
    assert one.key != two.key
    assert one.key == xspinn.as_model(one).key
    assert one.n_bytes == 0
