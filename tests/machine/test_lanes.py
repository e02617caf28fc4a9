"""Blocks that are on the device, and blocks that stay apart from it, give the same answer."""

import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
import xarray as xr
from helpers.crowd import Crowd
from hypothesis import given
from hypothesis import strategies as st

import xspinn
from xspinn.block.running import run_block
from xspinn.machine import devices, route
from xspinn.machine.lanes import Lane, store_apart
from xspinn.machine.nesting import holding
from xspinn.machine.route import lane
from xspinn.models.replaying import Recording, Replayed
from xspinn.planner import prepare
from xspinn.plans.request import Request

CPU = torch.device("cpu")


def network():
    torch.manual_seed(0)
    return torch.nn.Conv2d(1, 3, 3, padding=1)


@pytest.fixture
def image():
    values = np.random.default_rng(0).standard_normal((50, 70)).astype("float32")
    return xr.DataArray(values, dims=("y", "x"))


@pytest.mark.parametrize("combine", ["mean", "soft", "hard", "max"])
@pytest.mark.parametrize("batch", [1, 3, 100])
def test_a_block_apart_from_its_device_gives_the_same_answer(image, combine, batch):
    options = {"patch": {"y": 16, "x": 16}, "overlap": 6, "combine": combine, "batch": batch}
    expected = image.spinn.predict(network(), **options)
    with xspinn.set_options(device_bytes=1):
        found = image.spinn.predict(network(), **options)
    xr.testing.assert_identical(found, expected)


@given(st.lists(st.integers(0, 1000), max_size=8), st.booleans())
def test_answers_are_handed_on_in_order_and_one_late_only_when_apart(batches, apart):
    begun = []

    def answers():
        for batch in batches:
            begun.append(batch)
            yield batch, [(None, torch.tensor([batch]))]

    late = []
    found = []
    for batch, [(_, tensor)] in Lane(CPU, apart).fetched(answers()):
        late.append(len(begun) - len(found))
        found.append(batch)
        assert tensor.item() == batch
    assert found == batches
    assert late[:-1] == [2 if apart else 1] * len(late[:-1])


def test_whether_a_block_stays_apart_is_settled_by_arithmetic():
    assert not store_apart(CPU, 2**60)
    with xspinn.set_options(device_bytes=1000):
        assert not store_apart(CPU, 1000)
        assert store_apart(CPU, 1001)


def test_what_torch_takes_by_dlpack_is_not_copied_to_the_host(image):
    # As cupy's arrays do: on their device, neither numpy's nor torch's for a plan.
    class Foreign:
        def __init__(self, tensor):
            self.tensor, self.shape = tensor, tuple(tensor.shape)
            self.__dlpack__, self.__dlpack_device__ = tensor.__dlpack__, tensor.__dlpack_device__

        def __array__(self, *args, **kwargs):
            raise TypeError("implicit conversion to the host")

    request = Request(patch={"x": 16, "y": 16}, overlap=4, blocks=-1, tune=False)
    run = prepare(image, network(), request)
    raw = image.to_numpy()
    (there,) = run_block(run.job, run.model, raw, (0, 0))
    (here,) = run_block(run.job, run.model, Foreign(torch.from_numpy(raw)), (0, 0))
    np.testing.assert_array_equal(here.settled, there.settled)


@pytest.fixture
def two_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)


def test_a_process_uses_all_its_gpus_but_those_of_its_neighbours(two_gpus, monkeypatch):
    assert list(map(str, devices.pick_devices(None))) == ["cuda:0", "cuda:1"]
    assert list(map(str, devices.pick_devices("cuda"))) == ["cuda:0", "cuda:1"]
    assert list(map(str, devices.pick_devices("cuda:1"))) == ["cuda:1"]
    assert list(map(str, devices.pick_devices("cpu"))) == ["cpu"]
    monkeypatch.setitem(__import__("sys").modules, "dask_cuda", object())
    assert list(map(str, devices.pick_devices(None))) == ["cuda:0"]


def test_blocks_go_to_the_device_with_the_fewest(two_gpus, monkeypatch):
    # The twin of a GPU's lane: two devices that are the CPU by other names.
    monkeypatch.setattr(route, "_running", {})
    names = {"cuda:0": torch.device("cpu", 0), "cuda:1": torch.device("cpu", 1)}

    def place(device):
        return names[str(device)]

    with contextlib.ExitStack() as stack:
        taken = [
            stack.enter_context(lane(None, place, 0, turns=False)).device.index for _ in range(4)
        ]
    assert taken == [0, 1, 0, 1]
    assert set(route._running.values()) == {0}


def test_a_block_that_a_models_call_runs_takes_no_turn_of_its_own():
    def way():
        with lane("cpu", lambda device: device, 0, turns=True) as found:
            return found.turns, found.compute(threading.current_thread)

    turns, _ = way()
    assert turns
    with holding("the turn of some call"):
        turns, nested = way()
    assert not turns
    assert nested is threading.current_thread()


def test_a_recorded_call_is_replayed_for_each_shape():
    recorded = []

    def recorder(call, batch):
        recorded.append(tuple(batch.shape))
        fed = batch.clone()
        answers = [("twice", call(fed)), ("thrice", 3 * fed)]

        def replay():
            answers[0][1].copy_(call(fed))
            answers[1][1].copy_(3 * fed)

        return Recording(fed, replay, answers)

    replayed = Replayed(lambda batch: 2 * batch, recorder)
    kept = []
    for size in (4, 4, 3, 4):
        batch = torch.randn(size, 2)
        kept.append((batch, replayed(batch)))
    assert recorded == [(4, 2), (3, 2)]
    for batch, answers in kept:  # the first ones, too, are still what they were
        torch.testing.assert_close(answers, {"twice": 2 * batch, "thrice": 3 * batch})


def test_lanes_of_many_threads_are_given_back():
    crowd, before = Crowd(16), route._running.get(CPU, 0)

    def one(_):
        with lane("cpu", lambda device: device, 0, turns=False), crowd:
            return route._running[CPU]

    with ThreadPoolExecutor(16) as pool:
        assert max(pool.map(one, range(16))) == before + 16
    assert route._running[CPU] == before
