"""How a model is called: asked for, measured, remembered, and never at the price of the answer."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar

import numpy as np
import pytest
import torch
import xarray as xr

import xspinn
from xspinn import as_model
from xspinn.machine import devices
from xspinn.models.calling import calling
from xspinn.plans.tuning import Asked, Choice, Tuning, as_tuning
from xspinn.tuning import choosing, measuring, record, trial
from xspinn.tuning.trial import TOLERANCE

PATCH = {"z": 16, "y": 16, "x": 16}
CPU = torch.device("cpu")
HAS_BF16 = devices._has("bf16", CPU)


class Network(torch.nn.Module):
    """Two convolutions, so that memory formats matter."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.one = torch.nn.Conv3d(1, 4, 3, padding=1)
        self.two = torch.nn.Conv3d(4, 1, 3, padding=1)

    def forward(self, x):
        return self.two(torch.relu(self.one(x)))


@pytest.fixture
def volume():
    values = np.random.default_rng(0).standard_normal((40, 40, 40)).astype("float32")
    return xr.DataArray(values, dims=("z", "y", "x"))


@pytest.fixture
def measured(monkeypatch):
    """Every job is worth measuring, and nothing was chosen before."""
    monkeypatch.setattr(choosing, "MIN_OPERATIONS", 0)
    monkeypatch.setattr(measuring, "MIN_JOB_SECONDS", 0)
    monkeypatch.setattr(measuring, "MAX_SHARE_OF_JOB", 1e9)
    monkeypatch.setattr(measuring, "MAX_SHARE_OF_BATCH", 1e9)
    monkeypatch.setattr(choosing, "_chosen", {})


class Clock:
    """Ticks once each time that it is asked, and as often as models say: no load delays it."""

    ticks = 0

    def perf_counter(self):
        self.ticks += 1
        return self.ticks / 1000


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(measuring, "time", clock)
    monkeypatch.setattr(trial, "time", clock)
    monkeypatch.setattr(Treacherous, "clock", clock, raising=False)
    return clock


def never(*args):
    raise AssertionError("nothing was to be measured")


# -- what is asked for -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"tune": "fast"}, "give True to measure"),
        ({"tune": {"speed": 2}}, "it can set .*memory_format.* argument batch"),
        ({"tune": {"memory_format": "last"}}, "'last'.* not a value that memory_format can have"),
        ({"tune": {"threads": 0}}, "threads"),
        ({"tune": {"threads": True}}, "threads"),
        ({"precision": "half"}, "give one of .*bf16"),
        ({"precision": "auto", "tune": {"compile": False}}, "needs tune=True"),
        ({"precision": "bf16", "tune": Tuning(precision="fp16")}, "leave precision out"),
    ],
)
def test_what_cannot_be_asked_for(volume, options, said):
    with pytest.raises(xspinn.PlanError, match=said):
        volume.spinn.plan(Network(), patch=PATCH, **options)


def test_functions_and_files_of_other_formats_run_as_they_come(volume):
    def double(patches):
        return patches * 2

    assert volume.spinn.plan(double, patch=PATCH).tuning == Tuning()
    for options in ({"precision": "bf16"}, {"tune": {"memory_format": "channels_last"}}):
        with pytest.raises(xspinn.PlanError, match="FunctionModel"):
            volume.spinn.plan(double, patch=PATCH, **options)


def test_short_jobs_and_those_that_say_so_are_not_measured(volume, monkeypatch):
    monkeypatch.setattr(measuring, "measure", never)
    assert volume.spinn.plan(Network(), patch=PATCH).tuning == Tuning()
    monkeypatch.setattr(choosing, "MIN_OPERATIONS", 0)
    assert volume.spinn.plan(Network(), patch=PATCH, tune=False).tuning == Tuning()


def of_a_new_thread():
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(torch.get_num_threads).result()


SETTINGS = [
    {"memory_format": "channels_last"},
    {"allocator": True},
    {"threads": 1},
    {"memory_format": "channels_last", "allocator": True, "threads": 2},
]


@pytest.mark.parametrize("tune", SETTINGS, ids=str)
def test_what_is_set_by_hand_is_done_and_agrees(volume, tune):
    plan = volume.spinn.plan(Network(), patch=PATCH, tune=tune)
    assert plan.tuning == Tuning(**tune, source="given")
    assert xspinn.Plan.from_json(plan.to_json()) == plan
    assert str(plan.tuning) in repr(plan)
    threads = torch.get_num_threads()
    found = volume.spinn.predict(Network(), patch=PATCH, tune=tune)
    expected = volume.spinn.predict(Network(), patch=PATCH, tune=False)
    assert float(abs(found - expected).max()) < TOLERANCE * float(expected.std())
    assert threads == torch.get_num_threads() == of_a_new_thread()
    assert json.loads(found.attrs["xspinn"])["tuning"] == {**tune, "source": "given"}
    assert as_tuning(plan.tuning, "float32") == plan.tuning


def test_the_module_of_the_user_keeps_its_memory_format(volume):
    module = Network()
    volume.spinn.predict(module, patch=PATCH, tune={"memory_format": "channels_last"})
    assert all(weight.is_contiguous() for weight in module.parameters())


# -- what is measured ------------------------------------------------------------------------


def test_a_choice_is_seen_remembered_and_agrees(volume, measured, monkeypatch):
    found = volume.spinn.predict(Network(), patch=PATCH)
    plan = volume.spinn.plan(Network(), patch=PATCH)
    seen = json.loads(found.attrs["xspinn"])
    assert (seen["batch"], seen["plan"]) == (plan.batch, plan.fingerprint)
    assert seen["tuning"] == plan.tuning.as_dict()
    expected = volume.spinn.predict(Network(), patch=PATCH, tune=False)
    assert float(abs(found - expected).max()) < TOLERANCE * float(expected.std())
    # Another process finds it on disk.
    monkeypatch.setattr(choosing, "_chosen", {})
    monkeypatch.setattr(measuring, "measure", never)
    assert volume.spinn.plan(Network(), patch=PATCH) == plan


def test_a_memory_that_cannot_be_read_or_written_is_done_without(
    volume, measured, monkeypatch, tmp_path
):
    (tmp_path / "tuning").write_text("a file where the folder would be")
    monkeypatch.setenv("XSPINN_CACHE", str(tmp_path))
    first = volume.spinn.plan(Network(), patch=PATCH)
    monkeypatch.setattr(measuring, "measure", never)
    assert volume.spinn.plan(Network(), patch=PATCH) == first


def test_a_spoilt_file_is_measured_anew(volume, measured, monkeypatch, tmp_path):
    monkeypatch.setenv("XSPINN_CACHE", str(tmp_path))
    volume.spinn.plan(Network(), patch=PATCH)
    (file,) = record.folder().glob("*.json")
    file.write_text('{"batch": 2, "tuning": {"speed": 9}}')
    monkeypatch.setattr(choosing, "_chosen", {})
    volume.spinn.plan(Network(), patch=PATCH)
    assert "speed" not in json.loads(file.read_text())["tuning"]


class Treacherous(torch.nn.Module):
    """Fast channels last, and wrong."""

    clock: ClassVar[Clock]

    def __init__(self, wrong):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(2, 2, 2, 2, 2))
        self.wrong = wrong

    def forward(self, x):
        if self.weight.is_contiguous():
            self.clock.ticks += 20
            return x * self.weight.sum()
        return x * (self.weight.sum() + self.wrong)


@pytest.mark.parametrize("wrong", [0.0, 0.01])
def test_a_way_whose_results_differ_is_not_chosen(measured, clock, wrong):
    asked = Asked((1, 8, 8, 8), "float32", 4, True, 50, 50, 1, "float32", None, allocator=False)
    choice = measuring.measure(as_model(Treacherous(wrong)), asked)
    last = choice.tuning.memory_format == "channels_last"
    assert last is (wrong == 0)


class Refusing(torch.nn.Module):
    """Fails channels last, as a module with a `view` does."""

    def __init__(self):
        super().__init__()
        self.one = torch.nn.Conv3d(1, 4, 3, padding=1)
        self.two = torch.nn.Conv3d(4, 4, 3, padding=1)

    def forward(self, x):
        return self.two(self.one(x)).view(len(x), -1).view(len(x), 4, *x.shape[2:])


def test_a_way_that_fails_is_not_chosen(volume, measured):
    with pytest.raises(RuntimeError, match="view"):
        volume.spinn.predict(Refusing(), patch=PATCH, tune={"memory_format": "channels_last"})
    choice = volume.spinn.plan(Refusing(), patch=PATCH)
    assert choice.tuning.memory_format == "contiguous"


def test_a_batch_that_is_given_stays(volume, measured):
    assert volume.spinn.plan(Network(), patch=PATCH, batch=3).batch == 3


# -- several threads -------------------------------------------------------------------------


def test_jobs_do_not_wait_for_the_measuring_of_others(volume, measured, monkeypatch, tmp_path):
    """The first job measures until the second is done."""
    began, done = threading.Event(), threading.Event()

    def measure(model, asked):
        if asked.usual == 3:
            began.set()
            assert done.wait(60), "the other job waits for this one"
        return Choice(asked.usual, Tuning())

    monkeypatch.setattr(measuring, "measure", measure)
    monkeypatch.setenv("XSPINN_CACHE", str(tmp_path))
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(volume.spinn.plan, Network(), patch=PATCH, batch=3)
        assert began.wait(60)
        with ThreadPoolExecutor(1) as other:
            second = other.submit(volume.spinn.plan, Network(), patch=PATCH, batch=2)
            try:
                assert second.result(60).batch == 2
            finally:
                done.set()
        assert first.result(60).batch == 3


def test_threads_that_ask_for_one_job_measure_it_once(volume, measured, monkeypatch, tmp_path):
    calls, all_here, model = [], threading.Barrier(4), Network()

    def measure(model, asked):
        calls.append(asked)
        return Choice(asked.usual, Tuning())

    def plan():
        all_here.wait(60)
        return volume.spinn.plan(model, patch=PATCH, batch=3)

    monkeypatch.setattr(measuring, "measure", measure)
    monkeypatch.setenv("XSPINN_CACHE", str(tmp_path))
    with ThreadPoolExecutor(4) as pool:
        plans = [future.result(60) for future in [pool.submit(plan) for _ in range(4)]]
    assert len(calls) == 1
    assert all(plan == plans[0] for plan in plans)


# -- precision -------------------------------------------------------------------------------


@pytest.mark.skipif(not HAS_BF16, reason="this CPU does not compute in bfloat16")
@pytest.mark.parametrize("tune", [True, False])
def test_a_lower_precision_says_by_how_much_it_errs(volume, tune):
    plan = volume.spinn.plan(Network(), patch=PATCH, precision="bf16", tune=tune)
    assert plan.tuning.precision == "bf16"
    assert 1e-4 < plan.tuning.error < plan.tuning.worst < 0.2
    found = volume.spinn.predict(Network(), patch=PATCH, precision="bf16", tune=tune)
    expected = volume.spinn.predict(Network(), patch=PATCH, tune=False)
    error = float(np.sqrt(((found - expected) ** 2).mean()) / expected.std())
    assert 0 < error < 3 * plan.tuning.error
    assert found.dtype == "float32"
    assert "bf16" in repr(plan)


def test_auto_takes_a_lower_precision_only_where_it_errs_little(volume, measured, monkeypatch):
    monkeypatch.setattr(measuring, "AUTO_ERROR", 0.0)
    assert volume.spinn.plan(Network(), patch=PATCH, precision="auto").tuning.precision == "float32"


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_precision_that_the_device_lacks(volume, monkeypatch, tmp_path, precision):
    monkeypatch.setattr(choosing, "_chosen", {})
    monkeypatch.setenv("XSPINN_CACHE", str(tmp_path))
    monkeypatch.setattr(devices, "_has", lambda precision, device: False)
    with pytest.raises(xspinn.PlanError, match=f"'{precision}': .*does not compute in it"):
        volume.spinn.plan(Network(), patch=PATCH, precision=precision)
    with pytest.raises(xspinn.PlanError, match="does not compute in it; give 'float32'"):
        calling(Network(), torch.float32, CPU, Tuning(precision=precision))


def test_cuda_graphs_need_a_gpu(volume):
    with pytest.raises(xspinn.ModelError, match="needs a GPU"):
        volume.spinn.predict(Network(), patch=PATCH, device="cpu", tune={"cuda_graph": True})


# -- compiling -------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_compiled_model_gives_the_same(volume):
    found = volume.spinn.predict(Network(), patch=PATCH, tune={"compile": True}, batch=5)
    expected = volume.spinn.predict(Network(), patch=PATCH, tune=False)
    assert float(abs(found - expected).max()) < TOLERANCE * float(expected.std())


@pytest.mark.slow
def test_a_model_that_cannot_be_compiled_runs_as_it_is_with_one_warning(volume, monkeypatch):
    from torch._inductor import config

    class Other(Network):
        pass

    monkeypatch.setattr(config.cpp, "cxx", ("no-such-compiler",))
    monkeypatch.setattr(config, "force_disable_caches", True)
    with pytest.warns(xspinn.SpinnWarning, match="torch.compile failed on the model") as warned:
        found = volume.spinn.predict(Other(), patch=PATCH, tune={"compile": True}, batch=4)
    assert len(warned) == 1
    xr.testing.assert_allclose(found, volume.spinn.predict(Other(), patch=PATCH, tune=False))


@pytest.mark.slow
def test_compiling_pays_in_long_jobs_only(measured, clock, monkeypatch):
    asked = Asked(
        (1, 16, 16, 16), "float32", 4, True, 10**9, 64, 1, "float32", None, allocator=False
    )
    tried = []
    run = measuring.Trial.run

    def spy(self, tuning, *args, **kwargs):
        tried.append(tuning.compile)
        return run(self, tuning, *args, **kwargs)

    monkeypatch.setattr(measuring.Trial, "run", spy)
    measuring.measure(as_model(Network()), asked)
    assert any(tried)
    tried.clear()
    measuring.measure(as_model(Network()), Asked(**{**vars(asked), "patches": 1000}))
    assert not any(tried)


# -- on a cluster ----------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(not HAS_BF16, reason="this CPU does not compute in bfloat16")
def test_on_a_cluster_a_worker_measures_and_all_do_the_same(volume, monkeypatch):
    from distributed import Client, LocalCluster

    monkeypatch.setattr(measuring, "measure", never)  # here; the workers have their own
    monkeypatch.setattr(choosing, "_chosen", {})
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster),
    ):
        model = Network()
        model.register_buffer("bulk", torch.zeros(100_000))  # too much to travel inside a graph
        lazy = volume.chunk(z=20).spinn.predict(model, patch=PATCH, precision="bf16")
        seen = json.loads(lazy.attrs["xspinn"])["tuning"]
        assert seen["precision"] == "bf16"
        assert seen["error"] > 0
        found = lazy.compute()
    expected = volume.spinn.predict(Network(), patch=PATCH, tune=False)
    assert 0 < float(abs(found - expected).max()) < 0.2 * float(expected.std())
