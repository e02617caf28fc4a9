"""Models that are functions of numpy arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cloudpickle
import numpy as np
import torch

from xspinn.errors import ModelError
from xspinn.hashing import fingerprint
from xspinn.models.base import Built, Model, default_feed

__all__ = ["FunctionModel"]


class FunctionModel(Model):
    """Any picklable function that takes and returns numpy arrays; it runs on the CPU.

    It is not a snapshot: within one process it is the user's own function that is called.
    """

    kept = False

    def __init__(self, function: Callable[[Any], Any], key: str, name: str, n_bytes: int) -> None:
        self.function = function
        self.key = key
        self.name = name
        self.n_bytes = n_bytes

    @classmethod
    def of(cls, function: Callable[[Any], Any]) -> FunctionModel:
        """Make a handle of a function, known by the hash of its code and what it refers to."""
        name = getattr(function, "__name__", type(function).__name__)
        try:
            pickled = cloudpickle.dumps(function)
        except Exception as error:
            raise ModelError(
                f"the function {name} cannot be pickled ({error}), so it cannot be sent to "
                "workers: define it at the top of a module, or take files, locks and other open "
                "things out of it."
            ) from error
        return cls(function, fingerprint(function), name, len(pickled))

    def build(self, device: torch.device) -> Built:
        """Return the function, made to take a tensor."""
        function = self.function

        def call(batch: torch.Tensor) -> Any:
            return function(batch.numpy(force=True))

        return call

    def feed_dtype(self, dtype: np.dtype[Any]) -> np.dtype[Any]:
        """Return floats and complex numbers as they are, bools and integers as floats."""
        return default_feed(dtype)
