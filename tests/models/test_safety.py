"""Files that want to run code: nothing of them runs without permission."""

import os

import pytest
import torch
from helpers import zoo
from helpers.archives import Thief
from helpers.networks import Facies, trained

from xspinn import as_model
from xspinn.errors import ModelError

# The libraries warn about themselves while models are made.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.fixture
def loot(tmp_path):
    return tmp_path / "loot"


@pytest.mark.parametrize("name", ["thief.pth", "thief.pt", "thief.ckpt"])
def test_a_pickle_that_wants_to_run_code(tmp_path, loot, name):
    torch.save({"weight": torch.zeros(1), "more": Thief(loot)}, tmp_path / name)
    for factory in (Facies, "helpers.networks:Facies"):
        with pytest.raises(ModelError, match=r"holds more than tensors.*allow_pickle=True"):
            as_model(tmp_path / name, factory=factory)
    assert not loot.exists()


def test_a_whole_module_needs_permission(tmp_path):
    path = zoo.pickled(tmp_path)
    with pytest.raises(ModelError, match="name what makes it"):
        as_model(path)
    with pytest.raises(ModelError, match=r"allow_pickle=True"):
        as_model(path, factory=Facies)
    assert as_model(path, allow_pickle=True).key == as_model(trained()).key


@pytest.mark.slow
def test_a_keras_layer_that_wants_to_run_code(tmp_path):
    os.environ.setdefault("KERAS_BACKEND", "torch")
    import keras

    model = keras.Sequential([keras.Input((None, None, 1)), keras.layers.Lambda(lambda x: 2 * x)])
    model.save(tmp_path / "lambda.keras")
    with pytest.raises(ModelError, match=r"holds a Lambda layer.*allow_pickle=True"):
        as_model(tmp_path / "lambda.keras")
    built = as_model(tmp_path / "lambda.keras", allow_pickle=True).load(torch.device("cpu"))
    assert float(built(torch.ones(1, 1, 4, 4)).max()) == 2
