"""Which channel is the greatest, on the device where the scores or their sums are."""

from __future__ import annotations

import math

import torch

from xspinn.block.finishing import VOTES
from xspinn.plans.parts import Output
from xspinn.plans.plan import Plan

__all__ = ["greatest", "settle", "vote"]

SLAB = 2**20
"""Sums of which the greatest are found at a time: more would need another buffer, as large."""

SHRINKS = {
    (torch.float32, "float16"),
    (torch.float64, "float32"),
    (torch.complex128, "complex64"),
}
"""Sums and results that are smaller, and which torch rounds as numpy does."""


def greatest(tensor: torch.Tensor, dim: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the greatest channel's value and its number, the lowest where several are equal.

    NaN counts as the greatest of all, as it does for numpy.

    Parameters
    ----------
    tensor : torch.Tensor
    dim : int
        The dim of channels, which goes.

    Returns
    -------
    tuple of torch.Tensor
    """
    channels = tensor.shape[dim]
    # Where the values of a voxel lie far apart, torch compares them one by one on CPUs. Whole
    # planes of channels are compared several times as fast.
    if tensor.device.type != "cpu" or tensor.stride(dim) == 1 or channels > 255:
        values, labels = tensor.max(dim)
        return values, labels
    values = tensor.amax(dim, keepdim=True)
    if bool(values.isnan().any()):
        values, labels = tensor.max(dim)
        return values, labels
    codes = torch.arange(channels, 0, -1, dtype=torch.uint8)
    codes = codes.view([-1 if k == dim else 1 for k in range(tensor.ndim)])
    first = (codes * (tensor == values)).amax(dim)
    return values.squeeze(dim), channels - first


def vote(target: torch.Tensor, scores: torch.Tensor, weight: torch.Tensor) -> None:
    """Add the weight of each voxel to the class that its scores vote for.

    Parameters
    ----------
    target : torch.Tensor of shape (channel, *core)
        Changed in place.
    scores : torch.Tensor of shape (channel, *core)
    weight : torch.Tensor
        Fits the core dims.
    """
    values, labels = greatest(scores, 0)
    unknown = values.isnan()
    # NaN is no vote, and must not look like one. Adding it to one class is enough to show.
    labels = labels.long().masked_fill_(unknown, 0)
    weight = torch.where(unknown, torch.nan, weight)
    # Every voxel has one class, so no two weights meet and their order does not matter.
    target.scatter_add_(0, labels[None], weight[None])


def settle(plan: Plan, output: Output, sums: torch.Tensor) -> torch.Tensor:
    """Finish sums to which nothing will be added, as far as that makes them smaller.

    Parameters
    ----------
    plan : Plan
    output : Output
        One of the plan's.
    sums : torch.Tensor
        Dims as in the plan's `raw_dims`.

    Returns
    -------
    torch.Tensor
        Contiguous. Classes, without the dim of channels, in an integer dtype that holds them, and
        whose greatest value stands where a sum is NaN; or the sums, in the result's dtype where
        that is smaller.
    """
    if not plan.rule.classes:
        small = (sums.dtype, output.dtype) in SHRINKS
        return (sums.to(getattr(torch, output.dtype)) if small else sums).contiguous()
    at = plan.channel_at
    shape = [*sums.shape[:at], *sums.shape[at + 1 :]]
    dtype = torch.uint8 if sums.shape[at] < 256 else torch.int32
    unknown = torch.iinfo(dtype).max
    found = torch.empty(shape, dtype=dtype, device=sums.device)
    along = shape.index(max(shape))
    step = max(1, SLAB * shape[along] // math.prod(sums.shape))
    parts = torch.split(sums, step, along if along < at else along + 1)
    for part, into in zip(parts, torch.split(found, step, along), strict=True):
        counted = (part * VOTES).round_() if plan.rule.before == "one_hot" else part
        values, labels = greatest(counted, at)
        into.copy_(labels).masked_fill_(values.isnan(), unknown)
    return found
