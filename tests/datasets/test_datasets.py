"""The image, the planted hits and the trained network that the demo and the docs use."""

from __future__ import annotations

import pickle
import subprocess
import sys
from importlib.metadata import PackageNotFoundError

import numpy as np
import pytest
import torch
import xarray as xr

from xspinn.datasets import cosmic_ray_model, hubble, plant_hits, score_hits
from xspinn.datasets.cosmic_rays import CosmicRayUNet


@pytest.fixture(scope="module")
def network() -> CosmicRayUNet:
    return cosmic_ray_model()


def flag(network: CosmicRayUNet, image: xr.DataArray) -> xr.DataArray:
    with torch.inference_mode():
        probability = network(torch.from_numpy(image.to_numpy())[None, None])[0, 0]
    return image.copy(data=probability.numpy() > 0.5)


def test_import_is_light() -> None:
    code = (
        "import sys, xspinn.datasets\n"
        "print([m for m in ('torch', 'skimage', 'matplotlib', 'deepCR') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_hubble_is_labelled() -> None:
    image = hubble()
    assert image.dims == ("y", "x")
    assert image.shape == (872, 1000)
    assert image.dtype == np.float32
    assert 0 <= float(image.min()) < 10
    assert 200 < float(image.max()) <= 255
    assert image.attrs["units"] == "count"
    assert image["y"].attrs["units"] == image["x"].attrs["units"] == "pixel"
    assert float(image.sel(y=10, x=20)) == float(image[10, 20])


def test_hubble_without_scikit_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "skimage.data", None)
    with pytest.raises(ModuleNotFoundError, match="pip install scikit-image"):
        hubble()


@pytest.mark.parametrize("n", [0, 1, 60])
@pytest.mark.parametrize("seed", [0, 1])
def test_hits_are_as_promised(n: int, seed: int) -> None:
    clean = xr.DataArray(
        np.full((200, 300), 7, dtype="int16"),
        dims=("row", "column"),
        coords={"row": np.arange(200) * 0.5},
        attrs={"units": "count"},
    )
    before = clean.copy(deep=True)
    image, truth = plant_hits(clean, n, seed)
    xr.testing.assert_identical(clean, before)
    assert image.attrs == clean.attrs
    assert image.dtype == np.float32
    assert truth.dtype == bool
    assert truth.dims == image.dims
    xr.testing.assert_identical(truth["row"], image["row"])
    added = image - clean
    np.testing.assert_array_equal(added != 0, truth)
    for hit in range(1, n + 1):
        y, x = np.nonzero(truth["hit"].to_numpy() == hit)
        assert 1 <= len(y) <= 7
        assert max(np.ptp(y), np.ptp(x)) < 7
        counts = added.to_numpy()[y, x]
        assert len(np.unique(counts)) == 1
        assert 60 <= counts[0] <= 600
    assert int(truth["hit"].max()) == n


def test_hits_do_not_touch() -> None:
    _, truth = plant_hits(xr.DataArray(np.zeros((100, 100)), dims=("y", "x")), n=80)
    number = np.pad(truth["hit"].to_numpy(), 1)
    for dy, dx in [(0, 1), (1, 0), (1, 1), (1, -1)]:
        neighbour = np.roll(number, (dy, dx), axis=(0, 1))
        both = (number > 0) & (neighbour > 0)
        np.testing.assert_array_equal(number[both], neighbour[both])


def test_hits_depend_on_the_seed_only() -> None:
    image = hubble()
    xr.testing.assert_identical(plant_hits(image, 20, 3)[0], plant_hits(image, 20, 3)[0])
    assert not plant_hits(image, 20, 3)[1].equals(plant_hits(image, 20, 4)[1])


def test_hits_need_room_and_two_dims() -> None:
    with pytest.raises(ValueError, match=r"no room for hit .* of 8 by 9 pixels; ask for fewer"):
        plant_hits(xr.DataArray(np.zeros((8, 9)), dims=("y", "x")), n=50)
    with pytest.raises(ValueError, match=r"got dims \('t', 'y', 'x'\)"):
        plant_hits(xr.DataArray(np.zeros((2, 8, 9)), dims=("t", "y", "x")))


def test_score_counts_hits_and_pixels() -> None:
    number = np.zeros((6, 8), dtype=int)
    number[0, 0:4], number[2, 2], number[4, 1:4] = 1, 2, 3
    truth = xr.DataArray(number > 0, dims=("y", "x"), coords={"hit": (("y", "x"), number)})
    mask = xr.zeros_like(truth)
    mask[0, 0:2] = True  # half of hit 1
    mask[4, 1] = True  # a third of hit 3
    mask[5, 5] = True  # nothing there
    score = score_hits(mask.transpose("x", "y"), truth)
    assert (score.hits, score.hits_found) == (3, 1)
    assert (score.pixels, score.pixels_found, score.pixels_false) == (8, 3, 1)
    assert score.recall == 3 / 8
    assert score.precision == 3 / 4


def test_network_finds_hits_on_the_whole_image(network: CosmicRayUNet) -> None:
    clean = hubble()
    image, truth = plant_hits(clean)
    score = score_hits(flag(network, image), truth)
    assert score.hits == 200
    assert score.hits_found >= 195
    assert score.recall >= 0.97
    assert score.precision >= 0.93
    assert int(flag(network, clean).sum()) <= 10


def test_network_is_ready_to_use(network: CosmicRayUNet) -> None:
    assert not network.training
    assert "deepCR" not in sys.modules
    assert "learned_models" not in sys.modules
    image = torch.rand(2, 1, 32, 48) * 200
    again = pickle.loads(pickle.dumps(network))
    with torch.inference_mode():
        probability = network(image)
        torch.testing.assert_close(again(image), probability, rtol=0, atol=0)
    assert probability.shape == image.shape
    assert 0 <= float(probability.min()) <= float(probability.max()) <= 1


def test_network_sees_nine_pixels_far(network: CosmicRayUNet) -> None:
    image = torch.rand(1, 1, 64, 64) * 50
    for row in (31, 32):
        image.requires_grad_()
        image.grad = None
        network(image)[0, 0, row, row].backward()
        assert image.grad is not None
        seen = image.grad[0, 0].nonzero() - row
        assert int(seen.abs().max()) <= 9


@pytest.mark.parametrize("weights", ["decam.pth", "example_model.pth"])
def test_other_weights_of_the_same_shape(weights: str) -> None:
    assert isinstance(cosmic_ray_model(weights), CosmicRayUNet)


def test_weights_of_another_network() -> None:
    with pytest.raises(ValueError, match=r"'ACS-WFC\.pth'"):
        cosmic_ray_model("WFC3-UVIS.pth")


def test_missing_weights_name_those_there_are() -> None:
    with pytest.raises(FileNotFoundError, match=r"no weights 'M31.pth'.*ACS-WFC.pth, "):
        cosmic_ray_model("M31.pth")


def test_missing_package_names_the_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise PackageNotFoundError(name)

    monkeypatch.setattr("xspinn.datasets.deep_field.distribution", missing)
    with pytest.raises(ModuleNotFoundError, match=r"pip install --no-deps deepCR==0\.3\.1"):
        cosmic_ray_model()
