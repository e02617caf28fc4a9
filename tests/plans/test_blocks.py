"""Blocks follow the chunks of the input, hold a batch, and stay within their budget."""

import itertools
import math
from dataclasses import replace

import dask.array as da
import numpy as np
import pytest
import xarray as xr
from helpers.strategies import cases
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import xspinn
from xspinn.geometry.axis import Axis
from xspinn.plans.blocks import make_blocks
from xspinn.plans.parts import Loop

TILING = {"patch": {"y": 256, "x": 256}, "overlap": 64, "tune": False}


def raster(*shape, chunks=256):
    return xr.DataArray(da.zeros(shape, chunks=chunks, dtype="float32"), dims=("y", "x"))


def held(axes, loops):
    """Patches of every block that is no last one of a dim."""
    inner = [[b - a for a, b in axis.patches[:-1] or axis.patches] for axis in axes]
    loop = math.prod(loop.chunks[0] for loop in loops)
    return [loop * math.prod(patches) for patches in itertools.product(*inner)]


def test_blocks_in_chunks_of_one_stride_hold_a_batch():
    plan = raster(2048, 1900).spinn.plan(nn.Identity(), **TILING)
    assert plan.batch == 16
    assert min(held(plan.axes, plan.loops)) == 16
    assert plan.n_blocks == 9
    assert plan.halo_bytes < 0.15 * plan.input_bytes
    assert [axis.chunks for axis in plan.axes] == [(768, 768, 512), (768, 768, 364)]


def test_blocks_that_hold_a_batch_follow_the_chunks():
    wide = raster(4096, 4096, chunks=1024).spinn.plan(nn.Identity(), **TILING)
    assert [axis.chunks[0] for axis in wide.axes] == [960, 960]
    one = raster(2048, 1900).spinn.plan(nn.Identity(), **TILING, batch=1)
    assert [axis.chunks[0] for axis in one.axes] == [192, 192]


def test_blocks_hold_no_more_than_their_budget_for_a_batch():
    with xspinn.set_options(block_bytes=4 * 2**20):
        plan = raster(2048, 1900).spinn.plan(nn.Identity(), **TILING)
        assert 1 < max(held(plan.axes, plan.loops)) < 16
        assert plan.block_bytes <= 4 * 2**20
        large = raster(2048, 1900).spinn.plan(nn.Identity(), **TILING, batch=10**9)
        assert large.block_bytes <= 4 * 2**20


def test_looped_dims_with_chunks_fill_a_batch_too():
    frames = xr.DataArray(da.zeros((50, 40, 48), chunks=(3, 40, 48)), dims=("time", "y", "x"))
    tiling = {"patch": {"y": 32, "x": 32}, "overlap": 8}
    plan = frames.spinn.plan(nn.Identity(), **tiling, batch=40)
    assert plan.loops[0].chunks == (12, 12, 12, 12, 2)  # four patches a frame, chunks of 3
    asked = frames.spinn.plan(nn.Identity(), **tiling, batch=40, blocks={"time": 5})
    assert asked.loops[0].chunks == (5,) * 10


def test_the_blocks_that_are_given_for_looped_dims_count_for_the_budget():
    frames = xr.DataArray(np.zeros((64, 96, 96), "float32"), dims=("time", "y", "x"))
    with xspinn.set_options(block_bytes=2**21):
        plan = frames.spinn.plan(
            nn.Identity(), patch={"y": 32, "x": 32}, overlap=8, blocks={"time": 64}
        )
    assert plan.loops[0].chunks == (64,)
    assert plan.block_bytes <= 2**21


def test_a_long_dim_of_small_patches_is_planned_in_few_steps(monkeypatch):
    signal = xr.DataArray(da.zeros(10**6, chunks=100, dtype="float32"), dims="x")
    tried = []

    def gaps(axis, bounds):
        tried.append(1)
        return np.zeros(1)

    monkeypatch.setattr(Axis, "gaps", gaps)
    plan = signal.spinn.plan(nn.Identity(), patch={"x": 16}, overlap=4, tune=False)
    assert plan.batch == 2**16
    assert len(tried) < 100


@given(cases(max_ndim=3), st.data())
def test_blocks_cover_fit_and_hold_a_batch_where_the_budget_lets_them(case, data):
    align = data.draw(st.sampled_from([1, 1, 2]))
    axes = tuple(scaled(axis, align) for axis in case.axes())
    looped = data.draw(st.sampled_from([{}, {"time": 5}, {"time": 5, "band": 3}]))
    sizes = {axis.dim: axis.size for axis in axes} | looped
    chunk = st.one_of(st.none(), st.integers(1, 30))
    chunks = {
        dim: None if (n := data.draw(chunk)) is None else min(n, m) for dim, m in sizes.items()
    }
    batch, budget = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 20_000))
    made, loops = make_blocks(axes, looped, chunks, None, 8, budget, batch)
    before, _ = make_blocks(axes, looped, chunks, None, 8, budget, 1)

    parts: list[Axis | Loop] = [*made, *loops]
    for part in parts:
        assert part.bounds[0] == 0
        assert part.bounds[-1] == part.size
        assert len(set(part.chunks[:-1])) <= 1, "regular"
        assert 0 < part.chunks[-1] <= part.chunks[0]
    for axis in made:
        assert all(bound % align == 0 for bound in axis.bounds[:-1])
        assert axis.n_blocks == 1 or max(axis.halo) <= axis.chunks[0]

    def n_bytes(parts, widths):
        box = math.prod(min(max(axis.chunks) + axis.overlap, axis.size) for axis in parts)
        return 8 * box * math.prod(widths)

    def typical(parts, widths):
        numbers = [
            len(axis.starts) if axis.n_blocks == 1 else axis.patches[-1][0] / (axis.n_blocks - 1)
            for axis in parts
        ]
        return math.prod(map(round, numbers)) * math.prod(widths)

    widths = [loop.chunks[0] for loop in loops]
    if typical(before, widths) >= batch:
        assert made == before, "blocks that hold a batch follow the chunks"
    if made != before:
        assert n_bytes(made, widths) <= budget
    if typical(made, widths) < batch and budget > 0:
        for k, axis in enumerate(made):
            whole = [*made[:k], replace(axis, bounds=(0, axis.size)), *made[k + 1 :]]
            assert axis.n_blocks == 1 or n_bytes(whole, widths) > budget


def scaled(axis, times):
    """The same axis for a model that returns one voxel for several."""
    if times == 1:
        return axis
    sizes = {name: times * getattr(axis, name) for name in ("size", "patch", "overlap")}
    return replace(axis, **sizes, align=times)


@pytest.mark.parametrize("batch", [1, 4, 9])
@pytest.mark.parametrize("patch", [16, 24, 32, 48, 64])
def test_chunks_of_32_give_blocks_of_whole_strides(patch, batch):
    for overlap in (0, 4, 8):
        axes = [Axis(dim, 256, patch, overlap) for dim in ("y", "x")]
        made, _ = make_blocks(axes, {}, {"y": 32, "x": 32}, None, 8, 10**9, batch)
        assert all(axis.n_blocks == 1 or axis.chunks[0] % axis.stride == 0 for axis in made)
