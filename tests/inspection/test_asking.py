"""A model is asked what it returns, on one patch, and what cannot be told is refused."""

import numpy as np
import pytest
import torch
import xarray as xr
from helpers.networks import OneSize
from torch import nn

from xspinn.errors import ModelError
from xspinn.inspection.one_patch import OnePatch
from xspinn.models import as_model

PATCH = {"y": 16, "x": 16}


@pytest.fixture
def image():
    values = np.random.default_rng(0).random((48, 64), "float32") + 0.1
    return xr.DataArray(values, dims=("y", "x"))


def in_logs(batch):
    if batch.min() <= 0:
        raise ValueError("no logarithm of zero")
    return np.log(batch)


def test_a_function_that_fails_on_zeros_is_asked_with_noise(image):
    result = image.spinn.predict(in_logs, patch=PATCH, overlap=4)
    np.testing.assert_allclose(result, np.log(image), atol=1e-5)


def test_a_function_that_returns_nothing_for_zeros_is_asked_with_noise(image):
    result = image.spinn.predict(lambda x: x if x.any() else None, patch=PATCH)
    np.testing.assert_allclose(result, image, atol=1e-6)


def test_a_function_that_fails_on_noise_too_says_why_it_failed_on_zeros(image):
    def model(batch):
        raise ValueError("noise" if batch.any() else "zeros, as they are")

    with pytest.raises(ModelError, match="ValueError: zeros, as they are"):
        image.spinn.predict(model, patch=PATCH)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "int16", "uint8", "bool", "c8"])
def test_noise_is_the_same_each_time_of_the_dtype_and_not_zero(dtype):
    one = OnePatch(as_model(np.abs), PATCH, 2, np.dtype(dtype), None, None)
    noise = one.noise()
    assert noise.shape == (1, 2, 16, 16)
    assert noise.numpy().dtype == dtype
    assert torch.equal(noise, one.noise())
    assert not torch.equal(noise, one.noise(seed=1))
    assert dtype == "bool" or (noise.numpy().real > 0).all()


CROPS = {
    "one convolution": nn.Conv2d(1, 2, 9),
    "several": nn.Sequential(*(nn.Sequential(nn.Conv2d(1, 1, 3), nn.Tanh()) for _ in range(4))),
    "smooth": nn.AvgPool2d(9, stride=1),
    "to a quarter": nn.AvgPool2d(13, stride=1),
    "with strides inside": nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3),
        nn.Upsample(scale_factor=2), nn.Conv2d(4, 1, 3),
    ),
    "nothing but a crop": nn.ZeroPad2d(-4),
}  # fmt: skip

SCALES = {
    "one convolution": nn.Conv2d(1, 2, 2, stride=2),
    "padded": nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.Tanh(), nn.Conv2d(4, 1, 3, 2, 1)),
    "a mean": nn.AvgPool2d(4),
    "the greatest": nn.MaxPool2d(2),
    "to one voxel": nn.AvgPool2d(16),
    "finer": nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.PixelShuffle(2)),
}


@pytest.mark.parametrize("kind", CROPS)
def test_a_model_of_one_size_that_crops_is_not_taken_for_a_scale(image, kind):
    torch.manual_seed(0)
    with pytest.raises(ModelError, match=r"16 voxels of dim 'y' into .*may crop.*dynamic sizes"):
        image.spinn.predict(OneSize(CROPS[kind], (16, 16)), patch=PATCH)


@pytest.mark.parametrize("kind", SCALES)
def test_a_model_of_one_size_may_have_a_scale(image, kind):
    torch.manual_seed(0)
    result = image.spinn.predict(OneSize(SCALES[kind], (16, 16)), patch=PATCH)
    free = image.spinn.predict(SCALES[kind], patch=PATCH)
    xr.testing.assert_allclose(result.drop_attrs(), free.drop_attrs())


def test_a_model_of_one_size_may_crop_along_one_dim_alone(image):
    model = OneSize(nn.Conv2d(1, 1, (2, 9), stride=(2, 1)), (16, 16))
    with pytest.raises(ModelError, match="16 voxels of dim 'x' into 8"):
        image.spinn.predict(model, patch=PATCH)


def test_a_model_of_one_size_whose_values_do_not_tell_is_refused(image):
    class Constant(nn.Module):
        def forward(self, x):
            return 0 * x[..., ::2, ::2]

    with pytest.raises(ModelError, match="its values do not tell"):
        image.spinn.predict(OneSize(Constant(), (16, 16)), patch=PATCH)


def test_every_output_of_a_model_of_one_size_is_looked_at(image):
    class Two(nn.Module):
        def forward(self, x):
            half = nn.functional.avg_pool2d(x, 2)
            return {"scaled": half, "cropped": x[..., 4:-4, 4:-4]}

    with pytest.raises(ModelError, match="in output 'cropped'"):
        image.spinn.plan(OneSize(Two(), (16, 16)), patch=PATCH)
