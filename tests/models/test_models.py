"""Modules and functions: what they are, what stays untouched, how often they are built."""

import copy
import functools
import pickle
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
import xarray as xr
from helpers.networks import Counting, Stages, double
from torch import nn

import xspinn
from xspinn.carriers.names import short
from xspinn.errors import ModelError, SpinnWarning
from xspinn.models import as_model, built
from xspinn.models.formats.function import FunctionModel
from xspinn.models.formats.module import ModuleModel
from xspinn.models.hashing import fingerprint

PATCH = {"y": 8, "x": 8}


@pytest.fixture
def image():
    return xr.DataArray(
        np.random.default_rng(0).standard_normal((20, 24), dtype="float32"), dims=("y", "x")
    )


def state(module):
    flags = [m.training for m in module.modules()]
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    grads = {name: (t.requires_grad, t.device, t.grad) for name, t in tensors.items()}
    return flags, {name: t.detach().clone() for name, t in tensors.items()}, grads


def test_the_users_module_is_never_changed(image):
    module = Stages().train()
    flags, values, grads = state(module)
    attributes = set(vars(module))
    module(torch.zeros(1, 1, 8, 8)).sum().backward()
    flags, values, grads = state(module)
    image.spinn.predict(module, patch=PATCH, overlap=2)
    image.chunk(10).spinn.predict(module, patch=PATCH, overlap=2).compute()
    after = state(module)
    assert after[0] == flags
    assert set(vars(module)) == attributes
    for name, value in values.items():
        assert torch.equal(after[1][name], value)
        assert after[2][name][:2] == grads[name][:2]
        assert after[2][name][2] is grads[name][2]
    module(torch.zeros(2, 1, 8, 8)).sum().backward()  # it can still be trained


def test_it_runs_in_eval_mode(image):
    module = Stages().train()
    result = image.spinn.predict(module, patch=PATCH, overlap=2, window="trim", blocks=-1)
    twin = copy.deepcopy(module).eval()
    with torch.inference_mode():
        first = twin(torch.from_numpy(image.values[None, None, :8, :8]))[0, 0].numpy()
    np.testing.assert_allclose(result[:7, :7], first[:7, :7], atol=1e-6)


def test_a_lazy_result_is_that_of_the_weights_when_it_was_made(image):
    module = nn.Conv2d(1, 1, 1)
    lazy = image.chunk(10).spinn.predict(module, patch=PATCH)
    expected = image.spinn.predict(module, patch=PATCH)
    with torch.no_grad():
        module.weight += 1
    np.testing.assert_allclose(lazy.compute(), expected, atol=1e-6)


def test_hash_tells_models_apart():
    module = Stages()
    key = as_model(module).key
    assert as_model(copy.deepcopy(module)).key == key
    assert as_model(pickle.loads(pickle.dumps(module))).key == key
    assert as_model(copy.deepcopy(module).train()).key == as_model(copy.deepcopy(module).eval()).key
    for change in ("weight", "buffer", "setting"):
        other = copy.deepcopy(module)
        with torch.no_grad():
            if change == "weight":
                other.head.weight[0, 0, 0, 0] += 1e-6
            elif change == "buffer":
                other.offset += 1
            else:
                other.conv.padding = (2, 2)
        assert as_model(other).key != key, change


def test_hash_is_the_same_after_others_looked_at_the_class():
    class Bare(nn.Module):
        def forward(self, x):
            return x

    key = as_model(Bare()).key
    assert Bare.__annotations__ == {}
    assert as_model(Bare()).key == key


def test_hash_tells_code_apart():
    def make(sign):
        class Scale(nn.Module):
            if sign > 0:

                def forward(self, x):
                    return x + 1
            else:

                def forward(self, x):
                    return x - 1

        return Scale()

    assert as_model(make(1)).key == as_model(make(1)).key
    assert as_model(make(1)).key != as_model(make(-1)).key


class Act(nn.Module):
    def __init__(self, act):
        super().__init__()
        self.act = act

    def forward(self, x):
        return self.act(x)


def closing_over(value):
    return lambda x: x * value


shared = nn.Conv2d(1, 1, 1)


class Config:
    def __init__(self, times):
        self.times = times

    def __call__(self, x):
        return x * self.times


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (lambda: Act(torch.exp), lambda: Act(torch.neg)),
        (lambda: Act(closing_over(2)), lambda: Act(closing_over(3))),
        (lambda: Act(functools.partial(torch.mul, other=2)),
         lambda: Act(functools.partial(torch.mul, other=5))),
        (lambda: Act(Config(2)), lambda: Act(Config(3))),
        (lambda: Act(np.float32(2)), lambda: Act(np.float32(9))),
        (lambda: Act({1, 2}), lambda: Act({1, 3})),
        (lambda: nn.Sequential(shared), lambda: nn.Sequential(shared, shared)),
        (lambda: nn.Sequential(shared, shared),
         lambda: nn.Sequential(shared, copy.deepcopy(shared))),
        (lambda: closing_over(2), lambda: closing_over(3)),
        (lambda: closing_over(np.zeros(3)), lambda: closing_over(np.ones(3))),
        (lambda: functools.partial(double, 1), lambda: functools.partial(double, 2)),
        (lambda: Config(2), lambda: Config(3)),
    ],
)  # fmt: skip
def test_hash_tells_settings_apart(one, other):
    assert fingerprint(one()) == fingerprint(one())
    assert fingerprint(one()) != fingerprint(other())


def test_hash_follows_what_a_function_refers_to():
    def make(text):
        scope = {}
        exec(text, scope)
        return scope["model"]

    before = make("def helper(x): return x\ndef model(x): return helper(x)")
    after = make("def helper(x): return -x\ndef model(x): return helper(x)")
    assert fingerprint(before) != fingerprint(after)


def test_what_cannot_be_compared_is_never_equal():
    lock = threading.Lock()
    assert fingerprint(lock) != fingerprint(lock)


def test_modules_that_cannot_travel_are_refused_before_anything_runs(image):
    locked = Act(torch.exp)
    locked.lock = threading.Lock()
    with pytest.raises(ModelError, match="refuses copy"):
        image.chunk(10).spinn.predict(locked, patch=PATCH)


def test_parametrized_modules_run_and_stay_parametrized(image):
    normed = nn.utils.parametrizations.weight_norm(nn.Conv2d(1, 1, 3, padding=1))
    before = normed.weight.detach().clone()
    result = image.spinn.predict(normed, patch={"y": 20, "x": 24}, overlap=0)
    with torch.no_grad():
        wanted = normed(torch.from_numpy(image.values[None, None]))[0, 0]
    np.testing.assert_allclose(result, wanted, atol=1e-6)
    assert nn.utils.parametrize.is_parametrized(normed)
    assert torch.equal(normed.weight, before)
    normed(torch.zeros(1, 1, 8, 8)).sum().backward()  # it can still be trained
    assert normed.parametrizations.weight.original0.grad is not None


def test_a_function_may_itself_predict(image):
    def nested(batch):
        inner = xr.DataArray(batch[:, 0], dims=("n", "y", "x"))
        return inner.spinn.predict(nn.Identity(), patch={"y": 4, "x": 4}, overlap=1).values

    result = image.spinn.predict(nested, patch=PATCH, overlap=2)
    np.testing.assert_allclose(result, image, atol=1e-6)


def test_a_function_may_use_gradients(image):
    def slope(batch):
        x = torch.from_numpy(batch).requires_grad_()
        (x**2).sum().backward()
        return x.grad.numpy()

    result = image.spinn.predict(slope, patch=PATCH, overlap=2)
    np.testing.assert_allclose(result, 2 * image, atol=1e-6)


def test_masked_values_become_nan(image):
    with pytest.warns(SpinnWarning, match="NaN for finite input"):
        result = image.spinn.predict(lambda x: np.ma.masked_less(x, 0), patch=PATCH, window="trim")
    np.testing.assert_array_equal(result, image.where(image >= 0))


def test_hash_is_the_same_in_another_process(tmp_path):
    torch.manual_seed(0)
    module = Stages()
    torch.save(module, tmp_path / "m.pt")
    code = (
        "import sys, torch; sys.path.insert(0, 'tests'); from xspinn.models import as_model;"
        "from helpers import networks;"
        f"print(as_model(torch.load({str(tmp_path / 'm.pt')!r}, weights_only=False)).key,"
        "as_model(networks.double).key)"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.split() == [as_model(module).key, as_model(double).key]


@pytest.mark.parametrize("model", [Stages(), nn.Conv2d(1, 2, 3, padding=1).bfloat16(), double])
def test_handles_survive_pickling(model):
    handle = as_model(model)
    again = pickle.loads(pickle.dumps(handle, protocol=5))
    assert (again.key, again.name, again.n_bytes) == (handle.key, handle.name, handle.n_bytes)
    batch = torch.randn(2, 1, 8, 8)
    cpu = torch.device("cpu")
    with torch.inference_mode():
        one, two = handle.build(cpu)(batch), again.build(cpu)(batch)
    torch.testing.assert_close(torch.as_tensor(one), torch.as_tensor(two), rtol=0, atol=0)


def test_kinds_and_repr():
    assert isinstance(as_model(double), FunctionModel)
    handle = as_model(nn.Conv2d(1, 2, 3))
    assert isinstance(handle, ModuleModel)
    assert handle.n_bytes == 80
    assert repr(handle).startswith("<ModuleModel Conv2d, 80 bytes, hash ")
    assert as_model(handle) is handle


def test_a_process_builds_a_model_once_however_many_threads_ask(image, tmp_path):
    log = tmp_path / "builds"
    handle = as_model(Counting(str(log)))
    with ThreadPoolExecutor(8) as pool:
        ready = set(pool.map(lambda _: built.built_model(handle, torch.device("cpu")), range(32)))
    assert len(ready) == 1
    assert len(log.read_text().split()) == 1


def builds_of(handles):
    before = built.builds()
    for handle in handles:
        built.built_model(handle, torch.device("cpu"))
    return built.builds() - before


def test_the_least_recently_used_models_leave_a_full_device():
    built.release()
    first, second, third = (as_model(nn.Conv2d(1, 1, 1)) for _ in range(3))
    with xspinn.set_options(model_bytes=2 * first.n_bytes):
        assert builds_of([first, second]) == 2
        assert builds_of([first, second, first]) == 0
        assert builds_of([third]) == 1
        assert builds_of([first]) == 0
        assert builds_of([second]) == 1


def test_a_model_larger_than_the_budget_stays_while_it_is_used():
    built.release()
    small, large = as_model(nn.Conv2d(1, 1, 1)), as_model(nn.Conv2d(1, 8, 9))
    with xspinn.set_options(model_bytes=16):
        assert builds_of([small, large, large, large]) == 2
        assert builds_of([small]) == 1


def test_released_models_are_built_again():
    built.release()
    handle = as_model(nn.Conv2d(1, 1, 1))
    assert builds_of([handle, handle]) == 1
    built.release(short(handle.key))
    assert builds_of([handle]) == 1


def test_tied_weights_stay_tied():
    module = nn.Sequential(nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 1))
    module[1].weight = module[0].weight
    handle = as_model(module)
    assert handle.n_bytes == 4 * 3
    batch = torch.ones(1, 1, 2, 2)
    torch.testing.assert_close(handle.build(torch.device("cpu"))(batch), module(batch))
