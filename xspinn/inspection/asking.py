"""Ask a model what it needs and what it returns, on one patch and before anything runs."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import torch

from xspinn.errors import ModelError
from xspinn.inspection.one_patch import OnePatch
from xspinn.inspection.probing import is_scale
from xspinn.models.activations import Activation
from xspinn.models.base import Model
from xspinn.plans.outputs import Answer

__all__ = ["inspect_model"]


def inspect_model(
    model: Model,
    patch: dict[str, int],
    channels: int,
    feed: np.dtype[Any],
    device: str | None,
    activation: str | Activation | None = None,
) -> tuple[Answer, ...]:
    """Find out what a model returns, on the meta device or else on one patch.

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
        Where the model is called, if it must be.
    activation : callable, optional
        Applied to what the model returns.

    Returns
    -------
    tuple of Answer

    Raises
    ------
    ModelError
        If the model fails on a patch, or returns another rank, or a size that is no simple
        multiple of the patch, or that may as well be a crop of it.
    """
    asked = OnePatch(model, patch, channels, feed, device, activation)
    _check_shape(asked)
    answers = tuple(_answer(asked, name, tensor) for name, tensor in asked.outline())
    if any(ratio != 1 for answer in answers for ratio in answer.scale):
        _check_scales(asked, answers)
    return answers


def _check_shape(asked: OnePatch) -> None:
    """Some files fix the sizes of what they take."""
    fixed, got = asked.model.shape, asked.shape()
    if fixed is None:
        return
    if len(fixed) != len(got):
        raise ModelError(
            f"the model {asked.model.name} takes {len(fixed)} axes, {_sizes(fixed)}, but a patch "
            f"has {len(got)}: batch, channel, {', '.join(asked.patch)}."
        )
    if fixed[1] not in (None, asked.channels):
        raise ModelError(
            f"the model {asked.model.name} takes {fixed[1]} channels, but it is fed with "
            f"{asked.channels}: name the dim that holds them with channel=..., and give it "
            f"{fixed[1]} entries."
        )
    wanted = dict(zip(asked.patch, fixed[2:], strict=True))
    wrong = {dim: n for dim, n in wanted.items() if n not in (None, asked.patch[dim])}
    if wrong:
        sizes = ", ".join(f"{dim!r}: {n or asked.patch[dim]}" for dim, n in wanted.items())
        raise ModelError(
            f"the model {asked.model.name} takes patches of one size only, "
            + ", ".join(f"{n} voxels of dim {dim!r}" for dim, n in wrong.items())
            + f", but patch={asked.patch}. Give patch={{{sizes}}}, or export the model with "
            "dynamic sizes."
        )


def _sizes(fixed: tuple[int | None, ...]) -> str:
    return "(" + ", ".join("any" if n is None else str(n) for n in fixed) + ")"


def _answer(asked: OnePatch, name: str | None, tensor: torch.Tensor) -> Answer:
    shape, core = tuple(tensor.shape), len(asked.patch)
    label = _label(name)
    if len(shape) not in (core + 1, core + 2) or shape[0] != 1:
        raise ModelError(
            f"the model {asked.model.name} returned {label} of shape {shape} for a patch of shape "
            f"{asked.shape()}; expected (batch, channel, {', '.join(asked.patch)}), or the same "
            f"without channel: {core + 2} or {core + 1} axes, and the batch of 1 first."
        )
    sizes = shape[-core:]
    scale = tuple(Fraction(n, p) for n, p in zip(sizes, asked.patch.values(), strict=True))
    for (dim, size), ratio in zip(asked.patch.items(), scale, strict=True):
        if ratio == 0 or min(ratio.numerator, ratio.denominator) > 8:
            raise ModelError(_no_scale(asked.model, label, dim, size, ratio))
    channel = shape[1] if len(shape) == core + 2 else None
    if channel == 0:
        raise ModelError(
            f"the model {asked.model.name} returned {label} with no channels: {shape}."
        )
    return Answer(name, channel, scale, _numpy_name(tensor.dtype))


def _check_scales(asked: OnePatch, answers: tuple[Answer, ...]) -> None:
    """A model that crops its patch returns fewer voxels too; at twice the patch it shows."""
    try:
        double = dict(asked.outline(2))
    except ModelError:  # a model of one size only
        double = {}
    for answer in answers:
        for at, (dim, size) in enumerate(asked.patch.items()):
            ratio = answer.scale[at]
            label = _label(answer.name)
            if answer.name in double:
                wrong = double[answer.name].shape[at - len(asked.patch)] != 2 * size * ratio
            else:
                wrong = 1 not in (ratio.numerator, ratio.denominator)
            if wrong:
                raise ModelError(_no_scale(asked.model, label, dim, size, ratio))
            # One voxel stands for the middle of the patch either way.
            unclear = answer.name not in double and 1 / Fraction(size) < ratio < 1
            if unclear and not is_scale(asked, answer, at):
                raise ModelError(_scale_or_crop(asked.model, label, dim, size, ratio))


def _label(name: str | None) -> str:
    return "an array" if name is None else f"output {name!r}"


def _no_scale(model: Model, label: str, dim: str, size: int, ratio: Fraction) -> str:
    return (
        f"the model {model.name} turned {size} voxels of dim {dim!r} into {size * ratio}, in "
        f"{label}; {ratio} is not a spatial scale such as 1, 2 or 1/4. If its convolutions crop "
        "the patch, pad them (padding='same'), or pad its result inside the model."
    )


def _scale_or_crop(model: Model, label: str, dim: str, size: int, ratio: Fraction) -> str:
    return (
        f"the model {model.name} turned {size} voxels of dim {dim!r} into {size * ratio}, in "
        f"{label}. That may be a spatial scale of {ratio}, or its convolutions may crop "
        f"{size - size * ratio} voxels. It takes patches of one size only, and its values do not "
        "tell: what it returns for a patch that is moved does not move as it would at that scale. "
        "If it is a scale, export the model with dynamic sizes; if not, pad its convolutions "
        "(padding='same'), or pad its result inside the model."
    )


def _numpy_name(dtype: torch.dtype) -> str:
    if dtype == torch.bfloat16:
        return "float32"
    return str(torch.empty(0, dtype=dtype).numpy().dtype)
