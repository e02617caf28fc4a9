"""The accessor's methods are the functions, and a request holds what they take."""

import dataclasses
import inspect
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
import xarray as xr

import xspinn
from xspinn import api
from xspinn.accessor import Spinn
from xspinn.docstrings import without_parameter
from xspinn.errors import PlanError
from xspinn.plans.request import Request

VERBS = api.__all__


@pytest.fixture
def image():
    return xr.DataArray(np.zeros((32, 32), "float32"), dims=("y", "x"))


@pytest.mark.parametrize("verb", VERBS)
def test_methods_take_what_the_functions_take_but_the_array(verb, image):
    function, method = getattr(xspinn, verb), getattr(image.spinn, verb)
    own, others = inspect.signature(method), inspect.signature(function)
    assert list(own.parameters.values()) == list(others.parameters.values())[1:]
    assert own.return_annotation == others.return_annotation


@pytest.mark.parametrize("verb", VERBS)
def test_methods_say_what_the_functions_say_but_of_the_array(verb, image):
    function, method = getattr(xspinn, verb), getattr(image.spinn, verb)
    assert "    obj : " in function.__doc__
    assert method.__doc__ == without_parameter(function.__doc__, "obj")
    for name in inspect.signature(method).parameters:
        assert f"    {name} : " in method.__doc__
    assert "{parameters}" not in method.__doc__


@pytest.mark.parametrize("verb", VERBS)
def test_functions_take_a_request_with_its_defaults(verb):
    parameters = inspect.signature(getattr(xspinn, verb)).parameters
    for field in dataclasses.fields(Request):
        missing = field.default is dataclasses.MISSING
        default = inspect.Parameter.empty if missing else field.default
        assert parameters[field.name].default == default
        assert parameters[field.name].annotation == field.type
        assert parameters[field.name].kind is inspect.Parameter.KEYWORD_ONLY


def test_completion_knows_the_methods(image):
    assert {"plan", "predict"} <= set(dir(image.spinn))
    assert Spinn.predict.__name__ == "predict"


@pytest.mark.slow
def test_type_checkers_know_what_methods_take(tmp_path):
    (tmp_path / "use.py").write_text(
        "import xarray as xr\nfrom xspinn.accessor import DataArraySpinn\n"
        "spinn = DataArraySpinn(xr.DataArray())\n"
        "reveal_type(spinn.plan(None, patch={'y': 16}, overlap=4))\n"
        "spinn.plan(None, pach={'y': 16})\n"
    )
    command = [sys.executable, "-m", "mypy", "--strict", str(tmp_path / "use.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert 'Revealed type is "xspinn.plans.plan.Plan"' in done.stdout
    assert 'Unexpected keyword argument "pach"' in done.stdout


def test_a_method_refuses_what_the_function_refuses(image):
    with pytest.raises(TypeError, match="unexpected keyword argument 'pach'"):
        image.spinn.predict(torch.nn.ReLU(), pach={"y": 16})


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"batch": 0}, "batch=0: expected a positive number of patches"),
        ({"batch": True}, "batch=True"),
        ({"combine": "median"}, "combine='median' is not known"),
        ({"precision": "int4"}, "precision='int4' is not known"),
        ({"tune": {"treads": 2}}, "tune names 'treads'"),
    ],
)
def test_a_request_checks_what_needs_no_array(wrong, said):
    with pytest.raises(PlanError, match=said):
        Request(patch={"y": 16}, **wrong)


def test_a_request_is_a_value():
    request = Request(patch={"y": 16, "x": 16}, overlap=4)
    assert request == pickle.loads(pickle.dumps(request))
    assert request != dataclasses.replace(request, overlap=5)
    with pytest.raises(dataclasses.FrozenInstanceError):
        request.overlap = 5
