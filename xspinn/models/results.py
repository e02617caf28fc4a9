"""What models return, in the one form that blocks work with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from xspinn.errors import ModelError
from xspinn.models.feeding import torch_dtype

__all__ = ["channels_first", "channels_last", "flatten", "in_batches"]


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


def channels_last(batch: torch.Tensor) -> torch.Tensor:
    """Turn a batch for a model that wants channels last."""
    return batch.movedim(1, -1).contiguous()


def channels_first(value: Any, rank: int) -> Any:
    """Turn the results of a model that wants channels last."""
    if isinstance(value, Mapping):
        return {name: channels_first(item, rank) for name, item in value.items()}
    if isinstance(value, tuple | list):
        items = [channels_first(item, rank) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else items
    tensor = _tensor(value)
    return tensor.movedim(-1, 1) if tensor.ndim == rank else tensor


def in_batches(ready: Callable[[torch.Tensor], Any], size: int) -> Callable[[torch.Tensor], Any]:
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
        return torch.from_numpy(np.require(value, torch_dtype(value.dtype), ["C", "W"]))
    raise ModelError(
        f"the model returned {type(value).__name__!r} where a tensor was expected: return one "
        "tensor or numeric array, or a dict or tuple of them."
    )
