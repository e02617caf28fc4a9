"""Against the untiled network: the job of the benchmarks, faces included."""

import numpy as np
import pytest
import torch
import xarray as xr
from helpers.networks import UNet3d

import xspinn  # noqa: F401 - registers .spinn


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_default_window_comes_close_to_the_untiled_network(tmp_path):
    torch.manual_seed(0)
    model = UNet3d()
    values = np.random.default_rng(0).standard_normal((256, 256, 256), dtype=np.float32)
    with torch.inference_mode():
        whole = model.eval()(torch.from_numpy(values)[None, None])[0, 0].numpy()
    volume = xr.DataArray(values, dims=("z", "y", "x"))
    patch = {"z": 64, "y": 64, "x": 64}
    plan = volume.spinn.plan(model, patch=patch, overlap=16)
    assert plan.n_patches == 125
    result = volume.spinn.predict(model, patch=patch, overlap=16)
    error = (result.values - whole) / whole.std()
    rmse = float(np.sqrt((error.astype("f8") ** 2).mean()))
    print(f"\nRMSE {rmse:.5f} sd, greatest {np.abs(error).max():.4f} sd")  # noqa: T201
    assert rmse <= 0.0008
