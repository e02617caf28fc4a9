"""What is left of a computation that failed or was interrupted stops between batches."""

import pickle
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import dask
import numpy as np
import pytest
import torch
import xarray as xr
from distributed import Client
from helpers.clusters import cluster
from helpers.crowd import wait_for
from helpers.elsewhere import python

from xspinn.plans.job import Job

TILES = {"patch": {"y": 16, "x": 16}, "overlap": 0, "batch": 1, "tune": False}


@pytest.mark.parametrize("how", ["in_memory", "lazily"])
def test_an_interrupted_model_does_not_hold_the_next_run_back(how):
    """SIGINT in its third batch: there is no fourth, though two blocks of 256 were begun."""
    said = python(
        f"""
        import os, signal, sys, threading, types
        import numpy as np, torch, xarray as xr
        import xspinn

        # A shell that starts this suite in the background has it ignore the signal.
        signal.signal(signal.SIGINT, signal.default_int_handler)

        # A module of its own, since a copy of the network must find the same events.
        here = sys.modules["here"] = types.ModuleType("here")
        here.third, here.interrupted = threading.Event(), threading.Event()
        here.calls = calls = []

        class Slow(torch.nn.Module):
            def forward(self, x):
                if not x.is_meta:
                    here.calls.append(1)
                    if len(here.calls) == 3:
                        here.third.set()
                        here.interrupted.wait()
                return x

        def interrupt():
            here.third.wait()
            os.kill(os.getpid(), signal.SIGINT)

        def in_memory():
            image.spinn.predict(Slow(), **tiles)

        def lazily():
            lazy.compute()

        image = xr.DataArray(np.ones((256, 512), "float32"), dims=("y", "x"))
        tiles = {TILES} | dict(blocks=256)
        lazy = image.chunk(256).spinn.predict(Slow(), **tiles)
        xspinn.set_options(model_calls=1)
        threading.Thread(target=interrupt).start()
        try:
            {how}()
        except KeyboardInterrupt:
            print("interrupted")
        before = len(calls)
        here.interrupted.set()
        image.spinn.predict(torch.nn.Conv2d(1, 1, 3, padding=1), **tiles)
        print(before, len(calls))
        lazy.compute()  # what was interrupted can be computed again
        print(len(calls) - before)
        """
    ).split()
    assert said == ["interrupted", "3", "3", "512"]


def test_where_one_block_fails_the_others_stop():
    begun, failed, calls = threading.Event(), threading.Event(), []

    def model(batch):
        if batch.max() == 2:
            assert begun.wait(60)
            raise ZeroDivisionError
        if batch.max() == 1:
            calls.append(1)
            begun.set()
            assert failed.wait(60)
        return batch

    both = threading.Barrier(2)

    def together(batch):
        if batch.max() > 0:
            both.wait(60)
        return batch

    values = np.ones((64, 128), "float32")
    values[:, :64] = 2
    image = xr.DataArray(values, dims=("y", "x")).chunk(64)
    with dask.config.set(num_workers=2, scheduler="threads"):
        with pytest.raises(ZeroDivisionError):
            image.spinn.predict(model, **TILES, blocks=64).compute()
        failed.set()
        # It needs both threads, so the block that did not fail is over by then.
        image.spinn.predict(together, **TILES, blocks=64).compute()
    assert calls == [1]


def test_each_computation_of_an_array_is_cancelled_alone():
    begun, failed = threading.Event(), threading.Event()

    def model(batch):
        if batch.max() > 0:
            if threading.current_thread().name.startswith("fails"):
                raise ZeroDivisionError
            begun.set()
            assert failed.wait(60)
        return batch

    image = xr.DataArray(np.ones((64, 64), "float32"), dims=("y", "x")).chunk(64)
    lazy = image.spinn.predict(model, **TILES)

    def fail():
        assert begun.wait(60)
        with pytest.raises(ZeroDivisionError):
            lazy.compute(scheduler="synchronous")
        failed.set()

    with ThreadPoolExecutor(1, "fails") as other:
        failing = other.submit(fail)
        xr.testing.assert_equal(lazy.compute(scheduler="threads"), image)
        failing.result()


def test_a_worker_stops_what_was_cancelled(tmp_path):
    log, go = tmp_path / "log", tmp_path / "go"

    def model(batch):
        if batch.max() > 0:
            with log.open("a") as file:
                file.write("call\n")
            while not go.exists():
                time.sleep(0.05)
        return batch

    image = xr.DataArray(np.ones((64, 64), "float32"), dims=("y", "x")).chunk(64)
    lazy = image.spinn.predict(model, **TILES)
    other = image.spinn.predict(torch.nn.Identity(), **TILES)
    with cluster(workers=1, threads=1) as workers, Client(workers) as client:
        future = client.compute(lazy)
        wait_for(log.exists)
        future.cancel()
        wait_for(lambda: "cancelled" in states(client))
        go.touch()
        xr.testing.assert_equal(client.compute(other).result(), image)
        assert log.read_text().split() == ["call"]
        xr.testing.assert_equal(client.compute(lazy).result(), image)  # it can be had again
        assert len(log.read_text().split()) == 1 + 16


def states(client):
    def ask(dask_worker):
        return [task.state for task in dask_worker.state.tasks.values()]

    return next(iter(client.run(ask).values()))


def test_a_job_that_is_sent_elsewhere_has_a_token_of_its_own():
    job = Job(plan=None)
    job.cancel.cancelled = True
    assert not pickle.loads(pickle.dumps(job)).cancel.cancelled
