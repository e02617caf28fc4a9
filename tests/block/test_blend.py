"""Strips are added to a block's sums, and to a copy of them."""

import numpy as np
import pytest
import torch
import xarray as xr

from xspinn.block.blend import add_strips, cut_strips
from xspinn.block.running import run_block
from xspinn.models import as_model
from xspinn.plans.exchange import exchange_of
from xspinn.plans.job import Job


@pytest.mark.parametrize("combine", ["mean", "max", "soft", "hard"])
def test_what_a_block_wrote_stays_as_it_is(combine):
    """Dask hands one result to several tasks, and runs a task again whose result it lost."""
    image = xr.DataArray(np.random.default_rng(0).random((24, 24)), dims=("y", "x"))
    model = as_model(torch.nn.Conv2d(1, 3, 1).double().requires_grad_(False))
    arguments = {"patch": {"y": 8, "x": 8}, "overlap": 4, "window": "linear", "combine": combine}
    plan = image.spinn.plan(model, **arguments, blocks=12)
    exchange = exchange_of(plan, 0)
    written, strips = {}, {}
    for index in exchange.blocks():
        block = plan.block_at(index)
        box = tuple(slice(*span) for span in plan.read_box(block).values())
        written[index] = run_block(Job(plan), model, image.values[box], block)
        strips[index] = cut_strips(plan, 0, index, 0, written[index])
    before = {index: [sums.copy() for sums in one[0].sums] for index, one in written.items()}

    def blended():
        return {
            index: add_strips(
                plan, 0, index, written[index], [strips[other] for other in exchange.sources(index)]
            )
            for index in exchange.blocks()
        }

    first, second = blended(), blended()
    assert any(exchange.sources(index) for index in first)
    for index in first:
        np.testing.assert_array_equal(first[index], second[index])
        for sums, kept in zip(written[index][0].sums, before[index], strict=True):
            np.testing.assert_array_equal(sums, kept)
