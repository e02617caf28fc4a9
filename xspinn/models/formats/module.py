"""Models that are torch modules."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import cloudpickle
import numpy as np
import torch
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

from xspinn.carriers.content import Buffer, Content
from xspinn.errors import ModelError
from xspinn.hooks.torch import uncompiled
from xspinn.models.base import TORCH, Built, Model, Options
from xspinn.models.calling import calling, own_dtype
from xspinn.models.feeding import feed_of
from xspinn.models.hashing import fingerprint
from xspinn.plans.tuning import Tuning

__all__ = ["ModuleModel"]

ALIGNED = 64
"""Weights begin at multiples of this many bytes, so that any dtype can be read in place."""


class ModuleModel(Model):
    """A module, taken apart into a skeleton without weights and the weights themselves.

    The skeleton is a copy whose tensors live on torch's meta device: it answers questions about
    shapes for nothing. The weights are a snapshot, so later training does not change a lazy
    result. The user's module is only read.
    """

    takes = frozenset({"channels_last"})
    tunes = TORCH

    def __init__(self, module: torch.nn.Module, options: Options) -> None:
        module = _plain(module)
        self.name = type(module).__name__
        self.channels_last = bool(options.channels_last)
        tensors = _tensors(module)
        if any(map(is_lazy, tensors)):
            raise ModelError(
                f"the module {self.name} has lazy parameters without a shape: run it once on a "
                "batch of the right channels before predicting."
            )
        memo: dict[int, Any] = {id(t): _meta(t) for t in tensors}
        specs = [(t.dtype, tuple(t.shape)) for t in tensors]
        try:
            skeleton = copy.deepcopy(module, memo).eval()
            header = cloudpickle.dumps((skeleton, specs))
        except Exception as error:
            raise ModelError(
                f"the module {self.name} cannot be copied and sent to workers ({error}). A module "
                "must hold its tensors as parameters or buffers, and nothing that refuses "
                "copy.deepcopy or pickle."
            ) from error
        self.key = fingerprint([module, "channels last"] if self.channels_last else module)
        self.own_dtype = own_dtype(tensors)
        weights = [t.detach().to("cpu", copy=True).contiguous() for t in tensors]
        self._n_bytes = sum(t.nbytes for t in weights)
        self._parts: tuple[torch.nn.Module, list[torch.Tensor]] | None = (skeleton, weights)
        self.content = Content.of_pieces(self.key, _pack(header, weights))

    @classmethod
    def accepts(cls, model: Any) -> bool:
        """Return whether it is a module."""
        return isinstance(model, torch.nn.Module)

    @classmethod
    def of(cls, model: Any, options: Options) -> ModuleModel:
        """Take a module apart; it stays as it is."""
        return cls(model, options)

    @property
    def n_bytes(self) -> int:
        """Bytes of its weights."""
        return self._n_bytes

    @property
    def parts(self) -> tuple[torch.nn.Module, list[torch.Tensor]]:
        """The skeleton and the weights; unpacked from the content where it was sent."""
        return _unpack(self.content.open()) if self._parts is None else self._parts

    @property
    def skeleton(self) -> torch.nn.Module:
        """The module on the meta device."""
        return self.parts[0]

    def module(self, device: torch.device) -> torch.nn.Module:
        """Return the module on a device, in eval mode; it never writes to the snapshot."""
        skeleton, weights = self.parts
        memo: dict[int, Any] = {}
        for meta, weight in zip(_tensors(skeleton), weights, strict=True):
            is_parameter = isinstance(meta, torch.nn.Parameter)
            # Modules may write into buffers; the snapshot must not change with them.
            moved = weight.to(device, copy=not is_parameter)
            memo[id(meta)] = torch.nn.Parameter(moved, False) if is_parameter else moved
        return copy.deepcopy(skeleton, memo)

    def build(self, device: torch.device) -> Built:
        """Return the module on a device, in eval mode, sharing nothing with the user's."""
        return self.tuned(device, Tuning())

    def tuned(self, device: torch.device, tuning: Tuning) -> Built:
        """Return the module, called in some way."""
        return calling(self.module(device), self.own_dtype, device, tuning)

    def feed_dtype(self, dtype: np.dtype[Any]) -> np.dtype[Any]:
        """Return the dtype of the first floating parameter or buffer; without one, the default."""
        return feed_of(self.own_dtype, dtype)

    def sketch(self, batch: torch.Tensor) -> Any:
        """Run the skeleton on the meta device: shapes and dtypes, no values, no work."""
        skeleton = copy.deepcopy(self.skeleton)  # a forward may leave something in its module
        return calling(skeleton, self.own_dtype)(batch)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_parts": None}


# -- taking apart and putting together ---------------------------------------------------------


def _plain(module: torch.nn.Module) -> torch.nn.Module:
    """Return the module, or where it is compiled or parametrized, what it computes, as a copy."""
    module = uncompiled(module)
    if not any(map(parametrize.is_parametrized, module.modules())):
        return module
    module = copy.deepcopy(module).eval()
    for child in list(module.modules()):
        if parametrize.is_parametrized(child):
            parametrizations: Any = child.parametrizations
            names = list(parametrizations)
            values = {name: getattr(child, name).detach() for name in names}
            # Not remove_parametrizations: it changes a class that a copy shares with the original.
            child.__class__ = parametrize.type_before_parametrizations(child)
            del child.parametrizations
            for name, value in values.items():
                child.register_parameter(name, torch.nn.Parameter(value, False))
    return module


def _tensors(module: torch.nn.Module) -> list[torch.Tensor]:
    """All parameters and buffers, each once, in an order that a copy keeps."""
    return list(module.parameters()) + list(module.buffers())


def _meta(tensor: torch.Tensor) -> torch.Tensor:
    empty = torch.empty_like(tensor, device="meta", requires_grad=False)
    return torch.nn.Parameter(empty, False) if isinstance(tensor, torch.nn.Parameter) else empty


def _pack(header: bytes, weights: Sequence[torch.Tensor]) -> list[Buffer]:
    """Lay out header and weights one after the other: 8 bytes of length, header, weights."""
    pieces = [np.frombuffer(len(header).to_bytes(8, "little") + header, np.uint8)]
    pieces += [t.reshape(-1).view(torch.uint8).numpy() for t in weights]
    laid = []
    for piece in pieces:
        laid += [piece, np.zeros(-piece.nbytes % ALIGNED, np.uint8)]
    return laid


def _unpack(raw: Buffer) -> tuple[torch.nn.Module, list[torch.Tensor]]:
    """Read what `_pack` laid out; the weights share the memory of `raw`."""
    length = int.from_bytes(raw[:8].tobytes(), "little")
    skeleton, specs = cloudpickle.loads(raw[8 : 8 + length].data)
    at = -(-(8 + length) // ALIGNED) * ALIGNED
    weights = []
    for dtype, shape in specs:
        n_bytes = math.prod(shape) * dtype.itemsize
        flat = torch.from_numpy(raw[at : at + n_bytes])
        weights.append(flat.view(dtype).reshape(shape))
        at += -(-n_bytes // ALIGNED) * ALIGNED
    return skeleton, weights
