"""Private parts of distributed that are used are there, and do what they are used for."""

import time

import numpy as np
import pytest
from distributed import CancelledError, Client, LocalCluster, get_worker
from helpers.crowd import wait_for

from xspinn.hooks import distributed as hooks


@pytest.fixture(scope="module")
def cluster():
    with LocalCluster(
        n_workers=2,
        threads_per_worker=3,
        processes=False,
        dashboard_address=":0",
        memory_limit="1GiB",
    ) as made:
        yield made


def test_all_clients_also_those_that_are_no_default(cluster):
    with Client(cluster, set_as_default=False) as one, Client(cluster) as other:
        assert {one, other} <= set(hooks.all_clients())


def test_data_of_another_client_by_its_name(cluster):
    with Client(cluster) as one, Client(cluster, set_as_default=False) as other:
        kept = one.scatter({"some-name": np.arange(3)}, hash=False)
        np.testing.assert_array_equal(other.gather(hooks.future_of("some-name", other)), [0, 1, 2])
        del kept
        with pytest.raises(CancelledError):
            other.gather(hooks.future_of("a name that nobody has", other))


def test_limits_of_workers(cluster):
    worker = cluster.workers[0]
    assert hooks.memory_limit_of_worker(worker) == 2**30
    assert hooks.memory_limit_of_machine() > 2**20
    assert hooks.threads_of_worker(worker) == 3


def wait_until_cancelled(begun, told):
    is_cancelled = hooks.cancelled_task(get_worker())
    begun.touch()
    while not is_cancelled():
        time.sleep(0.01)
    told.touch()


def test_a_task_is_told_when_it_was_cancelled(cluster, tmp_path):
    begun, told = tmp_path / "begun", tmp_path / "told"
    with Client(cluster) as client:
        future = client.submit(wait_until_cancelled, begun, told)
        wait_for(begun.exists)
        future.cancel()
        wait_for(told.exists)
    assert told.exists()
