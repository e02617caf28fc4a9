"""Every way to do the jobs of `peers` gives the right result, and wrong ones are noticed."""

from __future__ import annotations

import functools
import json
import math

import numpy as np
import pytest
import torch
from benchmarks import peer_jobs, peer_methods, peer_specs, peers

# Networks that look less far, so that small patches do. A whole number of strides, as in the jobs.
SMALL = {
    "volume": {"size": 48, "patch": 24, "overlap": 12, "chunk": 24, "base": 4, "levels": 2},
    "image": {"size": 96, "patch": 32, "overlap": 16, "chunk": 48, "base": 4, "levels": 2},
    "votes": {"size": 48, "patch": 24, "overlap": 12, "chunk": 24, "base": 4, "levels": 1},
}
# Those that are other packages' ways need them.
WAYS = [
    pytest.param(name, id=name, marks=pytest.mark.extras if way.needs else pytest.mark.slow)
    for name, way in peer_specs.WAYS.items()
]


@functools.cache
def small(name):
    """The job and the network on the whole array."""
    job = peer_jobs.Job(peer_specs.JOBS[name]._replace(**SMALL[name]))
    return job, peer_methods.untiled(job)


def bound(job, way):
    known = peer_specs.WAYS[way]
    return known.bound if job.spec.classes == 1 else known.votes_bound


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XSPINN_CACHE", str(tmp_path))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", SMALL)
def test_close_to_the_network_on_the_whole_array(name, way):
    job, whole = small(name)
    job.patches_run = 0
    found = peer_methods.WAYS[way](job)
    assert peer_jobs.error(job, found, whole) <= bound(job, way)
    # Halos and chunks make some ways run patches again.
    again = way in ("torch_em", "map_overlap")
    assert job.patches_run > len(job.boxes) if again else job.patches_run == len(job.boxes)


@pytest.mark.parametrize("way", [way for way in WAYS if not way.id.startswith("xspinn")])
@pytest.mark.parametrize("name", ["image", "votes"])
def test_shifted_patches_are_noticed(name, way):
    job, whole = small(name)
    shifted = peer_jobs.Job(job.spec)
    shifted.array = np.roll(job.array, 1, axis=-1)
    assert peer_jobs.error(job, peer_methods.WAYS[way](shifted), whole) > bound(job, way)


def test_every_class_wins_somewhere():
    job, whole = small("votes")
    counts = np.bincount(whole.ravel(), minlength=job.spec.classes)
    assert counts.min() > whole.size / 20


def test_jobs_keep_their_shares_at_another_size():
    spec = peer_specs.JOBS["volume"].resized(96, 32)
    assert (spec.size, spec.patch, spec.overlap, spec.chunk) == (96, 32, 8, 64)
    assert peer_specs.JOBS["image"].resized(None, None) == peer_specs.JOBS["image"]


def test_a_wrong_result_is_an_error(tmp_path):
    job, whole = small("image")
    reference = tmp_path / "untiled.npy"
    np.save(reference, whole[::-1])
    task = {
        "way": "alone",
        "spec": job.spec,
        "threads": torch.get_num_threads(),
        "runs": 2,
        "slack": 1.0,
        "keep": False,
        "reference": str(reference),
    }
    with pytest.raises(ValueError, match=r"alone differs by .* and 0.01 is allowed"):
        peers.run(task)
    np.save(reference, whole)
    found = peers.run(task)
    assert found["patches"] == len(job.boxes)
    assert min(found["first"], found["seconds"], found["cpu"], found["peak"]) > 0


def test_peers_that_are_missing_are_named(monkeypatch, capsys):
    monkeypatch.setattr("benchmarks.peer_specs.find_spec", lambda name: None)
    assert peer_specs.missing(["alone", "monai", "tiler"]) == ["monai", "tiler"]
    monkeypatch.setattr("sys.argv", ["peers.py", "--methods", "monai"])
    with pytest.raises(SystemExit):
        peers.main()
    assert 'pip install -c constraints.txt -e ".[peers]"' in capsys.readouterr().err
    benchmark = peers.Peers()
    assert benchmark.setup_cache() == {}
    with pytest.raises(NotImplementedError, match="monai"):
        benchmark.setup({}, "volume")


def test_table_and_ratios():
    one = {"first": 3.0, "cpu": 2.0, "patches": 8, "peak": 2**20, "error": 0.001}
    runs = [
        {"way": way, "keep": keep, "seconds": seconds, **one}
        for way, keep, seconds in (
            ("xspinn", False, 1.5),
            ("xspinn", False, 1.0),
            ("monai", False, 4.0),
            ("monai", True, 2.0),
        )
    ]
    best = peers.Best(runs)
    assert best.ratio(("xspinn", False), ("monai", False)) == 0.25
    assert best.ratio(("xspinn", False), ("monai", True)) == 0.5
    assert math.isnan(best.ratio(("xspinn", False), ("alone", False)))
    lines = peers.table(peer_specs.JOBS["volume"], best).splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert lines[2].startswith("| xspinn | 3.00 | 1.00 | 2.00 | 0.25 |")


@pytest.mark.extras
def test_runs_in_processes_of_their_own():
    benchmark = peers.Peers()
    benchmark.params, benchmark.sizes = ("volume",), ((32, 16),)
    benchmark.rounds, benchmark.slack = 1, 100.0  # the network looks further than such patches
    found = benchmark.setup_cache()
    benchmark.setup(found, "volume")
    assert benchmark.track_xspinn_over_monai(found, "volume") > 0
    assert benchmark.track_xspinn_over_fastest_alone(found, "volume") > 0
    assert benchmark.track_xspinn_over_monai_that_keeps_memory(found, "volume") > 0
    assert json.dumps(found["volume"].runs["monai", True])
