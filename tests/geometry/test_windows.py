"""Weights: a partition of unity, whatever the window."""

import numpy as np
import pytest
from helpers.strategies import cases
from hypothesis import given
from hypothesis import strategies as st

from xspinn.errors import PlanError
from xspinn.geometry.windows import WINDOWS, partition_of_unity, resolve_window


def total(axis, window):
    weights = partition_of_unity(window, axis.starts, axis.patch, axis.size)
    out = np.zeros(axis.size)
    for start, weight in zip(axis.starts, weights, strict=True):
        for v, value in enumerate(weight):
            if 0 <= start + v < axis.size:
                out[start + v] += value
            else:
                assert value == 0
    return out


@given(cases())
def test_weights_sum_to_one_everywhere(case):
    sums = np.ones(())
    for axis in case.axes():
        sums = np.multiply.outer(sums, total(axis, axis.window))
    np.testing.assert_allclose(sums, 1, rtol=0, atol=1e-12)


@given(cases(max_ndim=1), st.data())
def test_weights_of_the_users_own_too_even_zero_at_the_rim(case, data):
    (axis,) = case.axes()
    values = data.draw(
        st.lists(st.sampled_from([0.0, 1e-300, 0.3, 1.0, 7.0]), min_size=axis.patch,
                 max_size=axis.patch).filter(any)
    )  # fmt: skip
    window = resolve_window(values, axis.patch, "x")
    np.testing.assert_allclose(total(axis, window), 1, rtol=0, atol=1e-12)


def test_the_only_patch_at_a_face_counts_fully():
    for window in WINDOWS:
        first, *_, last = partition_of_unity(window, (0, 6, 12), 8, 20)
        assert first[0] == 1
        assert last[-1] == 1


def test_ramp_is_narrow_and_in_the_middle():
    first, second = partition_of_unity("ramp", (0, 48), 64, 112)
    assert (first[:54] == 1).all()
    assert (first[58:] == 0).all()
    assert (second[10:] == 1).all()
    np.testing.assert_allclose(first[54:58], [0.962, 0.691, 0.309, 0.038], atol=1e-3)


def test_ramp_moves_with_the_shifted_last_patch():
    *_, last = partition_of_unity("trim", (0, 48, 56), 64, 120)
    assert np.flatnonzero(last)[0] == (48 + 64 + 56) // 2 - 56


def test_functions_of_the_patch_size():
    np.testing.assert_array_equal(resolve_window(np.hanning, 5, "x"), np.hanning(5))


@pytest.mark.parametrize(
    ("window", "match"),
    [
        ("boxcar", "not known; give one of"),
        ([1, 1], r"shape \(2,\), but the patch has 3"),
        ([1, -1, 1], "finite and not negative"),
        ([0, 0, 0], "above zero"),
        ([1, np.nan, 1], "finite"),
    ],
)
def test_windows_that_cannot_be(window, match):
    with pytest.raises(PlanError, match=match):
        resolve_window(window, 3, "x")
