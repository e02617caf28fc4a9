"""What every model handle can do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

import numpy as np
import torch

from xspinn.errors import ModelError
from xspinn.models.content import Content, here

__all__ = ["Built", "Model", "Options", "default_feed", "flatten"]

Built: TypeAlias = Callable[[torch.Tensor], Any]
"""A model that is ready to be called on a batch of patches, on one device."""


@dataclass(frozen=True)
class Options:
    """What a user may say about a model besides the model itself; see `xspinn.as_model`."""

    factory: str | Callable[[], Any] | None = None
    channels_last: bool | None = None
    allow_pickle: bool = False


class Model(ABC):
    """An address of a model: its hash, its size, and how to build it where a block runs.

    A handle is cheap to hold and safe to share between threads; it never changes the object it
    was made from. A class for a format of one's own says what it takes in `suffixes` and
    `accepts`, and is registered by an entry point of group ``xspinn.models``; then `predict` knows
    the format.

    Attributes
    ----------
    name : str
        For people.
    key : str
        Hash of what the model is; two models with one key give the same answers.
    content : Content
        The bytes that it is built from.
    """

    suffixes: ClassVar[tuple[str, ...]] = ()
    """Ends of the names of files in this format."""

    takes: ClassVar[frozenset[str]] = frozenset()
    """Which of `Options` mean something for this format."""

    name: str
    key: str
    content: Content

    kept: bool = True
    """Whether a process keeps the built model for the next block, and guards its calls.

    A function has nothing to build, looks after its own threads, and may itself call `predict`.
    """

    channels_last: bool = False
    """Whether the model itself wants and returns ``(batch, *core dims, channel)``."""

    @classmethod
    def accepts(cls, model: Any) -> bool:
        """Return whether an object in memory is a model of this format.

        Parameters
        ----------
        model : object
            Whatever a user gave.
        """
        return False

    @classmethod
    def of(cls, model: Any, options: Options) -> Model:
        """Make a handle of an object that `accepts` takes.

        Parameters
        ----------
        model : object
            What a user gave.
        options : Options
            What was said besides.
        """
        raise ModelError(f"{cls.__name__} cannot be made from a {type(model).__name__}.")

    @classmethod
    def read(cls, content: Content, options: Options) -> Model:
        """Make a handle of a file.

        Parameters
        ----------
        content : Content
            The bytes of the file.
        options : Options
            What was said besides.
        """
        raise ModelError(f"{cls.__name__} cannot be made from a file.")

    @property
    def n_bytes(self) -> int:
        """Bytes that it is built from: weights, and what else the file holds."""
        return self.content.n_bytes

    @property
    def shape(self) -> tuple[int | None, ...] | None:
        """The only shape of a batch that the model takes, None where it is free.

        In the order that `xspinn` uses: batch, channel, core dims.
        """
        return None

    def fitted(self, shape: tuple[int, ...]) -> Model:
        """Return the model for patches of one shape, for formats that are compiled for one.

        Parameters
        ----------
        shape : tuple of int
            Of a batch of one patch: batch, channel, core dims.
        """
        return self

    def device(self, asked: torch.device) -> torch.device:
        """Return where the model runs, if this device is asked for.

        Parameters
        ----------
        asked : torch.device
            What the user wants, or else the best that the process has.
        """
        return asked

    @abstractmethod
    def build(self, device: torch.device) -> Built:
        """Return the model, ready to be called on a batch of patches, on a device.

        Parameters
        ----------
        device : torch.device
            What `device` returned.
        """

    def load(self, device: torch.device) -> Built:
        """Build the model as blocks call it: any batch, channels first, and say what went wrong.

        Raises
        ------
        ModelError
            Names the file, the format, the process and the reason.
        """
        try:
            ready = self.build(device)
        except Exception as error:
            origin = f" from {self.content.origin}" if self.content.origin else ""
            raise ModelError(
                f"the model {self.name} ({type(self).__name__}{origin}, {self.n_bytes} bytes, hash "
                f"{self.key[:12]}) cannot be built in {here()} on {device}: "
                + (str(error) if isinstance(error, ModelError) else _reason(error))
            ) from error
        if self.channels_last:
            ready = _channels_first(ready)
        fixed = self.shape
        return ready if fixed is None or fixed[0] is None else _in_batches(ready, fixed[0])

    @abstractmethod
    def feed_dtype(self, dtype: np.dtype[Any]) -> np.dtype[Any]:
        """Return the dtype that the model is fed with, for an array of this dtype.

        Parameters
        ----------
        dtype : numpy.dtype
            Of the array.

        Raises
        ------
        ModelError
            If the model cannot take it.
        """

    def sketch(self, batch: tuple[int, ...], dtype: torch.dtype) -> Any:
        """Return what the model returns for a batch, without values, or raise if it cannot tell.

        Parameters
        ----------
        batch : tuple of int
            Shape of the batch.
        dtype : torch.dtype
            Of the batch.
        """
        raise NotImplementedError

    def __sizeof__(self) -> int:
        # What distributed goes by when it moves a model, or spills it to disk.
        return object.__sizeof__(self) + self.n_bytes

    def __repr__(self) -> str:
        kind = type(self).__name__
        return f"<{kind} {self.name}, {self.n_bytes} bytes, hash {self.key[:12]}>"


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _channels_first(ready: Built) -> Built:
    """Wrap a model that wants channels last, and turn its results back."""

    def turned(value: Any, rank: int) -> Any:
        if isinstance(value, Mapping):
            return {name: turned(item, rank) for name, item in value.items()}
        if isinstance(value, tuple | list):
            items = [turned(item, rank) for item in value]
            return type(value)(*items) if hasattr(value, "_fields") else items
        return _tensor(value).movedim(-1, 1) if np.ndim(value) == rank else value

    def call(batch: torch.Tensor) -> Any:
        return turned(ready(batch.movedim(1, -1).contiguous()), batch.ndim)

    return call


def _in_batches(ready: Built, size: int) -> Built:
    """Wrap a model that takes batches of one size only; the last is filled up and cut again."""

    def call(batch: torch.Tensor) -> Any:
        parts = []
        for part in torch.split(batch, size):
            missing = size - len(part)
            full = torch.cat([part, part[-1:].expand(missing, *part.shape[1:])])
            parts.append([(name, t[: len(part)]) for name, t in flatten(ready(full))])
        names = [name for name, _ in parts[0]]
        whole = [torch.cat([t for _, t in group]) for group in zip(*parts, strict=True)]
        return whole[0] if names == [None] else dict(zip(names, whole, strict=True))

    return call


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
