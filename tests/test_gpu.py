"""On a GPU: the same answers as on the CPU, bit for bit from run to run, whatever fits.

Left out unless asked for with ``pytest -m gpu`` on a machine that has one. The parts that need no
GPU are tested in test_lanes.py and test_halving.py.
"""

import numpy as np
import pytest
import torch
import xarray as xr
from helpers.networks import UNet3d

import xspinn

pytestmark = pytest.mark.gpu

OPTIONS = {"patch": {"z": 32, "y": 32, "x": 32}, "overlap": 8, "device": "cuda"}


@pytest.fixture(scope="module")
def volume():
    values = np.random.default_rng(0).standard_normal((96, 80, 100)).astype("float32")
    return xr.DataArray(values, dims=("z", "y", "x"))


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return UNet3d(8).eval()


@pytest.fixture(autouse=True)
def exact():
    """Convolutions in float32, and not in TF32, as on the CPU."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


@pytest.mark.parametrize("combine", ["mean", "max"])
def test_as_on_the_cpu(volume, network, combine):
    found = volume.spinn.predict(network, combine=combine, **OPTIONS)
    expected = volume.spinn.predict(network, combine=combine, **{**OPTIONS, "device": "cpu"})
    assert float(abs(found - expected).max()) < 1e-4 * float(expected.std())


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_the_same_bit_for_bit_from_run_to_run_and_apart(volume, network, precision):
    options = OPTIONS | {"precision": precision, "blocks": 48}
    lazy = volume.chunk(z=48)
    first = lazy.spinn.predict(network, **options).compute()
    xr.testing.assert_identical(lazy.spinn.predict(network, **options).compute(), first)
    with xspinn.set_options(device_bytes=1):
        apart = lazy.spinn.predict(network, **options).compute()
    xr.testing.assert_allclose(apart, first, atol=1e-6)  # the host rounds products, the GPU may not


def test_classes_are_settled_on_the_device(volume, network):
    def scores(x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, -x, x * 0 + 0.5], 1)

    for combine in ("soft", "hard"):
        found = volume.spinn.predict(scores, combine=combine, **OPTIONS)
        expected = volume.spinn.predict(scores, combine=combine, **{**OPTIONS, "device": "cpu"})
        xr.testing.assert_identical(found, expected)


def test_a_recorded_graph_gives_the_same(volume, network):
    expected = volume.spinn.predict(network, tune=False, batch=4, **OPTIONS)
    found = volume.spinn.predict(network, tune={"cuda_graph": True}, batch=4, **OPTIONS)
    assert float(abs(found - expected).max()) < 1e-5 * float(expected.std())


class Nested(torch.nn.Module):
    """Predicts with another network in its own call, whose blocks need the same GPU."""

    volume = xr.DataArray(np.ones((32, 32, 32), "float32"), dims=("z", "y", "x"))

    def forward(self, x):
        if not x.is_meta:
            inner = torch.nn.Conv3d(1, 1, 3, padding=1)
            self.volume.spinn.predict(inner, **OPTIONS | {"patch": dict.fromkeys("zyx", 16)})
            self.volume.chunk(16).spinn.predict(inner, **OPTIONS, tune=False).compute(
                scheduler="threads"
            )
        return x


@pytest.mark.timeout(120)
def test_a_module_that_predicts_runs_nested(volume):
    """More blocks than may be on the GPU wait for it at the same time."""
    lazy = volume.chunk(32).spinn.predict(Nested(), tune=False, blocks=32, **OPTIONS)
    found = lazy.compute(scheduler="threads", num_workers=8)
    xr.testing.assert_allclose(found, volume, atol=1e-5)


def test_a_block_that_is_forced_out_of_memory_recovers(volume, network):
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    expected = volume.spinn.predict(network, tune=False, batch=1, **OPTIONS)
    used = torch.cuda.memory_reserved()
    torch.cuda.set_per_process_memory_fraction((used + 200 * 2**20) / total)
    try:
        found = volume.spinn.predict(network, tune=False, batch=64, **OPTIONS)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert float(abs(found - expected).max()) < 1e-4 * float(expected.std())
