"""Models reach every process once, whatever runs the blocks."""

import os
import pickle
import subprocess
import sys
import weakref
from pathlib import Path

import pytest
from distributed import Client
from distributed.protocol import pickle as distributed_pickle
from helpers import TESTS
from helpers.clusters import BULK, IMAGE, PATCH, built, check, cluster, lazily, sent
from helpers.networks import Counting

from xspinn import as_model
from xspinn.carriers.shared import Shared
from xspinn.errors import ModelError

# -- distributed -----------------------------------------------------------------------------


def test_one_build_a_process_and_one_journey_a_worker(client, log):
    lazy = lazily(log, bulk=BULK, together=2)
    graph = distributed_pickle.dumps(lazy.__dask_graph__())
    slim = distributed_pickle.dumps(lazily(log, bulk=0).__dask_graph__())
    assert len(graph) - len(slim) < 1000
    check(lazy.compute())
    assert len(built(log)) == len(set(built(log))) == 2
    # The client gives the shards to one worker, which gives them to the other; the result of the
    # blocks comes on top.
    assert 4 * BULK < sent(client) < 4 * BULK + 1_000_000
    before = sent(client)
    check(lazy.compute())
    check(lazily(log, bulk=BULK, together=2).compute())
    assert not log.exists(), "a process keeps what it built for the next run"
    assert sent(client) - before < 1_000_000


def test_memory_of_the_client_is_free_when_it_is_closed(log):
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


def test_workers_in_threads_share_the_clients_memory(log):
    with cluster(processes=False) as made, Client(made) as client:
        check(lazily(log, bulk=BULK).compute())
        assert built(log) == [str(os.getpid())]
        assert sent(client) < 1_000_000


def test_a_path_that_workers_can_open_does_not_travel(client, tmp_path):
    import torch

    torch.save({"bulk": torch.zeros(BULK), "scale": torch.tensor(2.0)}, tmp_path / "w.pth")
    model = as_model(tmp_path / "w.pth", factory="helpers.networks:bulky")
    lazy = IMAGE.spinn.predict(model, patch=PATCH, overlap=0, blocks=16)
    check(lazy.compute())
    assert sent(client) < 1_000_000


def test_a_file_that_workers_cannot_open_travels(client, tmp_path):
    import torch

    path = tmp_path / "w.pth"
    torch.save({"bulk": torch.zeros(BULK), "scale": torch.tensor(2.0)}, path)
    lazy = IMAGE.spinn.predict(
        as_model(path, factory="helpers.networks:bulky"), patch=PATCH, overlap=0, blocks=16
    )
    client.run(hide, str(path))
    check(lazy.compute())
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


# -- other schedulers --------------------------------------------------------------------------


def test_other_processes_read_a_file_that_goes_with_this_one(log, tmp_path):
    code = f"""
import sys
import numpy as np, xarray as xr
sys.path.insert(0, {TESTS!r})
from helpers.networks import Counting
from xspinn.carriers import spool
if __name__ == "__main__":
    image = xr.DataArray(np.ones((128, 128), "float32"), dims=("y", "x")).chunk(16)
    model = Counting({str(log)!r}, bulk={BULK}, together=2)
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
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert not Path(done.stdout.strip()).exists()
    assert len(built(log)) == len(set(built(log))) == 2


def test_pickled_for_a_task_a_model_is_small_and_by_itself_whole(log):
    handle = as_model(Counting(str(log), bulk=BULK))
    assert len(pickle.dumps(Shared(handle))) < 2000
    assert len(pickle.dumps(handle)) > 4 * BULK


@pytest.mark.extras
@pytest.mark.filterwarnings("ignore")  # of Ray about itself
def test_ray(log, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # or it writes a token to the home folder
    import ray
    from ray.util.dask import ray_dask_get

    lazy = lazily(log, bulk=BULK)
    ray.init(num_cpus=2, include_dashboard=False, runtime_env={"env_vars": {"PYTHONPATH": TESTS}})
    try:
        check(lazy.compute(scheduler=ray_dask_get))
        assert len(built(log)) == len(set(built(log))) <= 2
        log.unlink()
        check(lazy.compute(scheduler=ray_dask_get))
    finally:
        ray.shutdown()


def test_threads_build_once(log):
    lazy = lazily(log)
    check(lazy.compute(scheduler="threads", num_workers=8))
    assert built(log) == [str(os.getpid())]


def test_a_client_that_cannot_hand_out_the_bytes_says_so_at_once(client, log, monkeypatch):
    monkeypatch.setattr("xspinn.carriers.cluster._Offer.scatter", broken)
    with pytest.raises(ModelError, match=r"cannot be built in worker tcp.*scattered: no memory"):
        lazily(log, bulk=BULK).compute()


def test_models_of_forgotten_graphs_do_not_pile_up(client, log, monkeypatch):
    """Only the latest are held for graphs that run while nobody holds them."""
    monkeypatch.setattr("xspinn.carriers.cluster.MAX_HELD_BYTES", 6 * BULK)
    handles = [as_model(Counting(str(log), bulk=BULK + k)) for k in range(3)]
    watched = [weakref.ref(handle.content) for handle in handles]
    for handle in handles:
        pickle.dumps(Shared(handle))
    del handle, handles
    assert [content() is None for content in watched] == [True, True, False]


async def broken(self, *args):
    raise ModelError("no memory left")
