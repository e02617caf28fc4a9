"""Batches that do not fit are halved, and only they are run again."""

import numpy as np
import pytest
import torch
import xarray as xr

import xspinn

PATCH = {"y": 8, "x": 8}


class Small(torch.nn.Module):
    """A model on a device whose memory holds so many patches."""

    def __init__(self, room, error):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(2.0))
        self.room, self.error = room, error
        self.seen = []

    def forward(self, x):
        if x.device.type == "meta":
            return x * self.weight
        SEEN.append(len(x))
        if len(x) > self.room:
            raise self.error
        return x * self.weight


SEEN: list[int] = []


@pytest.fixture(autouse=True)
def _nothing_seen():
    SEEN.clear()


@pytest.fixture
def image():
    values = np.random.default_rng(0).standard_normal((32, 64)).astype("float32")
    return xr.DataArray(values, dims=("y", "x"))


OUT = [
    torch.OutOfMemoryError("CUDA out of memory"),
    RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
    MemoryError("no more"),
]


@pytest.mark.parametrize("error", OUT, ids=["cuda", "cpu", "python"])
@pytest.mark.parametrize("room", [1, 3, 5])
def test_a_batch_that_does_not_fit_is_halved_and_the_size_remembered(image, error, room):
    found = xspinn.predict(image, Small(room, error), patch=PATCH, overlap=0, batch=8)
    xr.testing.assert_allclose(found, image * 2)
    tried = [n for n in SEEN if n > room]
    assert len(tried) <= 3  # 8, 4 and 2 at most, once: no later batch tries them again
    assert sum(n for n in SEEN if n <= room) == 32  # every patch ran once


@pytest.mark.parametrize("error", OUT, ids=["cuda", "cpu", "python"])
def test_one_patch_that_does_not_fit_is_an_error_with_the_fix(image, error):
    with pytest.raises(xspinn.ModelError, match="does not fit into the memory of cpu: use a small"):
        xspinn.predict(image, Small(0, error), patch=PATCH, overlap=0, batch=8)


def test_other_errors_are_not_taken_for_it(image):
    with pytest.raises(RuntimeError, match="shapes do not match") as caught:
        xspinn.predict(image, Small(1, RuntimeError("shapes do not match")), patch=PATCH, batch=4)
    assert SEEN == [4]
    assert any("in block" in note for note in caught.value.__notes__)


def test_outputs_of_halves_are_put_together_by_name(image):
    class Two(Small):
        def forward(self, x):
            y = super().forward(x)
            return {"one": y, "other": -y[:, 0]}

    found = xspinn.predict(image, Two(2, OUT[0]), patch=PATCH, overlap=0, batch=7)
    xr.testing.assert_allclose(found["one"].rename(None), image * 2)
    xr.testing.assert_allclose(found["other"].rename(None), image * -2)
