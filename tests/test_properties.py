"""What must hold for every array, patch, overlap, window, boundary, chunking and block."""

import itertools

import numpy as np
import pytest
import torch
import xarray as xr
from helpers.reference import brute_force, lattice
from helpers.strategies import Case, cases, chunked_cases, splits
from hypothesis import given
from hypothesis import strategies as st

import xspinn


def tilted(batch):
    """Return a model whose answer depends on where in the patch a voxel lies."""
    slope = np.linspace(0.5, 1.5, batch[0].size, dtype=batch.dtype).reshape(batch.shape[1:])
    return np.tanh(batch) * slope


def classes(batch):
    """Return three scores that depend on value and place, with many ties."""
    slope = np.linspace(-1, 1, batch[0].size).reshape(batch.shape[1:])
    first = np.round(batch + slope, 1)
    return np.concatenate([first, np.round(-batch, 1), np.zeros_like(first)], axis=1)


@given(cases())
def test_identity_model_returns_its_input(case):
    array = case.array()
    result = array.spinn.predict(torch.nn.Identity(), **case.arguments)
    assert result.dims == array.dims
    np.testing.assert_allclose(result, array, rtol=0, atol=1e-12)


@given(chunked_cases())
def test_identity_model_returns_its_input_from_dask(case_and_chunks):
    case, chunks = case_and_chunks
    array = case.array()
    with xspinn.set_options(block_bytes=500):
        lazy = array.chunk(chunks).spinn.predict(torch.nn.Identity(), **case.arguments)
    np.testing.assert_allclose(lazy.compute(scheduler="sync"), array, rtol=0, atol=1e-12)


@given(cases(), st.data())
def test_result_is_the_same_for_any_blocks(case, data):
    array = case.array("float32")
    whole = array.spinn.predict(tilted, **case.arguments, blocks=-1)
    blocks = {dim: splits(data.draw, size) for dim, size in case.shape.items()}
    batch = data.draw(st.integers(1, 7))
    parts = array.spinn.predict(tilted, **case.arguments, blocks=blocks, batch=batch)
    np.testing.assert_allclose(parts, whole, rtol=0, atol=1e-6)


@given(chunked_cases())
def test_result_is_the_same_for_any_chunks_bit_for_bit(case_and_chunks):
    case, chunks = case_and_chunks
    array = case.array("float32")
    with xspinn.set_options(block_bytes=2000):
        lazy = array.chunk(chunks).spinn.predict(tilted, **case.arguments)
    blocks = dict(zip(lazy.dims, lazy.chunks, strict=True))
    eager = array.spinn.predict(tilted, **case.arguments, blocks=blocks)
    np.testing.assert_array_equal(lazy.compute(scheduler="sync"), eager)
    whole = array.spinn.predict(tilted, **case.arguments, blocks=-1)
    np.testing.assert_allclose(eager, whole, rtol=0, atol=1e-6)


@given(chunked_cases(max_ndim=2), st.data())
def test_blocks_may_be_narrower_than_halos_from_dask_too(case_and_chunks, data):
    case, chunks = case_and_chunks
    array = case.array("float32")
    blocks = {dim: splits(data.draw, size) for dim, size in case.shape.items()}
    lazy = array.chunk(chunks).spinn.predict(tilted, **case.arguments, blocks=blocks)
    eager = array.spinn.predict(tilted, **case.arguments, blocks=blocks)
    np.testing.assert_array_equal(lazy.compute(scheduler="sync"), eager)


@given(cases(max_ndim=3), st.data())
def test_every_value_lands_at_its_coordinate(case, data):
    """Dims in any order, looped dims and channels among them, coordinates of any spacing."""
    sizes = {**case.shape, "time": 2, "band": 3}
    dims = data.draw(st.permutations(list(sizes)))
    codes = np.arange(np.prod(list(sizes.values())), dtype="f8").reshape([sizes[d] for d in dims])
    coords = {dim: np.cumsum(np.arange(size) % 3 + 1.0) for dim, size in sizes.items()}
    array = xr.DataArray(codes, coords=coords, dims=dims)
    lazy = data.draw(st.booleans())
    given_array = array.chunk({dim: splits(data.draw, n) for dim, n in sizes.items()})
    result = (given_array if lazy else array).spinn.predict(
        torch.nn.Identity(), **case.arguments, channel="band", output="band"
    )
    assert (result.chunks is not None) == lazy
    result = result.compute(scheduler="sync")
    assert result.dims == array.dims
    xr.testing.assert_allclose(result.drop_attrs(), array, rtol=1e-12)
    place = {dim: data.draw(st.sampled_from(list(values))) for dim, values in coords.items()}
    assert result.sel(place).item() == pytest.approx(array.sel(place).item(), abs=1e-9)


@given(cases(boundary=st.just("none")), st.data())
def test_every_patch_runs_exactly_once(case, data):
    size = int(np.prod(list(case.shape.values())))
    codes = np.arange(size, dtype="f8").reshape(tuple(case.shape.values()))
    array = xr.DataArray(codes, dims=tuple(case.shape))
    lazy = data.draw(st.booleans())
    if lazy:
        array = array.chunk({dim: splits(data.draw, n) for dim, n in case.shape.items()})
    seen = []

    def model(batch):
        seen.extend(batch.reshape(len(batch), -1)[:, 0].astype(int).tolist())
        return batch

    with xspinn.set_options(block_bytes=data.draw(st.sampled_from([300, 10_000]))):
        job = array.spinn.plan(model, **case.arguments)
        seen.clear()
        result = array.spinn.predict(model, **case.arguments)
    assert seen.pop(0) == 0  # the model was asked once, on zeros
    if lazy:
        assert seen == []
        result.compute(scheduler="sync")
    starts = itertools.product(*(axis.starts for axis in job.axes))
    expected = [int(np.ravel_multi_index(at, codes.shape)) for at in starts]
    assert sorted(seen) == expected
    assert job.n_patches == len(expected)


@given(chunked_cases())
def test_as_many_patches_run_as_the_lattice_has_under_any_boundary(case_and_chunks):
    case, chunks = case_and_chunks
    seen = []

    def model(batch):
        seen.append(len(batch))
        return batch

    with xspinn.set_options(block_bytes=1000):
        lazy = case.array().chunk(chunks).spinn.predict(model, **case.arguments)
    seen.clear()
    lazy.compute(scheduler="sync")
    starts = itertools.product(
        *(lattice(case.shape[d], case.patch[d], case.overlap[d], case.boundary[d])
          for d in case.patch)
    )  # fmt: skip
    assert sum(seen) == len(list(starts))


@given(chunked_cases(), st.sampled_from(["mean", "max", "soft", "hard"]))
def test_plan_to_json_and_back_is_the_identity(case_and_chunks, combine):
    case, chunks = case_and_chunks
    array = case.array("float32").chunk(chunks).expand_dims(time=2)
    job = array.spinn.plan(classes, **case.arguments, combine=combine, batch=3)
    again = xspinn.Plan.from_json(job.to_json())
    assert again == job
    assert again.axes == job.axes
    assert again.outputs == job.outputs
    assert again.fingerprint == job.fingerprint
    assert repr(again) == repr(job)


@pytest.mark.parametrize("combine", ["mean", "soft", "hard", "max"])
@given(case=cases(max_ndim=3), data=st.data())
def test_brute_force_gives_the_same_answer(combine, case, data):
    if np.prod(list(case.patch.values())) * case.array().size > 5000:
        case = Case(dict(case.patch), case.patch, case.overlap, case.window,
                    case.boundary)  # fmt: skip
    array = case.array()
    blocks = {dim: splits(data.draw, size) for dim, size in case.shape.items()}
    result = array.spinn.predict(classes, **case.arguments, combine=combine, blocks=blocks)
    expected = brute_force(array.values, case, classes, combine)
    if combine in ("mean", "max"):
        np.testing.assert_allclose(result.transpose("channel", ...), expected, atol=1e-12)
    elif combine == "hard":
        np.testing.assert_array_equal(result, expected)
    else:
        # Scores have many exact ties; where sums tie to rounding, either class is right.
        mean = brute_force(array.values, case, classes, "mean")
        chosen = np.take_along_axis(mean, result.values[None].astype(int), 0)[0]
        np.testing.assert_allclose(chosen, mean.max(0), atol=1e-12)
