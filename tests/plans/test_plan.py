"""A plan says everything before anything runs."""

import json
import pickle

import numpy as np
import pytest
import torch
import xarray as xr
from dask.utils import key_split
from torch import nn

import xspinn
from xspinn.plans.job import Job
from xspinn.plans.sheet import format_bytes
from xspinn.plans.tuning import Asked

PATCH = {"z": 64, "y": 64, "x": 64}


@pytest.fixture
def volume():
    return xr.DataArray(
        np.zeros((256, 256, 256), "float32"), dims=("z", "y", "x"), coords={"z": np.arange(256)}
    ).chunk(96)


@pytest.fixture
def plan(volume):
    return volume.spinn.plan(nn.Conv3d(1, 2, 3, padding=1), patch=PATCH, overlap=16, combine="soft")


def test_what_it_says(plan):
    text = repr(plan)
    assert text.splitlines() == [
        f"<xspinn.Plan {plan.fingerprint[:8]}>",
        "  dim  size  patch  overlap  patches  blocks  block  boundary  window",
        "  z     256     64       16        5       3     96  none      ramp",
        "  y     256     64       16        5       3     96  none      ramp",
        "  x     256     64       16        5       3     96  none      ramp",
        "input:      float32, 64.0 MiB, fed as float32",
        "patches:    125 in batches of 4",
        "model:      float32, torch's defaults",
        f"blocks:     27 of up to {format_bytes(plan.block_bytes)}",
        f"read twice: {format_bytes(plan.halo_bytes)} of halo",
        f"spill:      {format_bytes(plan.spill_bytes)} to neighbours",
        f"peak:       {format_bytes(plan.peak_bytes())} a worker, and the model's own",
        "combine:    soft",
        "output:     (z: 256, y: 256, x: 256) of 2 classes uint8",
    ]
    html = plan._repr_html_()
    for word in ("<table>", "125 in batches of 4", "float32", "<td>ramp</td>"):
        assert word in html


def test_html_escapes_what_users_name(volume):
    array = volume.isel(z=0, y=slice(64), x=slice(64)).rename(y="<y>")
    plan = array.spinn.plan(nn.Identity(), patch={"<y>": 32, "x": 32})
    assert "<td>&lt;y&gt;</td>" in plan._repr_html_()


def test_its_bytes_are_those_of_the_blocks(plan):
    read = 0
    for block in np.ndindex(*plan.block_grid):
        box = plan.read_box(block)
        read += 4 * np.prod([min(hi, 256) - max(lo, 0) for lo, hi in box.values()])
    assert plan.read_bytes == read
    assert plan.halo_bytes == read - 256**3 * 4
    # Two blocks of three hand 10 voxels on, along each dim.
    assert plan.spill_bytes == 2 * 4 * ((256 + 2 * 10) ** 3 - 256**3)
    assert plan.block_bytes == 4 * 112**3 + 2 * 4 * 106**3
    assert plan.peak_bytes(2) > 2 * plan.peak_bytes(1) // 2


def test_json_is_plain(plan):
    data = json.loads(plan.to_json())
    assert data["axes"][0]["bounds"] == [0, 96, 192, 256]
    assert pickle.loads(pickle.dumps(plan)) == plan
    assert hash(plan) == hash(xspinn.Plan.from_json(plan.to_json()))


def test_fingerprint_tells_plans_apart(volume, plan):
    model = nn.Conv3d(1, 2, 3, padding=1)
    arguments = {"patch": PATCH, "overlap": 16, "combine": "soft"}
    for change in (
        {"overlap": 8}, {"combine": "hard"}, {"window": "trim"}, {"boundary": "reflect"},
        {"batch": 3}, {"blocks": 128}, {"activation": "softmax"}, {"dtype": "int32"},
        {"window": {"z": np.ones(64)}}, {"activation": torch.abs},
    ):  # fmt: skip
        assert volume.spinn.plan(model, **{**arguments, **change}) != plan, change
    assert volume.spinn.plan(model, **arguments) == plan


def test_blocks_follow_chunks_and_budget(volume):
    model = nn.Identity()
    arguments = {"patch": PATCH, "overlap": 16}
    narrow = volume.chunk(48).spinn.plan(model, **arguments, batch=1)
    assert narrow.axes[0].chunks[0] == 48
    assert volume.chunk(130).spinn.plan(model, **arguments).axes[0].chunks[0] == 144
    with xspinn.set_options(block_bytes=8 * 2**20):
        small = volume.chunk(-1).spinn.plan(model, **arguments)
        assert small.block_bytes <= 16 * 2**20
        assert small.n_blocks > 27
    ragged = volume.chunk(z=(100, 3, 153), y=96, x=96).spinn.plan(model, **arguments)
    assert len(set(ragged.axes[0].chunks[:-1])) == 1


def test_looped_dims_fill_the_batches():
    frames = xr.DataArray(np.zeros((50, 40, 48)), dims=("time", "y", "x"))
    seen = []

    def model(batch):
        seen.append(len(batch))
        return batch

    plan = frames.spinn.plan(model, patch={"y": 32, "x": 32}, overlap=8, batch=40)
    assert plan.n_patches == 50 * 4
    seen.clear()
    frames.spinn.predict(model, patch={"y": 32, "x": 32}, overlap=8, batch=40)
    assert seen == [1, 40, 40, 40, 40, 40]


def test_a_large_time_axis_is_cut_before_the_image_is():
    frames = xr.DataArray(np.zeros((400, 64, 64), "float32"), dims=("time", "y", "x"))
    with xspinn.set_options(block_bytes=2**21):
        plan = frames.spinn.plan(nn.Identity(), patch={"y": 32, "x": 32}, overlap=8)
    assert plan.loops[0].chunks[0] < 400
    assert plan.block_bytes <= 2 * 2**21


def test_task_names_are_readable_on_the_dashboard(volume):
    lazy = volume.spinn.predict(nn.Identity(), patch=PATCH, overlap=16)
    names = {key_split(key) for key in dict(lazy.data.dask)}
    assert {"spinn-run", "spinn-strips", "spinn-blend", "spinn-model"} <= names


def test_what_is_not_said_is_the_usual(plan):
    assert Job(plan).check_nan
    asked = Asked((1, 8, 8, 8), "float32", 4, False, 50, 50, 1, "float32", None)
    assert (asked.tune, asked.allocator, asked.workers) == (True, True, 1)
