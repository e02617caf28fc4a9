"""What must not change unnoticed: public names, fingerprints, keys, names of tasks, answers."""

import importlib
import inspect
import json
import pkgutil

import numpy as np
import pytest
from helpers import golden
from helpers.public import FILE, MODULES, public_names

import xspinn

HOW = "If this is meant, read the docstring of tests/helpers/{}.py, which says what to do."


def test_public_names_and_signatures_are_those_written_down():
    assert public_names() == FILE.read_text(), HOW.format("public")


@pytest.mark.parametrize("name", golden.JOBS)
def test_plans_keys_and_names_of_tasks_are_those_written_down(name):
    known = json.loads((golden.FOLDER / "jobs.json").read_text())
    assert golden.facts(name) == known[name], HOW.format("golden")


@pytest.mark.parametrize("name", golden.JOBS)
def test_answers_are_those_written_down(name):
    known = np.load(golden.FOLDER / "answers.npz")
    for key, found in golden.answers(name).items():
        assert found.dtype == known[key].dtype
        # Another processor may sum up a convolution in another order.
        np.testing.assert_allclose(found, known[key], rtol=1e-5, atol=1e-6)


def test_no_function_or_class_hides_a_module():
    for name in MODULES:
        module = importlib.import_module(name)
        if not hasattr(module, "__path__"):
            continue
        for found in pkgutil.iter_modules(module.__path__):
            value = getattr(importlib.import_module(name), found.name, None)
            assert value is None or inspect.ismodule(value), f"{name}.{found.name} is {value!r}"


@pytest.mark.parametrize("name", ["datasets", "models", "plot", "testing"])
def test_public_modules_are_there_without_being_imported(name):
    assert inspect.ismodule(getattr(xspinn, name))
    assert name in dir(xspinn)
