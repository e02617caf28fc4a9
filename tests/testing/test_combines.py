"""Every combine rule keeps the contract, and what does not is found out."""

import itertools

import numpy as np
import pytest

from xspinn.block import running, sums
from xspinn.geometry import axis
from xspinn.geometry.combine import COMBINES
from xspinn.testing import check_combine


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("channels", [2, 3, 7])
@pytest.mark.parametrize("combine", COMBINES)
def test_every_rule_keeps_the_contract(combine, channels, dtype):
    check_combine(combine, channels=channels, dtype=dtype)


@pytest.mark.parametrize("combine", COMBINES)
def test_weights_that_do_not_sum_to_one_are_found_out(combine, monkeypatch):
    """For a maximum no weight counts but nothing."""

    def spoilt(window, starts, patch, size):
        return tuple(np.arange(1, patch + 1) * weight * (k + 1) for k, weight in
                     enumerate(partition(window, starts, patch, size)))  # fmt: skip

    partition = axis.partition_of_unity
    monkeypatch.setattr(axis, "partition_of_unity", spoilt)
    axis._footprint.cache_clear()
    try:
        if combine == "max":
            check_combine(combine)
        else:
            with pytest.raises(AssertionError, match=f"combine='{combine}': "):
                check_combine(combine)
    finally:
        axis._footprint.cache_clear()


@pytest.mark.parametrize("combine", COMBINES)
def test_a_patch_that_never_runs_is_found_out(combine, monkeypatch):
    items = running._items
    monkeypatch.setattr(running, "_items", lambda *args: itertools.islice(items(*args), 1, None))
    with pytest.raises(AssertionError, match=f"combine='{combine}': "):
        check_combine(combine)


def test_the_last_of_equal_classes_is_found_out(monkeypatch):
    from xspinn.block import classes

    def last(tensor, dim):
        values, labels = tensor.flip(dim).max(dim)
        return values, tensor.shape[dim] - 1 - labels

    monkeypatch.setattr(classes, "greatest", last)
    for combine in ("soft", "hard"):
        with pytest.raises(AssertionError, match=f"combine='{combine}': "):
            check_combine(combine)


def test_a_maximum_in_which_weightless_patches_count_is_found_out(monkeypatch):
    monkeypatch.setattr(sums, "_least", lambda dtype: 0)
    with pytest.raises(AssertionError, match="combine='max'"):
        check_combine("max")
