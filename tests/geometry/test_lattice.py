"""The lattice of one dim, and what lies beyond an array's faces."""

from itertools import pairwise

import numpy as np
import pytest
from helpers.strategies import boundaries
from hypothesis import given
from hypothesis import strategies as st

from xspinn.geometry.axis import Axis
from xspinn.geometry.lattice import extended_indices, patch_starts, resolve_overlap


@given(st.data(), st.integers(1, 20), boundaries, st.sampled_from([1, 2, 3, 4]))
def test_every_voxel_is_covered_and_starts_are_aligned(data, units, boundary, align):
    patch = units * align
    overlap = align * data.draw(st.integers(0, units - 1))
    least = units if boundary == "none" else 1
    size = data.draw(st.integers(least, least + 60)) * (align if boundary == "none" else 1)
    starts = patch_starts(size, patch, overlap, boundary, align)
    assert all(s % align == 0 for s in starts)
    assert all(0 < b - a <= patch - overlap for a, b in pairwise(starts))
    covered = np.zeros(size, int)
    for s in starts:
        covered[max(s, 0) : max(s + patch, 0)] += 1
        assert s < size
        assert s + patch > 0
    assert covered.min() >= 1
    if boundary == "none":
        assert starts[0] == 0
        assert starts[-1] + patch == size
    else:
        assert starts[0] == -align * -(-(overlap // 2) // align)


@given(st.integers(1, 9), st.integers(0, 30), st.integers(0, 30))
@pytest.mark.parametrize(
    ("boundary", "mode"), [("reflect", "symmetric"), ("nearest", "edge"), ("periodic", "wrap")]
)
def test_extension_is_that_of_numpy(boundary, mode, size, before, after):
    at = extended_indices(-before, size + after, size, boundary)
    np.testing.assert_array_equal(at, np.pad(np.arange(size), (before, after), mode=mode))


def test_no_origin_outside_for_constants():
    assert extended_indices(-2, 4, 3, 0.0).tolist() == [-1, -1, 0, 1, 2, -1]


@given(st.floats(0, 1, exclude_max=True), st.integers(1, 200), st.integers(1, 8))
def test_fractions_of_the_patch(fraction, units, align):
    patch = units * align
    overlap = resolve_overlap(fraction, patch, align)
    assert 0 <= overlap < patch
    assert (patch - overlap) % align == 0
    assert abs(overlap - fraction * patch) <= align


def test_without_alignment_any_voxel_may_be_a_start():
    assert resolve_overlap(0.25, 9) == 2
    assert patch_starts(9, 5, 3, "reflect") == (-1, 1, 3, 5)
    axis = Axis("x", 9, 5, 3, "reflect")
    assert axis.align == 1
    assert axis.starts == (-1, 1, 3, 5)
