"""Models run in few threads, which end when nothing waits for them."""

import contextvars
import os
import sys
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ClassVar

import numpy as np
import pytest
import torch
import xarray as xr
from helpers import TESTS
from helpers.crowd import Crowd
from helpers.elsewhere import python

import xspinn
from xspinn.machine.threads import in_turn

CPU = torch.device("cpu")


@pytest.mark.parametrize("calls", [1, 3])
def test_as_many_run_at_once_as_may_and_always_the_same(calls):
    begun, done = threading.Event(), threading.Event()
    crowd = Crowd(max(1, calls - 1))

    def long():
        begun.set()
        return done.wait()

    def work(number):
        with crowd:
            return number

    with xspinn.set_options(model_calls=calls), ThreadPoolExecutor(8) as pool:
        if calls > 1:  # while something waits, no thread ends
            pool.submit(in_turn, CPU, long)
            begun.wait()
        found = list(pool.map(lambda n: in_turn(CPU, lambda: work(n)), range(40)))
        done.set()
    assert found == list(range(40))
    assert crowd.most == crowd.expected
    if calls > 1:
        assert len(crowd.threads) == crowd.expected
    assert all(thread.name.startswith("spinn-model") for thread in crowd.threads)


def test_they_end_when_nothing_waits():
    thread = in_turn(CPU, threading.current_thread)
    thread.join(timeout=60)
    assert not thread.is_alive()


def test_errors_and_contexts_pass():
    told = contextvars.ContextVar("told", default="nothing")
    told.set("something")
    assert in_turn(CPU, told.get) == "something"
    with pytest.raises(ZeroDivisionError):
        in_turn(CPU, lambda: 1 / 0)


def test_inside_a_turn_nobody_waits_for_another():
    def outer():
        return in_turn(CPU, threading.current_thread) is threading.current_thread()

    with xspinn.set_options(model_calls=2):
        assert in_turn(CPU, outer)
        assert in_turn(CPU, outer, stay=True)


@pytest.mark.parametrize("threads", [1, 3])
def test_the_number_of_threads_is_theirs_alone(threads):
    own = torch.get_num_threads()
    assert in_turn(CPU, torch.get_num_threads, threads) == threads
    assert torch.get_num_threads() == own
    assert in_turn(CPU, lambda: in_turn(CPU, torch.get_num_threads, threads), 2) == threads
    assert of_a_new_thread() == own


def of_a_new_thread():
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(torch.get_num_threads).result()


def test_without_a_number_it_is_that_of_the_thread_that_asks():
    own = torch.get_num_threads()
    with ThreadPoolExecutor(1) as old:
        old.submit(torch.get_num_threads).result()
        try:
            torch.set_num_threads(own + 1)  # for this thread, and those to come
            assert in_turn(CPU, torch.get_num_threads) == own + 1
            assert old.submit(in_turn, CPU, torch.get_num_threads).result() == own
            assert of_a_new_thread() == own + 1
        finally:
            torch.set_num_threads(own)


def test_a_thread_that_cannot_start_is_an_error_and_leaves_nothing(monkeypatch):
    own, start = torch.get_num_threads(), threading.Thread.start
    begun = []

    def fail_on_the_second(thread):
        if thread.name.startswith("spinn-model"):
            begun.append(thread)
            if len(begun) == 2:
                raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", fail_on_the_second)
    with xspinn.set_options(model_calls=2), pytest.raises(RuntimeError, match="can't start"):
        in_turn(CPU, lambda: None, own + 2)
    begun[0].join(timeout=10)
    assert not begun[0].is_alive()
    assert of_a_new_thread() == own
    with xspinn.set_options(model_calls=2):
        assert in_turn(CPU, torch.get_num_threads, own + 2) == own + 2


def test_what_waited_for_somebody_who_was_interrupted_does_not_run(monkeypatch):
    begun, held, ran = threading.Event(), threading.Event(), []

    def long():
        begun.set()
        return held.wait()

    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(in_turn, CPU, long)
        begun.wait()
        with monkeypatch.context() as patched:
            patched.setattr(Future, "result", interrupted)
            with pytest.raises(KeyboardInterrupt):
                in_turn(CPU, lambda: ran.append(1))
        held.set()
        assert first.result()
    assert in_turn(CPU, lambda: len(ran)) == 0


def interrupted(future, timeout=None):
    raise KeyboardInterrupt


def test_the_main_thread_waits_for_its_turn_too():
    begun, held = threading.Event(), threading.Event()
    order = []

    def long():
        begun.set()
        held.wait()
        order.append("first")

    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(in_turn, CPU, long)
        begun.wait()
        threading.Timer(0.1, held.set).start()
        assert in_turn(CPU, threading.current_thread, stay=True) is threading.main_thread()
        order.append("second")
        first.result()
    assert order == ["first", "second"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_begins_anew():
    said = python(
        """
        import os, threading, torch
        from xspinn.machine.threads import in_turn

        cpu, held = torch.device("cpu"), threading.Event()
        threading.Thread(target=in_turn, args=(cpu, held.wait)).start()
        while not any(t.name.startswith("spinn-model") for t in threading.enumerate()):
            pass
        child = os.fork()
        if child == 0:
            print(in_turn(cpu, lambda: "done"), flush=True)
            os._exit(0)
        os.waitpid(child, 0)
        held.set()
        """
    )
    assert said == "done\n"


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
        from helpers.crowd import wait_for
        from xspinn.machine.threads import _pause

        def others():
            return len(os.listdir("/proc/self/task")) - threading.active_count()

        def predict():
            model = torch.nn.Conv2d(1, 4, 3, padding=1)
            image = xr.DataArray(np.ones((256, 256), "float32"), dims=("y", "x"))
            image.spinn.predict(model, patch={"y": 64, "x": 64}, overlap=8)

        torch.set_num_threads(1)
        predict()  # starts what is started once
        usual = others()
        torch.set_num_threads(3)
        if _pause() is not None:  # GNU's library
            for _ in range(2):
                predict()
                # A thread leaves the system a moment after Python has let go of it.
                wait_for(lambda: others() == usual)
                torch.ones(10_000_000).exp()
                wait_for(lambda: others() == usual + 2)
        """,
        PYTHONPATH=os.pathsep.join([TESTS, *sys.path]),
    )
    assert not said
