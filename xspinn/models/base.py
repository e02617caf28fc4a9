"""What every model handle can do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

import numpy as np
import torch

from xspinn.carriers.content import Content
from xspinn.errors import ModelError
from xspinn.machine.worker import name_process
from xspinn.models.results import channels_first, channels_last, in_batches
from xspinn.plans.tuning import Tuning

__all__ = ["TORCH", "Built", "Model", "Options"]

Built: TypeAlias = Callable[[torch.Tensor], Any]
"""A model that is ready to be called on a batch of patches, on one device."""

TORCH = frozenset({"memory_format", "compile", "cuda_graph", "precision"})
"""What `Model.tunes` is for formats that are built as torch modules."""


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

    tunes: ClassVar[frozenset[str]] = frozenset()
    """Which fields of a `Tuning` mean something to `tuned`; without any, nothing is measured."""

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
    def converts(cls, model: Any) -> bool:
        """Return whether `of` takes an object, if its format is asked for by name.

        Parameters
        ----------
        model : object
            What a user gave.

        Returns
        -------
        bool
        """
        return cls.accepts(model)

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

    def tuned(self, device: torch.device, tuning: Tuning) -> Built:
        """Return what `build` does, called in some way; for formats that say so in `tunes`.

        Parameters
        ----------
        device : torch.device
            What `device` returned.
        tuning : Tuning
            Only what `tunes` names differs from torch's defaults.
        """
        return self.build(device)

    def load(self, device: torch.device, tuning: Tuning | None = None) -> Built:
        """Build the model as blocks call it: any batch, channels first, and say what went wrong.

        Parameters
        ----------
        device : torch.device
            What `device` returned.
        tuning : Tuning, optional
            Torch's defaults without one.

        Raises
        ------
        ModelError
            Names the file, the format, the process and the reason.
        """
        try:
            ready = self.tuned(device, tuning) if tuning and self.tunes else self.build(device)
        except Exception as error:
            origin = f" from {self.content.origin}" if self.content.origin else ""
            raise ModelError(
                f"the model {self.name} ({type(self).__name__}{origin}, {self.n_bytes} bytes, hash "
                f"{self.key[:12]}) cannot be built in {name_process()} on {device}: "
                + (str(error) if isinstance(error, ModelError) else _reason(error))
            ) from error
        if self.channels_last:
            ready = _turned(ready)
        fixed = self.shape
        return ready if fixed is None or fixed[0] is None else in_batches(ready, fixed[0])

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

    def sketch(self, batch: torch.Tensor) -> Any:
        """Return what the model returns for a batch, without values, or raise if it cannot tell.

        Parameters
        ----------
        batch : torch.Tensor
            On torch's meta device, in the order that the model itself wants.
        """
        raise NotImplementedError

    def outline(self, shape: tuple[int, ...], dtype: torch.dtype) -> Any:
        """Return what `load` would return for a batch of a shape, as `sketch` does."""
        batch = torch.empty(shape, dtype=dtype, device="meta")
        return _turned(self.sketch)(batch) if self.channels_last else self.sketch(batch)

    def __sizeof__(self) -> int:
        # What distributed goes by when it moves a model, or spills it to disk.
        return object.__sizeof__(self) + self.n_bytes

    def __repr__(self) -> str:
        kind = type(self).__name__
        return f"<{kind} {self.name}, {self.n_bytes} bytes, hash {self.key[:12]}>"


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _turned(call: Built) -> Built:
    return lambda batch: channels_first(call(channels_last(batch)), batch.ndim)
