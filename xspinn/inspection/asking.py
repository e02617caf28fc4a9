"""Ask a model what it needs and what it returns, on one patch and before anything runs."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import torch

from xspinn.errors import ModelError
from xspinn.machine.devices import pick_device
from xspinn.machine.threads import in_turn
from xspinn.models.activations import Activation, activate
from xspinn.models.base import Model
from xspinn.models.built import built_model
from xspinn.models.results import flatten
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
    activation : callable, optional
        Applied to what the model returns.

    Returns
    -------
    tuple of Answer

    Raises
    ------
    ModelError
        If the model fails on a patch, or returns another rank, or a size that is no simple
        multiple of the patch.
    """
    asked = _Question(model, patch, channels, feed, device, activation)
    _check_shape(asked)
    tensors = asked.ask(1)
    answers = tuple(_answer(asked, name, tensor) for name, tensor in tensors)
    if any(ratio != 1 for answer in answers for ratio in answer.scale):
        _check_scales(asked, answers)
    return answers


@dataclass(frozen=True)
class _Question:
    """What is asked of whom."""

    model: Model
    patch: dict[str, int]
    channels: int
    feed: np.dtype[Any]
    device: str | None
    activation: str | Activation | None

    def shape(self, times: int) -> tuple[int, ...]:
        return (1, self.channels, *(times * size for size in self.patch.values()))

    def ask(self, times: int) -> list[tuple[str | None, torch.Tensor]]:
        """Return what the model returns for a patch that is so many times as large."""
        dtype = torch.from_numpy(np.empty(0, self.feed)).dtype
        with contextlib.suppress(Exception):  # what meta tensors cannot do, zeros will tell
            return self._applied(self.model.outline(self.shape(times), dtype))
        where = self.model.device(pick_device(self.device))
        try:
            zeros = torch.zeros(self.shape(times), dtype=dtype).to(where)

            def run() -> list[tuple[str | None, torch.Tensor]]:
                return self._applied(built_model(self.model, where)(zeros))

            return in_turn(where, run) if self.model.kept else run()
        except ModelError:
            raise
        except Exception as error:
            dims = ", ".join(f"{dim}: {times * size}" for dim, size in self.patch.items())
            raise ModelError(
                f"the model {self.model.name} failed on one patch of zeros of shape "
                f"{self.shape(times)} = (batch: 1, channel: {self.channels}, {dims}): "
                f"{type(error).__name__}: {error}" + _hint(self.model, self.channels)
            ) from error

    def _applied(self, result: Any) -> list[tuple[str | None, torch.Tensor]]:
        with torch.inference_mode():
            return [(name, activate(self.activation, t)) for name, t in flatten(result)]


def _check_shape(asked: _Question) -> None:
    """Some files fix the sizes of what they take."""
    fixed, got = asked.model.shape, asked.shape(1)
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


def _answer(asked: _Question, name: str | None, tensor: torch.Tensor) -> Answer:
    shape, core = tuple(tensor.shape), len(asked.patch)
    label = _label(name)
    if len(shape) not in (core + 1, core + 2) or shape[0] != 1:
        raise ModelError(
            f"the model {asked.model.name} returned {label} of shape {shape} for a patch of shape "
            f"{asked.shape(1)}; expected (batch, channel, {', '.join(asked.patch)}), or the same "
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


def _check_scales(asked: _Question, answers: tuple[Answer, ...]) -> None:
    """A model that crops its patch returns fewer voxels too; at twice the patch it shows."""
    try:
        double = dict(asked.ask(2))
    except ModelError:  # a model of one size only, which is taken at its word where that is simple
        double = {}
    for answer in answers:
        for at, (dim, size) in enumerate(asked.patch.items()):
            ratio = answer.scale[at]
            if answer.name in double:
                wrong = double[answer.name].shape[at - len(asked.patch)] != 2 * size * ratio
            else:
                wrong = 1 not in (ratio.numerator, ratio.denominator)
            if wrong:
                raise ModelError(_no_scale(asked.model, _label(answer.name), dim, size, ratio))


def _label(name: str | None) -> str:
    return "an array" if name is None else f"output {name!r}"


def _no_scale(model: Model, label: str, dim: str, size: int, ratio: Fraction) -> str:
    return (
        f"the model {model.name} turned {size} voxels of dim {dim!r} into {size * ratio}, in "
        f"{label}; {ratio} is not a spatial scale such as 1, 2 or 1/4. If its convolutions crop "
        "the patch, pad them (padding='same'), or pad its result inside the model."
    )


def _numpy_name(dtype: torch.dtype) -> str:
    if dtype == torch.bfloat16:
        return "float32"
    return str(torch.empty(0, dtype=dtype).numpy().dtype)
