"""Blocks share the patches out, read their halos and hand on their spill."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
from helpers.strategies import cases, splits
from hypothesis import given
from hypothesis import strategies as st

from xspinn.geometry.axis import Axis
from xspinn.geometry.windows import WINDOWS
from xspinn.plans.blocks import choose_blocks
from xspinn.plans.bounds import given_blocks, uniform_bounds


@given(cases(max_ndim=1), st.data(), st.sampled_from([Fraction(1), Fraction(2), Fraction(3)]))
def test_blocks_cover_every_patch_and_voxel_once(case, data, scale):
    axis = given_blocks(case.axes()[0], splits(data.draw, case.axes()[0].size))
    assert axis.patches[0][0] == 0
    assert axis.patches[-1][1] == len(axis.starts)
    assert all(a[1] == b[0] for a, b in zip(axis.patches, axis.patches[1:], strict=False))
    out = axis.footprint(scale)
    assert sum(out.chunks) == out.size == axis.size * scale
    for k, (first, stop) in enumerate(axis.patches):
        lo, hi = axis.reads[k]
        write_lo, write_hi = out.writes[k]
        assert write_lo == out.bounds[k], "a block never writes before its chunk"
        assert write_hi >= out.bounds[k + 1]
        assert k in out.targets[k]
        for n in range(first, stop):
            assert lo <= axis.starts[n]
            assert axis.starts[n] + axis.patch <= hi
            a, b = out.supports[n]
            assert a == b or (write_lo <= a and b <= write_hi)
            touched = {
                j for j in range(axis.n_blocks) if a < out.bounds[j + 1] and b > out.bounds[j]
            }
            assert touched <= set(out.targets[k]) or a == b
        for j in out.targets[k]:
            assert k in out.sources[j]


@given(st.data(), st.integers(1, 4), st.sampled_from(WINDOWS), st.sampled_from(["none", "reflect"]))
def test_what_is_settled_nobody_else_writes_into(data, shrink, window, boundary):
    """Also of an output coarser than its input, whose ramps begin before the chunk."""
    patch = data.draw(st.integers(1, 6))
    overlap = data.draw(st.integers(0, patch - 1))
    size = data.draw(st.integers(patch, 24))
    bounds = (0, *np.cumsum(splits(data.draw, size)).tolist())
    axis = Axis(
        "x",
        shrink * size,
        shrink * patch,
        shrink * overlap,
        boundary,
        window,
        align=shrink,
        bounds=tuple(shrink * b for b in bounds),
    )
    out = axis.footprint(Fraction(1, shrink))
    for k, (lo, hi) in enumerate(out.settled):
        chunk = range(*out.bounds[k : k + 2])
        others = [range(*span) for j, span in enumerate(out.writes) if j != k]
        alone = {x for x in chunk if not any(x in other for other in others)}
        assert alone == set(range(lo, hi))


def test_settled_ends_where_a_later_block_begins_to_write():
    axis = Axis("x", 64, 16, 12, align=2, bounds=(0, 32, 64))
    out = axis.footprint(Fraction(1, 2))
    assert out.writes == ((0, 19), (15, 32))
    assert out.settled == ((0, 15), (19, 32))


@given(cases(max_ndim=3), st.integers(1, 30), st.integers(1, 5000))
def test_chosen_blocks_are_uniform_and_reach_one_neighbour(case, chunk, budget):
    def n_bytes(axes):
        return 8 * int(np.prod([axis.chunks[0] for axis in axes]))

    axes = choose_blocks(case.axes(), [chunk] * len(case.patch), n_bytes, budget)
    for axis in axes:
        assert len(set(axis.chunks[:-1])) <= 1
        assert axis.chunks[-1] <= axis.chunks[0]
        assert axis.n_blocks == 1 or max(axis.halo) <= axis.chunks[0]


def test_spill_of_the_default_is_thin():
    axis = Axis("x", 960, 64, 16)
    (plain,) = choose_blocks([axis], [100], lambda axes: 0, 1)
    assert plain.chunks == (96,) * 10
    assert plain.footprint(Fraction(1)).writes[4] == (4 * 96, 5 * 96 + 10)
    # An extended array has its patches two voxels before the bounds: chunks that follow them.
    (extended,) = choose_blocks([replace(axis, boundary="reflect")], [100], lambda axes: 0, 1)
    spill = [
        hi - b
        for (_, hi), b in zip(
            extended.footprint(Fraction(1)).writes, extended.bounds[1:], strict=True
        )
    ]
    assert extended.chunks[0] in (94, 95)
    assert max(spill) < 30


def test_nothing_spills_where_trimmed_patches_meet_at_the_bounds():
    axis = Axis("x", 960, 64, 16, "reflect", "trim", bounds=uniform_bounds(960, 96))
    targets = axis.footprint(Fraction(1)).targets
    assert all(target == (k,) for k, target in enumerate(targets))
