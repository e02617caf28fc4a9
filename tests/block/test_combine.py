"""Patches are weighed and summed up, and what is settled leaves its block finished."""

import pickle
import sys
from itertools import product

import numpy as np
import pytest
import torch
import xarray as xr
from dask.sizeof import sizeof
from helpers.reference import brute_force
from helpers.strategies import cases, chunked_cases, splits
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import xspinn
from xspinn.block.classes import greatest
from xspinn.block.sums import MANY, Sums
from xspinn.block.written import Written
from xspinn.errors import SpinnWarning
from xspinn.plans.exchange import Layout

RULES = pytest.mark.parametrize("combine", ["soft", "hard"])


def scores(batch):
    """Three scores that depend on value and place, and are never equal."""
    slope = np.linspace(-1, 1, batch[0].size).reshape(batch.shape[1:])
    return np.concatenate([batch + slope, 0.3 - batch, np.sin(5 * batch) + 0.1 * slope], axis=1)


def rough_scores(batch):
    """Three scores with many ties, and NaN here and there."""
    first = np.round(batch)
    second = np.where(batch > 1.2, np.nan, np.round(-batch))
    return np.concatenate([first, second, np.zeros_like(first)], axis=1)


@RULES
@given(case=cases(max_ndim=2), data=st.data())
@settings(max_examples=20)
def test_classes_are_the_same_in_any_blocks_and_by_brute_force(combine, case, data):
    array = case.array()
    arguments = {**case.arguments, "combine": combine}
    blocks = {dim: splits(data.draw, size) for dim, size in case.shape.items()}
    parts = array.spinn.predict(scores, **arguments, blocks=blocks, batch=3)
    whole = array.spinn.predict(scores, **arguments, blocks=-1)
    np.testing.assert_array_equal(parts, whole)
    np.testing.assert_array_equal(whole, brute_force(array.values, case, scores, combine))


@RULES
@given(case_and_chunks=chunked_cases(max_ndim=2), data=st.data())
@settings(max_examples=10)
def test_settling_at_once_changes_no_bit(combine, case_and_chunks, data):
    """Against a block that hands over all its sums, which numpy finishes afterwards."""
    case, chunks = case_and_chunks
    dims = data.draw(st.permutations([*case.shape, "time"]))
    array = case.array("float32").expand_dims(time=2).transpose(*dims)
    blocks = {**chunks, "time": 1}
    laid_out = Layout.of

    def unsettled(plan, output, block):
        layout = laid_out(plan, output, block)
        return Layout(layout.box, layout.chunk, None, (layout.box,))

    arguments = {**case.arguments, "combine": combine, "blocks": blocks}
    plan = array.spinn.plan(rough_scores, **arguments)
    assume(plan.spills(plan.outputs[0]))
    with xspinn.set_options(check_nan=False), pytest.MonkeyPatch.context() as patch:
        lazy = array.chunk().spinn.predict(rough_scores, **arguments)
        settled = lazy.compute(scheduler="sync")
        patch.setattr(Layout, "of", unsettled)
        np.testing.assert_array_equal(settled, lazy.compute(scheduler="sync"))


@given(chunked_cases(max_ndim=3), st.sampled_from(["mean", "soft"]))
@settings(max_examples=30)
def test_settled_is_what_no_neighbour_writes_into(case_and_chunks, combine):
    case, chunks = case_and_chunks
    plan = case.array().spinn.plan(scores, **case.arguments, combine=combine, blocks=chunks)
    (output,) = plan.outputs
    prints = plan.footprints(output)
    writers = np.zeros([p.size for p in prints], int)
    leaving = 0
    for block in np.ndindex(*plan.block_grid):
        writes = [p.writes[k] for p, k in zip(prints, block, strict=True)]
        writers[tuple(slice(lo, hi) for lo, hi in writes)] += 1
    for block in np.ndindex(*plan.block_grid):
        layout = Layout.of(plan, output, block)
        origin = [p.writes[k][0] for p, k in zip(prints, block, strict=True)]
        seen = np.zeros([hi for _, hi in layout.box], int)
        for box in (*layout.open, *([layout.settled] if layout.settled else [])):
            seen[tuple(slice(lo, hi) for lo, hi in box)] += 1
        assert (seen == 1).all()
        settled = np.zeros(seen.shape[1:], bool)
        if layout.settled is not None:
            settled[tuple(slice(lo, hi) for lo, hi in layout.settled[1:])] = True
        alone = np.zeros_like(settled)
        own = tuple(slice(lo, hi) for lo, hi in layout.chunk[1:])
        chunk = tuple(slice(p.bounds[k], p.bounds[k + 1])
                      for p, k in zip(prints, block, strict=True))  # fmt: skip
        alone[own] = writers[chunk] == 1
        if combine == "soft" or not plan.spills(output):
            np.testing.assert_array_equal(settled, alone, err_msg=str((block, origin)))
        else:
            assert not settled.any()
        width = 1 if plan.rule.classes else 3 * 8
        leaving += int(settled.sum()) * width + int((~settled).sum()) * 3 * 8
    assert plan.leaving_bytes == leaving


# -- bytes -----------------------------------------------------------------------------------


def test_of_many_classes_little_leaves_a_block():
    volume = xr.DataArray(np.zeros((192, 192, 192), "float32"), dims=("z", "y", "x"))
    model = torch.nn.Conv3d(1, 32, 1)
    patch = dict.fromkeys(volume.dims, 64)
    arguments = {"patch": patch, "overlap": 16}
    floats = 32 * 4 * volume.size
    for combine in ("soft", "hard"):
        plan = volume.spinn.plan(model, **arguments, combine=combine, blocks=96)
        assert plan.n_blocks == 8
        assert plan.leaving_bytes < floats / 3
        assert plan.spill_bytes < plan.leaving_bytes
        mean = volume.spinn.plan(model, **arguments, combine="mean", blocks=96)
        assert plan.peak_bytes() < 0.75 * mean.peak_bytes()
        single = volume.spinn.plan(model, **arguments, combine=combine, blocks=-1)
        assert single.leaving_bytes == volume.size
    assert mean.leaving_bytes == floats + mean.spill_bytes


def test_what_leaves_a_block_weighs_what_it_holds():
    arrays = [np.zeros((100, 100), dtype) for dtype in ("u1", "f4", "f4")]
    written = Written(arrays[0], tuple(arrays[1:]))
    assert written.nbytes == 90_000
    assert 90_000 < sys.getsizeof(written) < 90_500
    assert 90_000 < sizeof((written,)) < 91_000
    buffers = []
    inside = pickle.dumps(written, protocol=5, buffer_callback=buffers.append)
    assert len(inside) < 1000
    again = pickle.loads(inside, buffers=buffers)
    assert again.nbytes == written.nbytes
    assert Written(None, ()).nbytes == 0


# -- votes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 2, 7, 255, 256, 300])
def test_the_lowest_of_equal_classes_is_the_greatest(channels):
    """As for numpy, NaN among them, however the channels lie in memory."""
    rng = np.random.default_rng(channels)
    for nan in (False, True):
        values = rng.integers(0, 3, (channels, 5, 6, 70)).astype("float32")
        values[rng.random(values.shape) < 0.002 * nan] = np.nan
        for dim, order in product(range(4), [(0, 1, 2, 3), (1, 2, 3, 0), (3, 2, 1, 0)]):
            stored = torch.from_numpy(values.transpose(order).copy())
            tensor = stored.permute([order.index(k) for k in range(4)]).movedim(0, dim)
            highest, labels = greatest(tensor, dim)
            np.testing.assert_array_equal(labels, values.argmax(0))
            np.testing.assert_array_equal(highest, values.max(0))


def test_ties_go_to_the_lowest_class():
    """Four patches of equal weight share voxels: 2 of them vote for class 1, 2 for class 2."""
    calls = []

    def model(batch):
        found = np.zeros((len(batch), 3, *batch.shape[2:]), "float32")
        for one in found:
            one[2 - len(calls) // 2 % 2] = 1
            calls.append(1)
        return found

    array = xr.DataArray(np.zeros((6, 6), "float32"), dims=("y", "x"))
    array.spinn.plan(model, patch={"y": 4, "x": 4}, overlap=2)
    calls.clear()
    lazy = array.chunk().spinn.predict(
        model, patch={"y": 4, "x": 4}, overlap=2, window="uniform", combine="hard", batch=1
    )
    calls.clear()
    assert (lazy.compute(scheduler="sync")[2:4, 2:4] == 1).all()


@pytest.mark.parametrize("blocks", [-1, 12])
@RULES
def test_nan_is_no_vote_and_warns(combine, blocks):
    def model(batch):
        low, high = np.zeros_like(batch), np.where(batch == 9, np.nan, 1)
        return np.concatenate([low, low - 1, high], axis=1).astype("float32")

    array = xr.DataArray(np.zeros((24, 24), "float32"), dims=("y", "x"))
    array[5, 7] = array[13, 13] = 9
    with pytest.warns(SpinnWarning, match="y=5:6, x=7:8|y=13:14, x=13:14") as caught:
        result = array.spinn.predict(
            model, patch={"y": 8, "x": 8}, overlap=4, combine=combine, blocks=blocks
        )
    assert len(caught) == 1
    assert {int(result[5, 7]), int(result[13, 13])} == {255}
    assert int((result != 2).sum()) == 2


# -- sums ------------------------------------------------------------------------------------


def summed(plan, tensor, batch=2):
    """Sums of a plan of one block, over the same answer for every patch."""
    total = Sums(plan, plan.outputs[0], (0,) * len(plan.axes), 1, torch.device("cpu"))
    items = [(0, numbers, ()) for numbers in np.ndindex(*plan.lattice_shape)]
    for first in range(0, len(items), batch):
        part = items[first : first + batch]
        total.add(tensor.expand(len(part), *tensor.shape), part)
    return total


def plan_of(channels, dtype=None, **arguments):
    volume = xr.DataArray(np.zeros((20, 20, 20), "float32"), dims=("z", "y", "x"))
    model = torch.nn.Conv3d(1, channels, 1).to(dtype)
    patch = {"z": 8, "y": 8, "x": 8}
    return volume.spinn.plan(
        model, patch=patch, overlap=4, window="gaussian", blocks=-1, **arguments
    )


@pytest.mark.parametrize("channels", [3, MANY])
@pytest.mark.parametrize("combine", ["mean", "hard", "max"])
def test_layout_and_batch_change_no_bit(channels, combine):
    plan = plan_of(channels, combine=combine)
    answer = torch.randn(channels, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    expected = summed(plan, answer, batch=1).array
    for order in ((1, 2, 3, 0), (3, 2, 1, 0)):
        stored = answer.permute(order).contiguous()
        other = stored.permute([order.index(k) for k in range(4)])
        assert torch.equal(summed(plan, other, batch=5).array, expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_summed_in_single(dtype):
    plan = plan_of(2, dtype)
    answer = torch.randn(2, 8, 8, 8, generator=torch.Generator().manual_seed(0)).to(dtype)
    total = summed(plan, answer)
    assert total.array.dtype == torch.float32
    assert torch.equal(total.array, summed(plan, answer.float()).array)
    if dtype == torch.float16:
        assert plan.outputs[0].dtype == "float16"
        written = total.pack([tensor.numpy() for tensor in total.tensors()])
        np.testing.assert_array_equal(written.settled, total.array.numpy().astype("float16"))


def test_the_first_nan_is_found():
    plan = plan_of(2)
    answer = torch.zeros(2, 8, 8, 8)
    total = summed(plan, answer)
    assert not bool(total.tensors()[0])
    assert total.first_nan() is None
    answer[1, 3, 4, 5] = torch.nan
    total = summed(plan, answer)
    assert bool(total.tensors()[0])
    assert total.first_nan() == (1, 3, 4, 5)
