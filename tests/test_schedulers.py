"""The same answer from every scheduler, and models that travel and are built once."""

import os
import warnings

import dask
import dask.threaded
import numpy as np
import pytest
import torch
import xarray as xr
from distributed import Client, LocalCluster
from helpers.crowd import Crowd
from helpers.networks import Counting, Stages, Watched, fail_on_large, nan_on_large

import xspinn
from xspinn.machine.threads import cores

pytestmark = pytest.mark.usefixtures("small_batches")

PATCH = {"y": 16, "x": 16}


@pytest.fixture(scope="module")
def image():
    values = np.random.default_rng(0).random((100, 90), dtype="float32")
    return xr.DataArray(values, dims=("y", "x"), coords={"y": np.arange(100) * 0.5}, name="i")


@pytest.fixture(scope="module")
def stored(image, tmp_path_factory):
    path = tmp_path_factory.mktemp("schedulers") / "i.zarr"
    image.chunk(24).to_zarr(path)
    return xr.open_zarr(path)["i"]


@pytest.fixture(scope="module")
def client():
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=2, processes=True, dashboard_address=":0"
        ) as cluster,
        Client(cluster) as client,
    ):
        client.run(add_tests_to_path, os.path.dirname(__file__))  # noqa: PTH120
        yield client


def add_tests_to_path(path):
    import sys

    sys.path.insert(0, path)


@pytest.mark.parametrize("scheduler", ["synchronous", "threads", "processes"])
@pytest.mark.parametrize("through", ["store", "chunks"])
def test_local_schedulers_agree(image, stored, scheduler, through):
    torch.manual_seed(0)
    module = Stages()
    array = stored if through == "store" else image.chunk(30)
    lazy = array.spinn.predict(module, patch=PATCH, overlap=4, blocks=24)
    expected = image.spinn.predict(module, patch=PATCH, overlap=4, blocks=24)
    with dask.config.set(num_workers=2):
        result = lazy.compute(scheduler=scheduler)
    np.testing.assert_allclose(result, expected, atol=1e-6)


@pytest.mark.parametrize("through", ["store", "chunks"])
def test_worker_processes_agree(client, image, stored, through, tmp_path):
    torch.manual_seed(0)
    module = Stages()
    array = stored if through == "store" else image.chunk(30)
    lazy = array.spinn.predict(module, patch=PATCH, overlap=4, blocks=24)
    with dask.config.set(scheduler="threads"):
        expected = image.spinn.predict(module, patch=PATCH, overlap=4, blocks=24)
    np.testing.assert_allclose(lazy.compute(), expected, atol=1e-6)
    lazy.to_zarr(tmp_path / "out.zarr")
    np.testing.assert_allclose(
        xr.open_zarr(tmp_path / "out.zarr")["prediction"].compute(), expected, atol=1e-6
    )


def test_one_build_a_process_and_weights_travel_once(client, stored, tmp_path):
    log = tmp_path / "builds"
    model = Counting(str(log), bulk=2_000_000, together=2)
    lazy = stored.spinn.predict(model, patch=PATCH, overlap=4, blocks=12)
    assert lazy.data.npartitions > 64
    graph = lazy.data.__dask_graph__()
    held = [key for key in dict(graph) if str(key).startswith("spinn-model")]
    assert len(held) == 1
    log.unlink(missing_ok=True)
    before = sum(client.run(sent_bytes).values())
    lazy.compute()
    built = log.read_text().split()
    assert len(built) == len(set(built)) == 2, "once in each of the two processes"
    travelled = sum(client.run(sent_bytes).values()) - before
    # The scheduler gives the model to one worker, which passes it on; strips come on top.
    assert 8_000_000 < travelled < 2 * 8_000_000


def sent_bytes(dask_worker):
    return dask_worker.transfer_outgoing_bytes_total


def test_errors_arrive_with_their_place(client, stored):
    lazy = stored.where(stored < 2, 9).fillna(9)
    spoilt = xr.where(lazy.y == 20, 9.0, lazy).astype("float32")
    with pytest.raises(RuntimeError, match="too large") as caught:
        spoilt.spinn.predict(fail_on_large, patch=PATCH, overlap=4).compute()
    assert any("xspinn: in block" in note for note in caught.value.__notes__)
    assert any(entry.name == "fail_on_large" for entry in caught.traceback)


def test_warnings_arrive_at_the_client(client, stored):
    spoilt = xr.where(stored.y == 20, 9.0, stored).astype("float32")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        spoilt.spinn.predict(nan_on_large, patch=PATCH, overlap=4).compute()
        client.run(lambda: None)  # what workers log arrives in order
    messages = [str(w.message) for w in caught if "NaN for finite input" in str(w.message)]
    assert messages
    assert "y=40:41 (20.0)" in " ".join(messages)


@pytest.mark.parametrize("calls", [1, 3])
def test_dask_threads_times_torch_threads_do_not_oversubscribe(stored, calls):
    """However many threads dask has, as many call the model at once as the option says."""
    Watched.crowd = Crowd(calls)
    with xspinn.set_options(model_calls=calls), dask.config.set(num_workers=8):
        stored.spinn.predict(Watched(), patch=PATCH, overlap=4, blocks=12).compute(
            scheduler="threads"
        )
    assert Watched.crowd.most == calls


def test_one_call_where_torch_uses_all_cores(monkeypatch):
    monkeypatch.setattr("xspinn.machine.threads.cores", lambda: 8)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    assert calls_at_once() == 1
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert calls_at_once() == 4


def calls_at_once():
    from xspinn.machine.threads import _calls

    return _calls(torch.device("cpu"))


def test_a_worker_whose_nanny_allows_torch_one_thread_uses_its_own(client):
    """Two workers of two threads: as many calls as threads, or as there are cores."""
    assert set(client.run(torch.get_num_threads).values()) == {1}
    expected = min(2, client.submit(cores, pure=False).result())
    assert client.submit(calls_at_once, pure=False).result() == expected
