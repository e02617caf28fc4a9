"""Models reach every process once, whatever runs the blocks."""

import asyncio
import os
import pickle
import signal
import subprocess
import sys
import time
import weakref
from pathlib import Path

import numpy as np
import psutil
import pytest
import xarray as xr
from distributed import Client, LocalCluster, fire_and_forget
from distributed.protocol import pickle as distributed_pickle
from networks import Counting

from xspinn import as_model
from xspinn.carriers import Shared
from xspinn.errors import ModelError

TESTS = str(Path(__file__).parent)
PATCH = {"y": 16, "x": 16}
BULK = 5_000_000
"""Weights, of 4 bytes each: more than one shard."""


@pytest.fixture
def image():
    values = np.random.default_rng(0).random((128, 128), dtype="float32")
    return xr.DataArray(values, dims=("y", "x")).chunk(16)


@pytest.fixture
def log(tmp_path):
    return tmp_path / "builds"


def cluster(workers=2, threads=2, *, processes=True):
    more = {"env": {"PYTHONPATH": TESTS}} if processes else {}
    return LocalCluster(
        n_workers=workers,
        threads_per_worker=threads,
        processes=processes,
        dashboard_address=":0",
        **more,
    )


@pytest.fixture
def client():
    with cluster() as made, Client(made) as client:
        yield client


def lazily(image, log, **options):
    """Predict with a model that writes down which process built it, and forget our own builds."""
    lazy = image.spinn.predict(Counting(str(log), **options), patch=PATCH, overlap=0, blocks=16)
    assert lazy.data.npartitions == 64
    log.unlink(missing_ok=True)
    return lazy


def built(log):
    """Return which processes built the model, one entry for each build."""
    return log.read_text().split()


def sent(client):
    """Bytes that workers sent each other, since they started."""
    return sum(client.run(outgoing).values())


def outgoing(dask_worker):
    return dask_worker.transfer_outgoing_bytes_total


def check(result, image):
    np.testing.assert_array_equal(result, 2 * image)


# -- distributed -----------------------------------------------------------------------------


def test_one_build_a_process_and_one_journey_a_worker(client, image, log):
    lazy = lazily(image, log, bulk=BULK)
    graph = distributed_pickle.dumps(lazy.__dask_graph__())
    slim = distributed_pickle.dumps(lazily(image, log, bulk=0).__dask_graph__())
    assert len(graph) - len(slim) < 1000
    check(lazy.compute(), image)
    assert len(built(log)) == len(set(built(log))) == 2
    # The client gives the shards to one worker, which gives them to the other; the result of the
    # blocks comes on top.
    assert 4 * BULK < sent(client) < 4 * BULK + 1_000_000
    before = sent(client)
    check(lazy.compute(), image)
    check(lazily(image, log, bulk=BULK).compute(), image)
    assert not log.exists(), "a process keeps what it built for the next run"
    assert sent(client) - before < 1_000_000


def test_a_client_that_comes_after_predict(image, log):
    lazy = lazily(image, log, bulk=BULK)
    with cluster() as made, Client(made) as client:
        check(lazy.compute(), image)
        assert 4 * BULK < sent(client) < 4 * BULK + 1_000_000


def test_a_worker_that_dies_in_mid_run(client, image, log):
    lazy = lazily(image, log, bulk=BULK, pause=0.1)
    future = client.compute(lazy)
    wait_for(lambda: log.exists() and len(built(log)) == 2)
    time.sleep(0.5)
    assert not future.done()
    victim = int(built(log)[0])  # the first has the shards that came from the client
    os.kill(victim, signal.SIGKILL)
    check(future.result(timeout=120), image)
    assert len(built(log)) == len(set(built(log))) <= 3, "at most once in the new process too"


def test_all_workers_restart(client, image, log):
    lazy = lazily(image, log, bulk=BULK)
    check(lazy.compute(), image)
    client.restart()
    check(lazy.compute(), image)
    assert len(built(log)) == len(set(built(log))) == 4
    assert 4 * BULK < sent(client) < 4 * BULK + 1_000_000


def test_a_worker_that_joins_in_mid_run(image, log):
    with cluster(workers=1) as made, Client(made) as client:
        lazy = lazily(image, log, bulk=BULK, pause=0.2)
        future = client.compute(lazy)
        wait_for(lambda: log.exists())
        made.scale(2)
        client.wait_for_workers(2, timeout=60)
        check(future.result(timeout=120), image)
        assert len(built(log)) == len(set(built(log))) == 2
        assert 4 * BULK < sent(client) < 4 * BULK + 1_000_000


def test_nothing_stays_on_workers_when_the_client_leaves(image, log):
    with cluster() as made, Client(made) as other:
        client = Client(made)
        client.compute(lazily(image, log, bulk=BULK)).result()
        assert all(held > 4 * BULK for held in other.run(held_bytes).values())
        client.close()
        wait_for(lambda: not any(other.run(held_bytes).values()))


def held_bytes(dask_worker):
    """Bytes of models that a worker holds, built and as they came."""
    from xspinn import cache
    from xspinn.models import content

    kept = sum(kept.total_weight for kept in cache._built.values())
    return kept + content._arrived.total_weight


def test_models_that_another_client_uses_stay(image, log):
    with cluster() as made, Client(made) as other:
        other.compute(lazily(image, log, bulk=BULK)).result()
        with Client(made) as client:
            client.compute(lazily(image, log, bulk=BULK)).result()
        time.sleep(1)
        check(other.compute(lazily(image, log, bulk=BULK)).result(), image)
        assert not log.exists()


def test_what_was_fired_and_forgotten_runs_on(image, log, tmp_path):
    """Its model stays while it runs, though the client that brought it has left."""
    with cluster() as made, Client(made) as other:
        client = Client(made)
        lazy = lazily(image, log, bulk=BULK, pause=0.05)
        stored = lazy.to_dataset(name="a").to_zarr(tmp_path / "out.zarr", compute=False)
        (future,) = client.compute([stored])
        wait_for(lambda: log.exists() and len(built(log)) == 2)
        fire_and_forget(future)
        del future
        client.close()
        wait_for(lambda: not other.run_on_scheduler(unfinished))
        check(xr.open_zarr(tmp_path / "out.zarr")["a"].compute(scheduler="threads"), image)
        assert len(built(log)) == 2


def unfinished(dask_scheduler):
    return len(dask_scheduler.tasks)


def test_memory_of_the_client_is_free_when_it_is_closed(image, log):
    from xspinn.carriers import cluster as carrier

    with cluster() as made:
        with Client(made):
            handle = as_model(Counting(str(log), bulk=BULK))
            pickle.dumps(Shared(handle))
            content = weakref.ref(handle.content)
            del handle
            assert content() is not None
        carrier.watch()
        assert content() is None


def test_workers_in_threads_share_the_clients_memory(image, log):
    with cluster(processes=False) as made, Client(made) as client:
        check(lazily(image, log, bulk=BULK).compute(), image)
        assert built(log) == [str(os.getpid())]
        assert sent(client) < 1_000_000


def test_an_asynchronous_client(image, log):
    async def run():
        async with (
            LocalCluster(
                n_workers=1, asynchronous=True, dashboard_address=":0", env={"PYTHONPATH": TESTS}
            ) as made,
            Client(made, asynchronous=True) as client,
        ):
            return await client.compute(lazily(image, log, bulk=BULK))

    check(asyncio.run(run()), image)


def test_a_path_that_workers_can_open_does_not_travel(client, image, tmp_path):
    import torch

    torch.save({"bulk": torch.zeros(BULK), "scale": torch.tensor(2.0)}, tmp_path / "w.pth")
    model = as_model(tmp_path / "w.pth", factory="networks:bulky")
    lazy = image.spinn.predict(model, patch=PATCH, overlap=0, blocks=16)
    check(lazy.compute(), image)
    assert sent(client) < 1_000_000


def test_a_file_that_workers_cannot_open_travels(client, image, tmp_path):
    import torch

    path = tmp_path / "w.pth"
    torch.save({"bulk": torch.zeros(BULK), "scale": torch.tensor(2.0)}, path)
    lazy = image.spinn.predict(
        as_model(path, factory="networks:bulky"), patch=PATCH, overlap=0, blocks=16
    )
    client.run(hide, str(path))
    check(lazy.compute(), image)
    assert 4 * BULK < sent(client) < 4 * BULK + 1_000_000


def hide(path):
    """Let a worker see no file at a path, as on another machine."""
    import numpy as np

    read = np.fromfile

    def fromfile(name, *args):
        if str(name) == path:
            raise FileNotFoundError(path)
        return read(name, *args)

    np.fromfile = fromfile


@pytest.mark.slow
def test_500_megabytes_neither_swell_the_graph_nor_stop_the_scheduler(tmp_path, log):
    """A scheduler and two workers, each a process of its own."""
    image = xr.DataArray(np.ones((128, 128), "float32"), dims=("y", "x")).chunk(16)
    file = tmp_path / "scheduler.json"
    options = ["--scheduler-file", str(file), "--no-dashboard"]
    commands = [["dask_scheduler", "--port", "0"], ["dask_worker"], ["dask_worker"]]
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", f"distributed.cli.{name}", *rest, *options],
            env={**os.environ, "PYTHONPATH": TESTS},
            stderr=subprocess.DEVNULL,
        )
        for name, *rest in commands
    ]
    try:
        with Client(scheduler_file=str(file)) as client:
            client.wait_for_workers(2, timeout=60)
            # Like any graph of xarray's, the first makes scheduler and workers import it.
            lazily(image, log).compute()
            small = graph_bytes(client, lambda: lazily(image, log).compute())
            lazy = lazily(image, log, bulk=125_000_000)
            client.run_on_scheduler(watch)
            wire, before = psutil.net_io_counters().bytes_sent, sent(client)
            results = []
            large = graph_bytes(client, lambda: results.append(lazy.compute()))
            longest = client.run_on_scheduler(longest_pause)
            wire = psutil.net_io_counters().bytes_sent - wire
            print(  # noqa: T201 - figures, for pytest -s
                f"\n{large - small} bytes more in the graph; scheduler away {longest:.3f} s; "
                f"{sent(client) - before:,} bytes between workers, {wire:,} on all wires"
            )
            assert large - small < 100_000
            assert longest < 0.1
            assert len(built(log)) == len(set(built(log))) == 2
            check(results[0], image)
            assert 500e6 < sent(client) - before < 505e6
            # From the client to the scheduler, to one worker, to the other.
            assert wire < 3 * 500e6 + 50e6
    finally:
        for process in processes:
            process.terminate()
            process.wait()


def graph_bytes(client, run):
    """Return the bytes of the graphs that a client sends while something runs."""
    send, sizes = client._send_to_scheduler, []

    def counting(message):
        if message["op"] == "update-graph":
            held = message["expr_ser"]
            sizes.append(sum(memoryview(frame).nbytes for frame in held.frames))
        send(message)

    client._send_to_scheduler = counting
    try:
        run()
    finally:
        client._send_to_scheduler = send
    return sum(sizes)


def watch(dask_scheduler):
    """Notice for how long the scheduler's loop does not come round."""
    from tornado.ioloop import PeriodicCallback

    dask_scheduler.pauses, last = [], [time.perf_counter()]

    def tick():
        now = time.perf_counter()
        dask_scheduler.pauses.append(now - last[0])
        last[0] = now

    PeriodicCallback(tick, 5).start()


def longest_pause(dask_scheduler):
    return max(dask_scheduler.pauses)


# -- other schedulers --------------------------------------------------------------------------


def test_other_processes_read_a_file_that_goes_with_this_one(image, log, tmp_path):
    code = f"""
import sys
import numpy as np, xarray as xr
sys.path.insert(0, {TESTS!r})
from networks import Counting
from xspinn.carriers import spool
if __name__ == "__main__":
    image = xr.DataArray(np.ones((128, 128), "float32"), dims=("y", "x")).chunk(16)
    model = Counting({str(log)!r}, bulk={BULK})
    lazy = image.spinn.predict(model, patch={{"y": 16, "x": 16}}, overlap=0, blocks=16)
    open({str(log)!r}, "w").close()
    result = lazy.compute(scheduler="processes", num_workers=2)
    assert (result == 2).all()
    import os
    folder = spool._folder(os.getpid())
    assert sum(f.stat().st_size for f in os.scandir(folder)) > 4 * {BULK}
    print(folder)
"""
    script = tmp_path / "script.py"
    script.write_text(code)
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True)
    assert not Path(done.stdout.strip()).exists()
    assert len(built(log)) == len(set(built(log))) == 2


def test_pickled_for_a_task_a_model_is_small_and_by_itself_whole(log):
    handle = as_model(Counting(str(log), bulk=BULK))
    assert len(pickle.dumps(Shared(handle))) < 2000
    assert len(pickle.dumps(handle)) > 4 * BULK


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of Ray about itself
def test_ray(image, log, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # or it writes a token to the home folder
    import ray
    from ray.util.dask import ray_dask_get

    lazy = lazily(image, log, bulk=BULK)
    ray.init(num_cpus=2, include_dashboard=False, runtime_env={"env_vars": {"PYTHONPATH": TESTS}})
    try:
        check(lazy.compute(scheduler=ray_dask_get), image)
        assert len(built(log)) == len(set(built(log))) <= 2
        log.unlink()
        check(lazy.compute(scheduler=ray_dask_get), image)
    finally:
        ray.shutdown()


def wait_for(condition, timeout=60):
    """Wait until something holds."""
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_threads_build_once(image, log):
    lazy = lazily(image, log)
    check(lazy.compute(scheduler="threads", num_workers=8), image)
    assert built(log) == [str(os.getpid())]


def test_a_client_that_cannot_hand_out_the_bytes_says_so_at_once(client, image, log, monkeypatch):
    monkeypatch.setattr("xspinn.carriers.cluster._Offer.scatter", broken)
    with pytest.raises(ModelError, match=r"cannot be built in worker tcp.*scattered: no memory"):
        lazily(image, log, bulk=BULK).compute()


def test_models_of_forgotten_graphs_do_not_pile_up(client, image, log, monkeypatch):
    """Only the latest are held for graphs that run while nobody holds them."""
    monkeypatch.setattr("xspinn.carriers.cluster.HELD", 6 * BULK)
    handles = [as_model(Counting(str(log), bulk=BULK + k)) for k in range(3)]
    watched = [weakref.ref(handle.content) for handle in handles]
    for handle in handles:
        pickle.dumps(Shared(handle))
    del handle, handles
    assert [content() is None for content in watched] == [True, True, False]


async def broken(self, *args):
    raise ModelError("no memory left")
