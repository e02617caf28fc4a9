"""Parts of Keras that it does not document. Tried with Keras 3.15.1."""

from __future__ import annotations

from typing import Any

__all__ = ["all_layers"]


def all_layers(model: Any) -> list[Any]:
    """Return the layers of a model, those inside other layers among them, as ``layers`` does not.

    Parameters
    ----------
    model : keras.Model
    """
    return list(model._flatten_layers())
