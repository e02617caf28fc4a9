"""The graph: lazy, small, readable, and part of any larger expression."""

from collections import Counter

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
import zarr
from benchmarks.memory import Live
from dask.callbacks import Callback
from dask.core import get_deps
from dask.order import order
from helpers.networks import double
from torch import nn

import xspinn  # noqa: F401 - registers .spinn

pytestmark = pytest.mark.usefixtures("small_batches")

PATCH = {"z": 16, "y": 16, "x": 16}


@pytest.fixture
def volume():
    values = np.random.default_rng(0).standard_normal((64, 64, 64), dtype="float32")
    return xr.DataArray(values, dims=("z", "y", "x"), name="v", coords={"z": np.arange(64) * 2.0})


@pytest.fixture
def stored(volume, tmp_path):
    volume.chunk(16).to_zarr(tmp_path / "v.zarr")
    return xr.open_zarr(tmp_path / "v.zarr")["v"]


def refuse(*args, **kwargs):
    raise AssertionError("dask computed something")


def tasks(array):
    graph = dict(array.__dask_graph__())
    return len(graph) / np.prod(array.numblocks), {
        name if isinstance(name, str) else name[0] for name in graph
    }


def test_nothing_computes_early(volume, stored):
    for array in (stored, stored * 1, volume.chunk(20), stored.to_dataset()):
        with dask.config.set(scheduler=refuse):
            result = array.spinn.predict(nn.Identity(), patch=PATCH, overlap=4)
            result = (result * 2).isel(z=slice(3, 9)).mean("x")
            repr(result)
            result._repr_html_()
            repr(array.spinn.plan(nn.Identity(), patch=PATCH))
        assert result.chunks is not None


def test_source_opened_without_chunks_stays_lazy(stored, tmp_path, volume):
    opened = xr.open_zarr(tmp_path / "v.zarr", chunks=None)["v"]
    result = opened.spinn.predict(nn.Identity(), patch=PATCH, overlap=4, blocks=24)
    assert result.chunks is not None
    assert not opened.variable._in_memory
    np.testing.assert_allclose(result.compute(), volume, atol=1e-6)
    assert not opened.variable._in_memory


@pytest.mark.parametrize("boundary", ["none", "periodic", 0])
def test_four_tasks_a_block_where_blocks_read_themselves(stored, boundary):
    result = stored.spinn.predict(
        nn.Identity(), patch=PATCH, overlap=4, blocks=24, boundary=boundary
    )
    assert result.data.npartitions == 27
    number, names = tasks(result.data)
    # Plan, model and source are one key each, and a few keys settle the order.
    assert number * 27 <= 4 * 27 + 3 + 2 * 9
    kinds = ["run", "strips", "blend", "plan", "model", "source", "order"]
    assert {name.rsplit("-", 1)[0] for name in names} == {f"spinn-{kind}" for kind in kinds}
    (optimized,) = dask.optimize(result.data)
    assert tasks(optimized)[0] <= number


def test_three_tasks_a_block_of_an_image(stored):
    plane = stored.isel(z=0, drop=True)
    result = plane.spinn.predict(nn.Identity(), patch={"y": 16, "x": 16}, overlap=4, blocks=24)
    names = Counter(str(key[0]).rsplit("-", 1)[0] for key in dict(result.data.dask))
    assert names["spinn-run"] == names["spinn-blend"] == 9
    assert names["spinn-strips"] == 8  # the last block has no neighbour to write to


def test_one_task_a_block_where_nothing_spills(stored):
    result = stored.spinn.predict(
        nn.Identity(), patch=PATCH, overlap=4, blocks=24, boundary="reflect", window="trim"
    )
    assert tasks(result.data)[0] == pytest.approx(1 + 3 / 27)


def test_other_dask_arrays_go_through_map_overlap(stored):
    result = (stored * 1).spinn.predict(nn.Identity(), patch=PATCH, overlap=4, blocks=24)
    assert any("overlap" in name for name in tasks(result.data)[1])


def test_a_part_needs_only_its_own_blocks(stored):
    seen = []

    def model(batch):
        seen.append(len(batch))
        return batch

    result = stored.spinn.predict(model, patch=PATCH, overlap=0, blocks=16)
    seen.clear()
    result.isel(z=slice(0, 16), y=slice(0, 16)).compute(scheduler="sync")
    assert sum(seen) == 4


def test_equal_calls_share_their_tasks_and_others_do_not(stored):
    def keys(**kwargs):
        return set(dict(stored.spinn.predict(double, patch=PATCH, **kwargs).data.dask))

    assert keys() == keys()
    assert not {k for k in keys() & keys(overlap=5) if "model" not in k and "source" not in k}


def test_inside_a_larger_expression_and_persist(volume):
    lazy = volume.chunk(20).spinn.predict(nn.Identity(), patch=PATCH, overlap=4)
    difference = (lazy - volume.chunk(31)).persist()
    assert float(abs(difference).max()) < 1e-6
    assert isinstance(lazy.data, da.Array)
    np.testing.assert_allclose(lazy.isel(y=17).compute(), volume.isel(y=17), atol=1e-6)
    again = lazy.spinn.predict(nn.Identity(), patch={"y": 8}, overlap=2)
    np.testing.assert_allclose(again.compute(), volume, atol=1e-6)


def test_to_zarr_and_netcdf(stored, volume, tmp_path):
    result = stored.spinn.predict(nn.Identity(), patch=PATCH, overlap=4)
    result.to_zarr(tmp_path / "out.zarr")
    result.to_netcdf(tmp_path / "out.nc")
    for opened in (xr.open_zarr(tmp_path / "out.zarr"), xr.open_dataset(tmp_path / "out.nc")):
        with opened:
            np.testing.assert_allclose(opened["prediction"], volume, atol=1e-6)
            np.testing.assert_array_equal(opened["z"], volume["z"])


def test_few_blocks_are_held_while_a_store_is_written(tmp_path):
    # As users do it, and as it runs: dask orders what xarray stores unlike what da.store does.
    values = np.zeros((96, 96, 96), "float32")
    xr.DataArray(values, dims=("z", "y", "x"), name="v").chunk(24).to_zarr(tmp_path / "v.zarr")
    lazy = xr.open_zarr(tmp_path / "v.zarr")["v"].spinn.predict(
        nn.Conv3d(1, 1, 1), patch=PATCH, overlap=4, blocks=12
    )
    assert lazy.data.npartitions == 512
    live = Live()
    watch = Callback(posttask=live.posttask)
    with dask.config.set(scheduler="threads", num_workers=2), watch:
        lazy.to_zarr(tmp_path / "out.zarr")
    assert 0 < live.most_counts["spinn-run"] <= 8


def alive_together(array, *, later=False):
    """Return how many blocks and strips wait at once, in dask's order, when all is stored."""
    target = zarr.create_array({}, shape=array.shape, chunks=(12,) * 3, dtype="f4")
    caught = {}

    def catch(graph, keys, **kwargs):
        caught.update(graph.__dask_graph__() if hasattr(graph, "__dask_graph__") else graph)
        return [None for _ in keys]

    if later:
        da.store(array, target, lock=False, compute=False).compute(scheduler=catch)
    else:
        da.store(array, target, lock=False, scheduler=catch)
    needs, needed_by = get_deps(caught)
    waiting = {key: len(others) for key, others in needed_by.items()}
    alive, peak = Counter(), Counter()
    for key in sorted(caught, key=order(caught).get):
        alive[kind_of(key)] += 1
        peak |= alive
        for needed in needs[key]:
            waiting[needed] -= 1
            if waiting[needed] == 0:
                alive[kind_of(needed)] -= 1
    return peak


def kind_of(key):
    name = key[0] if isinstance(key, tuple) else key
    return "-".join(name.split("-")[:2])


@pytest.mark.parametrize("later", [False, True])
def test_finished_blocks_are_handed_on_at_once(stored, later):
    """Only thin strips wait, about one plane of them, or a run would not fit in memory."""
    result = stored.spinn.predict(nn.Identity(), patch=PATCH, overlap=4, blocks=12)
    assert result.data.numblocks == (6, 6, 6)
    peak = alive_together(result.data, later=later)
    assert peak["spinn-run"] <= 4
    assert peak["spinn-strips"] <= 6 * 6 + 2 * 6 + 4


def test_the_users_input_is_not_changed(volume):
    before = volume.copy(deep=True)

    def spoil(batch):
        batch *= 0
        return batch

    volume.spinn.predict(spoil, patch=PATCH)
    volume.chunk(64).spinn.predict(spoil, patch=PATCH, blocks=-1).compute()
    xr.testing.assert_identical(volume, before)
