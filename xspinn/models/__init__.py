"""Models of every kind behind one handle, one file a format."""

from __future__ import annotations

from typing import Any

from xspinn.errors import ModelError
from xspinn.models.base import Model
from xspinn.models.function import FunctionModel
from xspinn.models.module import ModuleModel

__all__ = ["FunctionModel", "Model", "ModuleModel", "as_model"]


def as_model(model: Any) -> Model:
    """Make a model handle from a module, a function, or a handle.

    Parameters
    ----------
    model : torch.nn.Module, callable or Model
        A module; or any picklable function that takes a numpy array of shape
        ``(batch, channel, *core)`` and returns one of the same rank, one without the channel
        axis, or a dict or tuple of such arrays.

    Returns
    -------
    Model

    Raises
    ------
    ModelError
        If it is neither, or cannot be copied or pickled.

    Examples
    --------
    >>> import torch
    >>> as_model(torch.nn.Conv2d(1, 2, 3))
    <ModuleModel Conv2d, 80 bytes, hash ...>
    """
    import torch

    if isinstance(model, Model):
        return model
    if isinstance(model, torch.nn.Module):
        return ModuleModel.of(model)
    if callable(model):
        return FunctionModel.of(model)
    raise ModelError(
        f"a model of type {type(model).__name__!r} is not known: give a torch.nn.Module, or a "
        "function of a numpy array of shape (batch, channel, *core dims)."
    )
