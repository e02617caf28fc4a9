"""What happens to models when workers and clients come, go and die, and when models are large."""

import asyncio
import os
import signal

import pytest
import xarray as xr
from benchmarks.delivery import apart
from distributed import Client, LocalCluster, fire_and_forget
from helpers import TESTS
from helpers.clusters import BULK, built, check, cluster, lazily, sent, waits
from helpers.crowd import wait_for
from helpers.networks import let_go

pytestmark = pytest.mark.slow


def test_a_client_that_comes_after_predict(log):
    lazy = lazily(log, bulk=BULK)
    with cluster() as made, Client(made) as client:
        check(lazy.compute())
        assert 4 * BULK < sent(client) < 4 * BULK + 1_000_000


def test_a_worker_that_dies_in_mid_run(client, log):
    lazy = lazily(log, bulk=BULK, together=2, calls=2)
    future = client.compute(lazy)
    wait_for(lambda: log.exists() and len(built(log)) == 2 and waits(log))
    victim = int(built(log)[0])  # the first has the shards that came from the client
    os.kill(victim, signal.SIGKILL)
    let_go(log)
    check(future.result(timeout=120))
    assert len(built(log)) == len(set(built(log))) <= 3, "at most once in the new process too"


def test_all_workers_restart(client, log):
    lazy = lazily(log, bulk=BULK, together=2)
    check(lazy.compute())
    first = built(log)
    log.unlink()
    client.restart()
    check(lazy.compute())
    assert len(built(log)) == len(set(built(log))) == 2
    assert not set(first) & set(built(log))
    assert 4 * BULK < sent(client) < 4 * BULK + 1_000_000


def test_a_worker_that_joins_in_mid_run(log):
    with cluster(workers=1) as made, Client(made) as client:
        lazy = lazily(log, bulk=BULK, together=2)
        future = client.compute(lazy)
        wait_for(log.exists)
        made.scale(2)
        check(future.result(timeout=120))
        assert len(built(log)) == len(set(built(log))) == 2
        assert 4 * BULK < sent(client) < 4 * BULK + 1_000_000


def test_nothing_stays_on_workers_when_the_client_leaves(log):
    with cluster() as made, Client(made) as other:
        client = Client(made)
        client.compute(lazily(log, bulk=BULK)).result()
        assert all(held > 4 * BULK for held in other.run(held_bytes).values())
        client.close()
        wait_for(lambda: not any(other.run(held_bytes).values()))


def held_bytes(dask_worker):
    """Bytes of models that a worker holds, built and as they came."""
    from xspinn.carriers import content
    from xspinn.models import built

    kept = sum(kept.total_weight for kept in built._built.values())
    return kept + content._arrived.total_weight


def test_models_that_another_client_uses_stay(log):
    with cluster() as made, Client(made) as other:
        other.compute(lazily(log, bulk=BULK)).result()
        with Client(made) as client:
            client.compute(lazily(log, bulk=BULK)).result()
        wait_for(lambda: client.id not in other.run_on_scheduler(clients))
        other.run(held_bytes)  # messages arrive in order: what workers were told, they have done
        check(other.compute(lazily(log, bulk=BULK)).result())
        assert not log.exists()


def test_what_was_fired_and_forgotten_runs_on(log, tmp_path):
    """Its model stays while it runs, though the client that brought it has left."""
    with cluster() as made, Client(made) as other:
        client = Client(made)
        lazy = lazily(log, bulk=BULK, together=2, calls=2)
        stored = lazy.to_dataset(name="a").to_zarr(tmp_path / "out.zarr", compute=False)
        (future,) = client.compute([stored])
        wait_for(lambda: log.exists() and len(built(log)) == 2 and waits(log))
        fire_and_forget(future)
        del future
        client.close()
        wait_for(lambda: client.id not in other.run_on_scheduler(clients))
        let_go(log)
        wait_for(lambda: not other.run_on_scheduler(unfinished))
        check(xr.open_zarr(tmp_path / "out.zarr")["a"].compute(scheduler="threads"))
        assert len(built(log)) == 2


def clients(dask_scheduler):
    return set(dask_scheduler.clients)


def unfinished(dask_scheduler):
    """Count tasks, but not the shards that stay for a while for workers that may still come."""
    return sum(not str(key).startswith("spinn-weights") for key in dask_scheduler.tasks)


def test_an_asynchronous_client(log):
    async def run():
        async with (
            LocalCluster(
                n_workers=1, asynchronous=True, dashboard_address=":0", env={"PYTHONPATH": TESTS}
            ) as made,
            Client(made, asynchronous=True) as client,
        ):
            return await client.compute(lazily(log, bulk=BULK))

    check(asyncio.run(run()))


def test_500_megabytes_travel_once_in_small_pieces_and_not_with_the_graph(log):
    """A scheduler and two workers, each a process of its own.

    Pieces are small so that the scheduler has time for others between them; for how long it has
    none, `benchmarks.delivery` measures.
    """
    with apart(TESTS) as client:
        # Like any graph of xarray's, the first makes scheduler and workers import it.
        lazily(log).compute()
        small = graph_bytes(client, lambda: lazily(log).compute())
        lazy = lazily(log, bulk=125_000_000, together=2)
        client.run_on_scheduler(watch)
        before, results = sent(client), []
        large = graph_bytes(client, lambda: results.append(lazy.compute()))
        sizes = client.run_on_scheduler(scattered)
        assert large - small < 100_000
        assert len(built(log)) == len(set(built(log))) == 2
        check(results[0])
        assert 500e6 < sent(client) - before < 505e6
        # From the client through the scheduler to one worker, once.
        assert 500e6 <= sum(sizes) < 505e6
        assert max(sizes) <= 2**24


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
    """Note the bytes of all that clients scatter from now on."""
    scatter, sizes = dask_scheduler.handlers["scatter"], []

    async def noting(*args, data, **options):
        sizes.extend(sum(len(frame) for frame in value.frames) for value in data.values())
        return await scatter(*args, data=data, **options)

    dask_scheduler.handlers["scatter"], dask_scheduler.scattered = noting, sizes


def scattered(dask_scheduler):
    return dask_scheduler.scattered
