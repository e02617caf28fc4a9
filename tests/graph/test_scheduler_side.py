"""A scheduler unpickles graphs, and is spared torch and the formats of models."""

import os
import subprocess
import sys

import numpy as np
import pytest
import xarray as xr
from distributed import Client
from helpers import TESTS
from helpers.elsewhere import python
from helpers.networks import Counting

import xspinn

HEAVY = ("torch", "xspinn.models.formats", "xspinn.block.running")
"""What a scheduler must not import."""


@pytest.mark.slow
def test_a_scheduler_that_gets_a_graph_imports_no_torch(log, tmp_path):
    """Scheduler and worker are processes of their own, as on any cluster but a local one."""
    file = tmp_path / "scheduler.json"
    options = ["--scheduler-file", str(file), "--no-dashboard"]
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", f"distributed.cli.{name}", *rest, *options],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(search_path())},
            stderr=subprocess.DEVNULL,
        )
        for name, *rest in [["dask_scheduler", "--port", "0"], ["dask_worker"]]
    ]
    try:
        with Client(scheduler_file=str(file)) as client:
            client.wait_for_workers(1, timeout=120)
            image = xr.DataArray(np.ones((64, 64), "float32"), dims=("y", "x")).chunk(16)
            # Large enough to travel by itself, and blended, so that every kind of task is there.
            model = Counting(str(log), bulk=50_000)
            lazy = image.spinn.predict(model, patch={"y": 16, "x": 16}, overlap=4, blocks=16)
            np.testing.assert_allclose(lazy.compute(), 2, rtol=1e-6)
            found = client.run_on_scheduler(imported())
            assert "xspinn.graph.build" in found, "the scheduler unpickled no graph of ours"
            assert not found.intersection(HEAVY)
            assert set(HEAVY) <= client.run(imported()).popitem()[1]
    finally:
        for process in processes:
            process.terminate()
            process.wait()


def imported():
    """Return what is pickled by value: by name, the scheduler would import this file, and torch."""
    return lambda: set(sys.modules)


def search_path():
    """Where this xspinn and the helpers of the tests are."""
    return [TESTS, os.path.dirname(os.path.dirname(xspinn.__file__))]  # noqa: PTH120


def test_what_a_scheduler_imports_for_a_graph_loads_no_torch():
    names = ["carriers.cluster", "graph.build", "plans.job", "block.written", "tuning.choosing"]
    code = f"""
import importlib, sys
for name in {names}:
    importlib.import_module("xspinn." + name)
print(sorted(set({HEAVY}) & set(sys.modules)))
"""
    assert python(code).strip() == "[]"
