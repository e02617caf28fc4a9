"""Ask a model what it needs and what it returns, on one patch and before anything runs."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import torch

from xspinn.cache import built_model
from xspinn.devices import call_gate, pick_device
from xspinn.errors import ModelError
from xspinn.models.base import Model, flatten
from xspinn.outputs import Answer

__all__ = ["inspect_model"]


def inspect_model(
    model: Model, patch: dict[str, int], channels: int, feed: np.dtype[Any], device: str | None
) -> tuple[Answer, ...]:
    """Find out what a model returns, on the meta device or else on one patch of zeros.

    Parameters
    ----------
    model : Model
    patch : dict
        Core dim -> voxels, in the order that the model sees.
    channels : int
        Channels that the model is fed with.
    feed : numpy.dtype
        Dtype that it is fed with.
    device : str or None
        Where zeros are run, if they must be.

    Returns
    -------
    tuple of Answer

    Raises
    ------
    ModelError
        If the model fails on a patch, or returns another rank, or a size that is no simple
        multiple of the patch.
    """
    shape = (1, channels, *patch.values())
    dtype = torch.from_numpy(np.empty(0, feed)).dtype
    result = _ask(model, shape, dtype, patch, device)
    return tuple(_answer(model, name, t, patch, channels, dtype) for name, t in flatten(result))


def _ask(
    model: Model,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    patch: dict[str, int],
    device: str | None,
) -> Any:
    try:
        return model.sketch(shape, dtype)
    except Exception:  # noqa: BLE001 - whatever meta tensors cannot do, zeros will tell
        pass
    try:
        where = pick_device(device)
        ready = built_model(model, where)
        with call_gate(), torch.inference_mode():
            return ready(torch.zeros(shape, dtype=dtype, device=where))
    except Exception as error:
        dims = ", ".join(f"{dim}: {size}" for dim, size in patch.items())
        raise ModelError(
            f"the model {model.name} failed on one patch of zeros of shape {shape} = (batch: 1, "
            f"channel: {shape[1]}, {dims}): {type(error).__name__}: {error}"
            + _hint(model, shape[1])
        ) from error


def _hint(model: Model, channels: int) -> str:
    """Say what the model's first layer expects, where it says so itself."""
    skeleton = getattr(model, "skeleton", None)
    if not isinstance(skeleton, torch.nn.Module):
        return ""
    layers = (m for m in skeleton.modules() if hasattr(m, "in_channels") and hasattr(m, "weight"))
    first = next(layers, None)
    if first is None:
        return ""
    told = ""
    if first.in_channels != channels:
        told = (
            f". Its first layer, {type(first).__name__}, expects {first.in_channels} channels, but "
            f"it was fed with {channels}: name the dim that holds them with channel=..., and give "
            f"it {first.in_channels} entries."
        )
    core = getattr(first, "kernel_size", ())
    if isinstance(core, tuple) and told == "" and len(core) > 0:
        told = f". Its first layer, {type(first).__name__}, works on {len(core)} core dims."
    return told


def _answer(
    model: Model,
    name: str | None,
    tensor: torch.Tensor,
    patch: dict[str, int],
    channels: int,
    dtype: torch.dtype,
) -> Answer:
    shape, core = tuple(tensor.shape), len(patch)
    label = "an array" if name is None else f"output {name!r}"
    if len(shape) not in (core + 1, core + 2) or shape[0] != 1:
        raise ModelError(
            f"the model {model.name} returned {label} of shape {shape} for a patch of shape "
            f"{(1, channels, *patch.values())}; expected (batch, channel, {', '.join(patch)}), or "
            f"the same without channel: {core + 2} or {core + 1} axes, and the batch of 1 first."
        )
    sizes = shape[-core:]
    scale = tuple(Fraction(n, p) for n, p in zip(sizes, patch.values(), strict=True))
    for (dim, size), ratio, got in zip(patch.items(), scale, sizes, strict=True):
        if ratio == 0 or min(ratio.numerator, ratio.denominator) > 8:
            raise ModelError(_no_scale(model, label, dim, size, got, ratio))
    if any(ratio != 1 for ratio in scale):
        _check_scale(model, name, label, patch, channels, dtype, scale)
    channel = shape[1] if len(shape) == core + 2 else None
    if channel == 0:
        raise ModelError(f"the model {model.name} returned {label} with no channels: {shape}.")
    return Answer(name, channel, scale, _numpy_name(tensor.dtype))


def _check_scale(
    model: Model,
    name: str | None,
    label: str,
    patch: dict[str, int],
    channels: int,
    dtype: torch.dtype,
    scale: tuple[Fraction, ...],
) -> None:
    """A model that crops its patch returns fewer voxels too; at twice the patch it shows."""
    try:
        result = model.sketch((1, channels, *(2 * size for size in patch.values())), dtype)
    except Exception:  # noqa: BLE001 - a model of one size only, or no meta device: no second look
        return
    double = dict(flatten(result))[name].shape[-len(patch) :]
    for (dim, size), ratio, got in zip(patch.items(), scale, double, strict=True):
        if got != 2 * size * ratio:
            raise ModelError(_no_scale(model, label, dim, size, int(size * ratio), ratio))


def _no_scale(model: Model, label: str, dim: str, size: int, got: int, ratio: Fraction) -> str:
    return (
        f"the model {model.name} turned {size} voxels of dim {dim!r} into {got}, in {label}; "
        f"{ratio} is not a spatial scale such as 1, 2 or 1/4. If its convolutions crop the patch, "
        "pad them (padding='same'), or pad its result inside the model."
    )


def _numpy_name(dtype: torch.dtype) -> str:
    if dtype == torch.bfloat16:
        return "float32"
    return str(torch.empty(0, dtype=dtype).numpy().dtype)
