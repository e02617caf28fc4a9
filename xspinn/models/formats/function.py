"""Models that are functions of numpy arrays or of torch tensors."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import cloudpickle
import numpy as np
import torch

from xspinn.carriers.content import Content
from xspinn.errors import ModelError
from xspinn.models.base import Built, Model, Options
from xspinn.models.feeding import default_feed
from xspinn.models.hashing import fingerprint

__all__ = ["FunctionModel", "TensorFunctionModel"]


class FunctionModel(Model):
    """Any function that takes and returns numpy arrays; it runs on the CPU.

    It is not a snapshot: within one process it is the user's own function that is called. Other
    processes need a copy, so there it must be one that can be pickled.
    """

    kept = False
    takes = frozenset({"channels_last"})

    def __init__(self, function: Callable[[Any], Any], options: Options) -> None:
        self._function: Callable[[Any], Any] | None = function
        self.name = getattr(function, "__name__", type(function).__name__)
        self.key = fingerprint([type(self).__name__, function, options.channels_last])
        self.channels_last = bool(options.channels_last)
        self._unpicklable: str | None = None
        try:
            pickled = cloudpickle.dumps(function)
        except Exception as error:  # noqa: BLE001 - it matters only where it is sent elsewhere
            pickled, self._unpicklable = b"", f"{type(error).__name__}: {error}"
        self.content = Content.of_pieces(self.key, [np.frombuffer(pickled, np.uint8)])

    @classmethod
    def accepts(cls, model: Any) -> bool:
        """Return whether it can be called."""
        return callable(model)

    @classmethod
    def of(cls, model: Any, options: Options) -> FunctionModel:
        """Make a handle of a function, known by the hash of its code and what it refers to."""
        return cls(model, options)

    @property
    def function(self) -> Callable[[Any], Any]:
        """The user's function here, and a copy of it elsewhere.

        Raises
        ------
        ModelError
            Elsewhere, if it could not be pickled. It is said here and not by pickle, whose errors
            schedulers wrap or print in ways of their own.
        """
        if self._function is None and self._unpicklable is not None:
            raise ModelError(
                f"the function {self.name} cannot be pickled ({self._unpicklable}), so it cannot "
                "be sent to other processes. Define it at the top of a module, or take files, "
                "locks and other open things out of it; or compute with dask's scheduler "
                "'threads' or 'synchronous', which need no copy."
            )
        if self._function is None:
            self._function = cloudpickle.loads(self.content.open().data)
        return self._function

    def build(self, device: torch.device) -> Built:
        """Return the function, made to take a tensor."""
        function = self.function

        def call(batch: torch.Tensor) -> Any:
            return function(batch.numpy(force=True))

        return call

    def device(self, asked: torch.device) -> torch.device:
        """Return the CPU, where numpy is."""
        return torch.device("cpu")

    def feed_dtype(self, dtype: np.dtype[Any]) -> np.dtype[Any]:
        """Return floats and complex numbers as they are, bools and integers as floats."""
        return default_feed(dtype)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_function": None}


class TensorFunctionModel(FunctionModel):
    """Any function that takes and returns torch tensors, on the device of the block.

    It is called without gradients; what needs them asks for them with `torch.enable_grad`.
    """

    @classmethod
    def accepts(cls, model: Any) -> bool:
        """Return whether it can be called and says that its first parameter is a tensor."""
        try:
            first = next(iter(inspect.signature(model).parameters.values()))
        except (TypeError, ValueError, StopIteration):
            return False
        return first.annotation in (torch.Tensor, "torch.Tensor", "Tensor")

    @classmethod
    def converts(cls, model: Any) -> bool:
        """Return whether it can be called."""
        return callable(model)

    def device(self, asked: torch.device) -> torch.device:
        """Return the device that is asked for."""
        return asked

    def build(self, device: torch.device) -> Built:
        """Return the function, made to run without gradients."""
        function = self.function

        def call(batch: torch.Tensor) -> Any:
            with torch.no_grad():
                return function(batch)

        return call
