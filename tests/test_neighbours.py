"""Models that look at their neighbours: the same answer by brute force, as voxel by voxel.

What a model that looks at one voxel at a time returns is right wherever its own voxel is. Here a
voxel's answer is a sum over all voxels of its patch, of which no two weigh the same: wherever a
halo, a boundary, a shift, a flip or a channel is wrong, at however far a face, the answer differs.
"""

import itertools
import math

import dask.array as da
import numpy as np
import pytest
import xarray as xr
from helpers.reference import brute_force, lattice
from helpers.strategies import Case, cases, splits
from hypothesis import given, settings
from hypothesis import strategies as st

import xspinn

FEWER = settings(max_examples=max(10, settings().max_examples // 4))


def looking(batch):
    """Return three channels: weighted sums of what lies beside a voxel, and of the whole patch.

    Patches are padded with a value of their own, so that it tells too where a patch ends.
    """
    core = batch.shape[2:]
    padded = np.pad(batch, [(0, 0), (0, 0), *[(1, 1)] * len(core)], constant_values=0.7)
    place = np.linspace(0.5, 1.5, math.prod(core)).reshape(core)
    shifts = list(itertools.product(range(3), repeat=len(core)))
    weights = np.random.default_rng(0).uniform(-1, 1, (3, batch.shape[1], len(shifts) + 1))
    found = (batch * place).sum(tuple(range(2, batch.ndim)), keepdims=True)
    found = np.einsum("oc,bc...->bo...", weights[..., -1] / math.prod(core), found)
    for n, shift in enumerate(shifts):
        box = tuple(slice(at, at + size) for at, size in zip(shift, core, strict=True))
        found = found + np.einsum("oc,bc...->bo...", weights[..., n], padded[(..., *box)])
    return found * place


def folded(case):
    """The same case with fewer voxels, where brute force would take long."""
    patches = math.prod(
        len(lattice(case.shape[d], case.patch[d], case.overlap[d], case.boundary[d]))
        for d in case.patch
    )
    if patches * math.prod(case.patch.values()) <= 2000:
        return case
    return Case(dict(case.patch), case.patch, case.overlap, case.window, case.boundary)


def given_as(kind, array, chunks, folder=None):
    """The array in memory, in chunks of dask, or sliced lazily out of what looks like a store."""
    if kind == "memory":
        return array
    if kind == "dask":
        return array.copy(data=da.from_array(array.values, 1).rechunk(tuple(chunks.values())) + 0)
    return array.copy(data=da.from_array(Store(array.values), tuple(chunks.values()), name=False))


class Store:
    """What can be sliced, as an array of zarr can."""

    def __init__(self, values):
        self.values = values
        self.shape, self.dtype, self.ndim = values.shape, values.dtype, values.ndim

    def __getitem__(self, box):
        return self.values[box]


def check(result, expected, combine, mean=None):
    if combine in ("mean", "max"):
        np.testing.assert_allclose(result.transpose("channel", ...), expected, atol=1e-10)
    elif combine == "hard":
        np.testing.assert_array_equal(result, expected)
    else:  # where sums tie to rounding, either class is right
        chosen = np.take_along_axis(mean, result.values[None].astype(int), 0)[0]
        np.testing.assert_allclose(chosen, mean.max(0), atol=1e-10)


@pytest.mark.parametrize("combine", ["mean", "soft", "hard", "max"])
@given(case=cases(max_ndim=3).map(folded), data=st.data())
@FEWER
def test_brute_force_gives_the_same_answer(combine, case, data):
    array = case.array()
    kind = data.draw(st.sampled_from(["memory", "dask", "store"]))
    chunks = {dim: splits(data.draw, size) for dim, size in case.shape.items()}
    blocks = {dim: splits(data.draw, size) for dim, size in case.shape.items()}
    options = {**case.arguments, "combine": combine, "blocks": blocks}
    result = given_as(kind, array, chunks).spinn.predict(looking, **options, batch=2)
    expected = brute_force(array.values, case, looking, combine)
    mean = brute_force(array.values, case, looking, "mean") if combine == "soft" else None
    check(result.compute(scheduler="sync"), expected, combine, mean)


@given(case=cases(max_ndim=2).map(folded), data=st.data())
@FEWER
def test_with_channels_and_loops_in_any_order(case, data):
    """Patch's dims in another order than the array's, and other dims among them."""
    sizes = {**case.shape, "time": 2, "band": 2}
    core = data.draw(st.permutations(list(case.patch)))
    patch = {dim: case.patch[dim] for dim in core}
    dims = data.draw(st.permutations(list(sizes)))
    values = np.random.default_rng(0).standard_normal([sizes[dim] for dim in dims])
    array = xr.DataArray(values, dims=dims)
    chunks = {dim: splits(data.draw, sizes[dim]) for dim in dims}
    kind = data.draw(st.sampled_from(["memory", "dask", "store"]))
    options = {**case.arguments, "patch": patch, "channel": "band", "output": "band"}
    with xspinn.set_options(block_bytes=data.draw(st.sampled_from([500, 10_000]))):
        result = given_as(kind, array, chunks).spinn.predict(looking, **options)
    result = result.compute(scheduler="sync")
    assert result.dims == array.dims
    ordered = Case({d: sizes[d] for d in core}, patch, case.overlap, case.window, case.boundary)
    for time in range(2):
        seen = array.isel(time=time).transpose("band", *core).values
        expected = brute_force(seen, ordered, looking, "mean")
        found = result.isel(time=time).transpose("band", *core)
        np.testing.assert_allclose(found, expected, atol=1e-10)


@pytest.mark.parametrize("size", [3, 9])
def test_corners_beyond_two_faces_of_different_boundaries(size):
    """Dims leave the array one after the other: where two do, the last one's constant wins."""
    case = Case(
        {"y": size, "x": size}, {"y": 3, "x": 4}, {"y": 2, "x": 3}, "gaussian",
        {"y": 5.0, "x": -3.0},
    )  # fmt: skip
    array = case.array()
    for boundary in ({"y": 5.0, "x": -3.0}, {"y": 5.0, "x": "reflect"}, {"y": "periodic", "x": 2}):
        mixed = Case(case.shape, case.patch, case.overlap, case.window, boundary)
        expected = brute_force(array.values, mixed, looking, "mean")
        for kind in ("memory", "dask", "store"):
            chunked = given_as(kind, array, {"y": size, "x": size})
            result = chunked.spinn.predict(looking, **mixed.arguments, blocks=4)
            np.testing.assert_allclose(
                result.compute(scheduler="sync").transpose("channel", ...), expected, atol=1e-10
            )
