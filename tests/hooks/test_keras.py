"""Private parts of Keras that are used are there, and do what they are used for."""

import os

import pytest

from xspinn.hooks.keras import all_layers

pytestmark = [
    pytest.mark.slow,  # Keras takes seconds to import
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]


def test_layers_inside_layers_are_found():
    os.environ.setdefault("KERAS_BACKEND", "torch")
    import keras

    convolve = keras.layers.Conv2D(2, 1)
    model = keras.Sequential([keras.Input((3, 8, 8, 1)), keras.layers.TimeDistributed(convolve)])
    assert convolve not in model.layers
    assert any(layer is convolve for layer in all_layers(model))
