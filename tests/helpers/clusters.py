"""Clusters of processes, and jobs on them whose model writes down which process built it."""

import numpy as np
import xarray as xr
from distributed import LocalCluster

import xspinn  # noqa: F401 - the accessor
from helpers import TESTS
from helpers.networks import Counting

PATCH = {"y": 16, "x": 16}
BULK = 5_000_000
"""Weights, of 4 bytes each: more than one shard."""

IMAGE = xr.DataArray(
    np.random.default_rng(0).random((128, 128), dtype="float32"), dims=("y", "x")
).chunk(16)


def cluster(workers=2, threads=2, *, processes=True):
    more = {"env": {"PYTHONPATH": TESTS}} if processes else {}
    return LocalCluster(
        n_workers=workers,
        threads_per_worker=threads,
        processes=processes,
        dashboard_address=":0",
        **more,
    )


def lazily(log, **options):
    """Predict with a model that writes down which process built it, and forget our own builds."""
    model = Counting(str(log), **options)
    # To measure ways of calling it, a worker would build it by itself.
    lazy = IMAGE.spinn.predict(model, patch=PATCH, overlap=0, blocks=16, tune=False)
    assert lazy.data.npartitions == 64
    log.unlink(missing_ok=True)
    return lazy


def built(log):
    """Return which processes built the model, one entry for each build."""
    return log.read_text().split()


def waits(log):
    """Return whether a call of the model waits at the gate."""
    return log.with_name(f"{log.name}-waits").exists()


def sent(client):
    """Bytes that workers sent each other, since they started."""
    return sum(client.run(outgoing).values())


def outgoing(dask_worker):
    return dask_worker.transfer_outgoing_bytes_total


def check(result):
    np.testing.assert_array_equal(result, 2 * IMAGE)
