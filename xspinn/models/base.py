"""What every model handle can do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
import torch

from xspinn.errors import ModelError

__all__ = ["Built", "Model", "default_feed", "flatten"]

Built: TypeAlias = Callable[[torch.Tensor], Any]
"""A model that is ready to be called on a batch of patches, on one device."""


class Model(ABC):
    """An address of a model: its hash, its size, and how to build it where a block runs.

    A handle is cheap to hold and safe to share between threads; it never changes the object it
    was made from.

    Attributes
    ----------
    name : str
        For people.
    key : str
        Hash of what the model is; two models with one key give the same answers.
    n_bytes : int
        Bytes of its weights.
    """

    name: str
    key: str
    n_bytes: int
    kept: bool = True
    """Whether a process keeps the built model for the next block, and guards its calls.

    A function has nothing to build, looks after its own threads, and may itself call `predict`.
    """

    def device(self, asked: torch.device) -> torch.device:
        """Return where the model runs, if this device is asked for."""
        return asked

    @abstractmethod
    def build(self, device: torch.device) -> Built:
        """Return the model, ready to be called, on a device."""

    @abstractmethod
    def feed_dtype(self, dtype: np.dtype[Any]) -> np.dtype[Any]:
        """Return the dtype that the model is fed with, for an array of this dtype.

        Raises
        ------
        ModelError
            If the model cannot take it.
        """

    def sketch(self, batch: tuple[int, ...], dtype: torch.dtype) -> Any:
        """Return what the model returns for a batch, without values, or raise if it cannot tell."""
        raise NotImplementedError

    def __sizeof__(self) -> int:
        # What distributed goes by when it moves a model, or spills it to disk.
        return object.__sizeof__(self) + self.n_bytes

    def __repr__(self) -> str:
        kind = type(self).__name__
        return f"<{kind} {self.name}, {self.n_bytes} bytes, hash {self.key[:12]}>"


def default_feed(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the dtype that a model without a dtype of its own is fed with.

    Floats and complex numbers stay as they are. Bools and integers become the smallest of
    float32 and float64 that holds them all.
    """
    if dtype.kind in "fc":
        return _torch_dtype(dtype)
    return np.dtype("float32" if dtype.itemsize <= 2 else "float64")


def flatten(result: Any) -> list[tuple[str | None, torch.Tensor]]:
    """List the tensors that a model returned, with their names; a lone tensor's name is None.

    Raises
    ------
    ModelError
        If it returned anything but a tensor, or a dict or tuple of tensors.
    """
    if isinstance(result, Mapping):
        pairs = [(str(name), value) for name, value in result.items()]
    elif isinstance(result, tuple | list):
        names = getattr(result, "_fields", [f"output_{k}" for k in range(len(result))])
        pairs = list(zip(names, result, strict=True))
    else:
        return [(None, _tensor(result))]
    if not pairs:
        raise ModelError("the model returned nothing; it must return one tensor at least.")
    return [(name, _tensor(value)) for name, value in pairs]


def _tensor(value: Any) -> torch.Tensor:
    if isinstance(value, torch.Tensor):
        return value
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "fiucb":
        if isinstance(value, np.ma.MaskedArray) and value.mask.any():
            if value.dtype.kind not in "fc":
                raise ModelError(
                    f"the model returned a masked array of {value.dtype}, which has no value for "
                    "what is masked: return floats, where it becomes NaN, or call .filled()."
                )
            value = value.filled(np.nan)
        return torch.from_numpy(np.require(value, _torch_dtype(value.dtype), ["C", "W"]))
    raise ModelError(
        f"the model returned {type(value).__name__!r} where a tensor was expected: return one "
        "tensor or numeric array, or a dict or tuple of them."
    )


def _torch_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the dtype that torch can add up: unsigned integers become wider signed ones."""
    if dtype.kind == "u" and dtype.itemsize > 1:
        if dtype.itemsize == 8:
            raise ModelError("the model returned uint64, which torch cannot add up: return int64.")
        return np.dtype(f"int{dtype.itemsize * 16}")
    if dtype.kind in "fc" and dtype.itemsize > (8 if dtype.kind == "f" else 16):
        return np.dtype("float64" if dtype.kind == "f" else "complex128")
    return dtype.newbyteorder("=")
