"""The accessors ``DataArray.spinn`` and ``Dataset.spinn``: the functions of `api` as methods."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Concatenate, ParamSpec, TypeVar

import xarray as xr

from xspinn import api
from xspinn.docstrings import without_parameter

__all__ = ["DataArraySpinn", "DatasetSpinn", "Spinn"]

P = ParamSpec("P")
R = TypeVar("R")


def method(
    function: Callable[Concatenate[xr.DataArray | xr.Dataset, P], R],
) -> Callable[Concatenate[Spinn, P], R]:
    """Make a method of an accessor of a function whose first argument is the array."""

    @functools.wraps(function)
    def bound(self: Spinn, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return function(self._obj, *args, **kwargs)

    signature = inspect.signature(function)
    obj, *rest = signature.parameters.values()
    own = obj.replace(name="self", annotation=inspect.Parameter.empty)
    bound.__signature__ = signature.replace(parameters=[own, *rest])  # type: ignore[attr-defined]
    bound.__doc__ = without_parameter(function.__doc__, obj.name)
    return bound


class Spinn:
    """What both accessors can do."""

    def __init__(self, obj: xr.DataArray | xr.Dataset) -> None:
        self._obj = obj

    predict = method(api.predict)
    plan = method(api.plan)


@xr.register_dataarray_accessor("spinn")
class DataArraySpinn(Spinn):
    """Neural networks over this array."""


@xr.register_dataset_accessor("spinn")
class DatasetSpinn(Spinn):
    """Neural networks over this dataset, whose variables are the channels."""
