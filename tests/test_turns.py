"""Models run in few threads, which end when nothing waits for them."""

import contextvars
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar

import numpy as np
import pytest
import torch
import xarray as xr
from elsewhere import python

import xspinn
from xspinn.turns import in_turn

CPU = torch.device("cpu")


def model_threads():
    return [t for t in threading.enumerate() if t.name.startswith("spinn-model")]


@pytest.mark.parametrize("calls", [1, 3])
def test_as_many_run_at_once_as_may_and_always_the_same(calls):
    running, most, names = [0], [], set()
    lock = threading.Lock()

    def work(number):
        with lock:
            running[0] += 1
            most.append(running[0])
            names.add(threading.current_thread().name)
        time.sleep(0.01)
        with lock:
            running[0] -= 1
        return number

    with xspinn.set_options(model_calls=calls), ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda n: in_turn(CPU, lambda: work(n)), range(40)))
    assert found == list(range(40))
    assert max(most) == calls
    assert all(name.startswith("spinn-model") for name in names)


def test_they_end_when_nothing_waits():
    in_turn(CPU, lambda: None)
    for thread in model_threads():
        thread.join(timeout=10)
    assert model_threads() == []


def test_errors_and_contexts_pass():
    told = contextvars.ContextVar("told", default="nothing")
    told.set("something")
    assert in_turn(CPU, told.get) == "something"
    with pytest.raises(ZeroDivisionError):
        in_turn(CPU, lambda: 1 / 0)


def test_inside_a_turn_nobody_waits_for_another():
    inner = in_turn(CPU, lambda: in_turn(CPU, threading.current_thread))
    assert inner.name.startswith("spinn-model")


@pytest.mark.parametrize("threads", [1, 3])
def test_the_number_of_threads_is_theirs_alone(threads):
    own = torch.get_num_threads()
    assert in_turn(CPU, torch.get_num_threads, threads) == threads
    assert torch.get_num_threads() == own
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(torch.get_num_threads).result() == own


class Where(torch.nn.Module):
    seen: ClassVar[set[str]] = set()

    def forward(self, x):
        if not x.is_meta:
            self.seen.add(threading.current_thread().name)
        return x


@pytest.mark.parametrize("scheduler", ["threads", "synchronous"])
def test_with_dasks_synchronous_scheduler_a_debugger_finds_the_model(scheduler):
    Where.seen.clear()
    image = xr.DataArray(np.ones((32, 32), "float32"), dims=("y", "x")).chunk(16)
    lazy = image.spinn.predict(Where(), patch={"y": 16, "x": 16}, overlap=0, blocks=16)
    lazy.compute(scheduler=scheduler)
    (name,) = {name.rstrip("_0123456789") for name in Where.seen}
    assert name == ("MainThread" if scheduler == "synchronous" else "spinn-model")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")
def test_no_team_of_openmp_is_left_over():
    """One team at a time: the caller's is sent home, and that of the model ends."""
    said = python(
        """
        import os, threading
        import numpy as np, torch, xarray as xr
        import xspinn
        from xspinn.turns import _pause

        def others():
            for thread in threading.enumerate():
                if thread.name.startswith("spinn-model"):
                    thread.join()
            return len(os.listdir("/proc/self/task")) - threading.active_count()

        def predict():
            model = torch.nn.Conv2d(1, 4, 3, padding=1)
            image = xr.DataArray(np.ones((256, 256), "float32"), dims=("y", "x"))
            image.spinn.predict(model, patch={"y": 64, "x": 64}, overlap=8)

        torch.set_num_threads(3)
        predict()
        counts = [others()]
        torch.ones(10_000_000).exp()
        counts.append(others())
        predict()
        counts.append(others())
        print(*counts, _pause() is not None)
        """
    )
    none, one, again, told = said.split()
    if told == "True":  # GNU's library
        assert int(one) == int(none) + 2
        assert again == none
