"""What is applied to a model's output before patches are combined."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch

from xspinn.errors import PlanError
from xspinn.models.hashing import fingerprint
from xspinn.plans.arguments import ActivationLike

__all__ = ["ACTIVATIONS", "Activation", "resolve_activation"]

Activation: TypeAlias = Callable[[torch.Tensor], torch.Tensor]


def _softmax(tensor: torch.Tensor) -> torch.Tensor:
    return torch.softmax(tensor, 1)


ACTIVATIONS: dict[str, Activation] = {
    "softmax": _softmax,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
}


def resolve_activation(
    activation: ActivationLike,
) -> tuple[str | None, str | Activation | None]:
    """Return the name of an activation, for the plan, and what `activate` needs of it.

    Parameters
    ----------
    activation : str, callable or None
        One of `ACTIVATIONS`, or a function of a tensor of shape (batch, channel, *core). Integers
        reach it as float32.

    Returns
    -------
    tuple of (str or None, str, callable or None)
    """
    if activation is None:
        return None, None
    if callable(activation):
        name = getattr(activation, "__name__", type(activation).__name__)
        return f"{name}:{fingerprint(activation)[:12]}", activation
    if activation in ACTIVATIONS:
        return activation, activation
    raise PlanError(
        f"activation={activation!r} is not known; give one of {list(ACTIVATIONS)}, or a function "
        "of a torch tensor of shape (batch, channel, *core dims)."
    )


def activate(activation: str | Activation | None, tensor: torch.Tensor) -> torch.Tensor:
    """Apply an activation, or the one of that name, to what a model returned."""
    if activation is None:
        return tensor
    applied = ACTIVATIONS[activation] if isinstance(activation, str) else activation
    return applied(tensor if tensor.is_floating_point() or tensor.is_complex() else tensor.float())
