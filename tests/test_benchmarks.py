"""Every benchmark runs at a small size, and finds what it should."""

from __future__ import annotations

import itertools

import pytest
from benchmarks import combine, counts, delivery, gpu, graphs, imports, memory, ratio

SIZES = {
    2: {"size": 96, "chunk": 32, "patch": 16, "overlap": 4, "blocks": 24},
    3: {"size": 48, "chunk": 16, "patch": 8, "overlap": 2, "blocks": 12},
}


def every(params):
    names = {"ids": lambda values: "-".join(map(str, values))}
    return pytest.mark.parametrize("params", list(itertools.product(*params)), **names)


def started(kind, params, **attrs):
    job = kind()
    for name, value in attrs.items():
        assert hasattr(job, name)
        setattr(job, name, value)
    job.setup(*params)
    return job


@every(counts.Patches.params)
def test_every_patch_runs_once(params):
    job = started(counts.Patches, params, sizes=SIZES)
    assert job.track_patches_run_over_lattice(*params) == 1
    job.teardown(*params)


@every(counts.Patches.params)
def test_few_tasks_a_block(params):
    job = started(counts.Tasks, params, sizes=SIZES)
    raw, best = job.track_tasks_raw(*params), job.track_tasks_optimised(*params)
    # Run, strips (two in a volume) and blend, and what all blocks share.
    assert 0 < best <= raw
    if params[1] == "store":
        assert raw < params[0] + 1 + 30 / job.plan.n_blocks
    job.teardown(*params)


@every(counts.Patches.params)
def test_bytes_of_halo_and_spill(params):
    job = started(counts.Bytes, params, sizes=SIZES)
    assert job.track_halo(*params) > 0
    assert 0 < job.track_spill_measured(*params) == job.track_spill(*params)
    job.teardown(*params)


@every(counts.Leaving.params)
def test_bytes_that_leave_a_block(params):
    job = started(counts.Leaving, params, size=48, patch=16, overlap=8, blocks=24)
    measured = job.track_leaving_measured(*params)
    assert measured == job.track_leaving(*params)
    if params[0] != "mean":
        mean = started(counts.Leaving, ("mean", params[1]), size=48, patch=16, overlap=8, blocks=24)
        assert measured < mean.track_leaving(*params)


@every([combine.Combine.params])
def test_share_of_combining(params):
    job = started(combine.Combine, params, size=32, patch=16, overlap=8, classes=3, rounds=1)
    assert 0 < job.track_combine_share(*params) < 1
    assert job.track_combine_seconds(*params) > 0
    expected = (32,) * 3 if params[0] in ("soft", "hard") else (3, 32, 32, 32)
    assert job.written.settled.shape == expected


@every(graphs.Graph.params)
def test_graphs_are_built(params):
    job = started(graphs.Graph, params, blocks=3)
    assert job.time_plan(*params).n_blocks == 27
    assert job.time_plan_and_graph(*params).shape == (288,) * 3
    raw = job.n_tasks
    job.time_optimise(*params)
    assert 27 <= job.n_tasks <= raw
    job.teardown(*params)


@pytest.mark.slow
def test_models_are_delivered_once():
    job = started(delivery.Delivery, (), n_weights=2_500_000)
    assert job.track_graph_bytes_for_weights() < 1000
    assert job.track_builds() == 2
    assert 1 < job.track_bytes_between_workers() < 1.1
    assert job.image.shape == (128, 128)


@pytest.mark.slow
def test_pauses_of_a_scheduler_are_noticed():
    job = started(delivery.Scheduler, (), n_weights=2_500_000)
    assert len(job.pauses) > 1
    assert job.track_longest_pause() == max(job.pauses)
    assert job.track_longest_pause_over_wall() > 0
    assert job.track_bytes_on_wires() > 1


def test_a_gpu_is_measured_as_the_cpu_is():
    spec = gpu.Gpu.spec._replace(size=48, patch=16, overlap=4, chunk=24, base=2, batch=2)
    job = started(gpu.Gpu, (), device="cpu", spec=spec, precision="float32")
    assert job.plan.n_blocks == 8
    assert job.track_model_time_over_wall() > 0
    assert job.track_serial_loop_over_predict() > 0
    assert job.track_runs_that_differ() == 0
    assert 1 < job.track_bytes_over_input_and_output() < 10


def test_import_is_light():
    assert imports.timeraw_import_xspinn() == "import xspinn"
    assert imports.track_heavy_modules() == 0


def test_ratios():
    job = started(ratio.Wall, (), size=32, patch=16, overlap=4, chunk=16, base=2, rounds=1)
    assert len(job.patches) == 27
    assert job.track_predict_over_model_alone() > 0
    assert job.track_recipe_over_predict() > 0


def test_recipe_runs_more_patches():
    job = started(ratio.Patches, (), size=64, patch=16, overlap=4, chunk=32)
    assert job.track_predict() == 1
    assert job.track_recipe() == 216 / 125


def test_recipe_gives_the_input_back():
    job = started(ratio.Patches, (), size=32, patch=16, overlap=4, chunk=16)
    found = job.recipe(lambda patches: patches)
    assert abs(found - job.volume.to_numpy()).max() < 1e-5


@pytest.mark.slow
def test_peak_memory(tmp_path):
    for source, window in itertools.product(memory.SOURCES, memory.WINDOWS):
        volume = tmp_path / "volume.zarr"
        if not volume.exists():
            memory.write_volume(volume, 24, chunk=8)
        found = memory.measure(volume, window, source, blocks=12, patch=8, overlap=2, live=True)
        assert found["blocks"] == 8
        assert 0 < found["before"] < found["peak"]
        assert found["live"]["spinn-run"] > 0
