"""Models that are torch modules."""

from __future__ import annotations

import copy
from typing import Any

import cloudpickle
import numpy as np
import torch
from torch.nn.parameter import is_lazy

from xspinn.errors import ModelError
from xspinn.hashing import fingerprint
from xspinn.models.base import Built, Model, default_feed

__all__ = ["ModuleModel"]


class ModuleModel(Model):
    """A module, taken apart into a skeleton without weights and the weights themselves.

    The skeleton is a copy whose tensors live on torch's meta device: it answers questions about
    shapes for nothing. The weights are a snapshot, so later training does not change a lazy
    result. The user's module is only read.
    """

    def __init__(
        self, skeleton: torch.nn.Module, tensors: list[torch.Tensor], key: str, name: str
    ) -> None:
        self.skeleton = skeleton
        self.tensors = tensors
        self.key = key
        self.name = name
        self.n_bytes = sum(t.nbytes for t in tensors)

    @classmethod
    def of(cls, module: torch.nn.Module) -> ModuleModel:
        """Take a module apart; it stays as it is."""
        tensors = _tensors(module)
        if any(map(is_lazy, tensors)):
            raise ModelError(
                f"the module {type(module).__name__} has lazy parameters without a shape: run it "
                "once on a batch of the right channels before predicting."
            )
        memo: dict[int, Any] = {id(t): _meta(t) for t in tensors}
        try:
            skeleton = copy.deepcopy(module, memo).eval()
            cloudpickle.dumps(skeleton)
        except Exception as error:
            raise ModelError(
                f"the module {type(module).__name__} cannot be copied and sent to workers "
                f"({error}). A module must hold its tensors as parameters or buffers, without "
                "parametrizations (torch.nn.utils.parametrize.remove_parametrizations), and "
                "nothing that refuses copy.deepcopy or pickle; TorchScript modules are not known."
            ) from error
        weights = [t.detach().to("cpu", copy=True) for t in tensors]
        return cls(skeleton, weights, fingerprint(module), type(module).__name__)

    def build(self, device: torch.device) -> Built:
        """Return the module on a device, in eval mode, sharing nothing with the user's."""
        memo: dict[int, Any] = {}
        for meta, weight in zip(_tensors(self.skeleton), self.tensors, strict=True):
            is_parameter = isinstance(meta, torch.nn.Parameter)
            # Modules may write into buffers; the snapshot must not change with them.
            moved = weight.to(device, copy=not is_parameter)
            memo[id(meta)] = torch.nn.Parameter(moved, False) if is_parameter else moved
        module = copy.deepcopy(self.skeleton, memo)
        half = self._own_dtype if self._own_dtype in _HALF else None

        def call(batch: torch.Tensor) -> Any:
            # Only the forward call runs in inference mode: what is built in it cannot be trained.
            with torch.inference_mode():
                return module(batch if half is None else batch.to(half))

        return call

    @property
    def _own_dtype(self) -> torch.dtype | None:
        """Dtype of the first floating or complex parameter or buffer."""
        real = (t.dtype for t in self.tensors if t.is_floating_point() or t.is_complex())
        return next(real, None)

    def feed_dtype(self, dtype: np.dtype[Any]) -> np.dtype[Any]:
        """Return the dtype of the first floating parameter or buffer; without one, the default."""
        own = self._own_dtype
        if own is None:
            return default_feed(dtype)
        if dtype.kind == "c" and not own.is_complex:
            raise ModelError(
                f"the array is {dtype}, but the model's weights are {own}: a real model cannot "
                "take complex input. Predict on da.real or abs(da), or stack real and imaginary "
                "parts as channels."
            )
        # Half-precision weights are fed with float32 by numpy and cast on the device.
        return np.dtype("float32") if own in _HALF else torch.empty(0, dtype=own).numpy().dtype

    def sketch(self, batch: tuple[int, ...], dtype: torch.dtype) -> Any:
        """Run the skeleton on the meta device: shapes and dtypes, no values, no work."""
        skeleton = copy.deepcopy(self.skeleton)  # a forward may leave something in its module
        fed = self._own_dtype if self._own_dtype in _HALF else dtype
        with torch.inference_mode():
            return skeleton(torch.empty(batch, dtype=fed, device="meta"))

    def __getstate__(self) -> dict[str, Any]:
        # Weights travel as plain buffers, which distributed moves without copying them.
        weights = [
            (t.dtype, tuple(t.shape), t.contiguous().reshape(-1).view(torch.uint8).numpy())
            for t in self.tensors
        ]
        return {**self.__dict__, "tensors": weights}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.tensors = [
            torch.from_numpy(raw.copy()).view(dtype).reshape(shape)
            for dtype, shape, raw in state["tensors"]
        ]


_HALF = (torch.float16, torch.bfloat16)


def _tensors(module: torch.nn.Module) -> list[torch.Tensor]:
    """All parameters and buffers, each once, in an order that a copy keeps."""
    return list(module.parameters()) + list(module.buffers())


def _meta(tensor: torch.Tensor) -> torch.Tensor:
    empty = torch.empty_like(tensor, device="meta", requires_grad=False)
    return torch.nn.Parameter(empty, False) if isinstance(tensor, torch.nn.Parameter) else empty
