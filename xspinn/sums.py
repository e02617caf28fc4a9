"""Weigh the patches of one block and sum them up, on the device where they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy.typing as npt
import torch

from xspinn.axis import Footprint
from xspinn.errors import ModelError
from xspinn.plan import Output, Plan

__all__ = ["Item", "Sums"]

Item: TypeAlias = tuple[int, tuple[int, ...], tuple[slice, ...]]
"""Position of the looped dims, number of the patch along every core dim, where it is cut."""


class Sums:
    """The sums of one output over one block's write box."""

    def __init__(
        self, plan: Plan, output: Output, block: Sequence[int], loops: int, device: torch.device
    ) -> None:
        self.plan, self.output = plan, output
        places = block[len(plan.loops) :]
        self.prints = plan.footprints(output)
        self.origin = [p.writes[k][0] for p, k in zip(self.prints, places, strict=True)]
        box = [p.writes[k][1] - p.writes[k][0] for p, k in zip(self.prints, places, strict=True)]
        chunks = [
            loop.chunks[k] for loop, k in zip(plan.loops, block[: len(plan.loops)], strict=True)
        ]
        self.shape = (*chunks, output.channels or 1, *box)
        self.dtype = getattr(torch, output.accumulate)
        self.patch = (output.channels or 1, *(p.patch for p in self.prints))
        empty = _least(self.dtype) if plan.rule.reduce == "max" else 0
        self.total = torch.full(
            (loops, *self.shape[len(chunks) :]), empty, dtype=self.dtype, device=device
        )
        self.weights: dict[tuple[Footprint, int], torch.Tensor | None] = {}

    def add(self, tensor: torch.Tensor, batch: list[Item]) -> None:
        """Add a batch of what the model returned."""
        tensor = tensor.to(self.total.device)
        if self.output.channels is None:
            tensor = tensor.unsqueeze(1)
        if tuple(tensor.shape) != (len(batch), *self.patch):
            raise ModelError(
                f"the model returned shape {tuple(tensor.shape)} for a batch of {len(batch)}; "
                f"expected {(len(batch), *self.patch)}, as it answered before the run."
            )
        if self.plan.rule.before == "one_hot":
            votes = torch.zeros_like(tensor, dtype=self.dtype)
            votes.scatter_(1, tensor.argmax(1, keepdim=True), 1)
            # A vote of NaN is no vote, and must not look like one.
            tensor = votes.masked_fill_(tensor.isnan().any(1, keepdim=True), torch.nan)
        for one, (loop, numbers, _) in zip(tensor, batch, strict=True):
            self._add(self.total[loop], one, numbers)

    def _add(self, total: torch.Tensor, patch: torch.Tensor, numbers: tuple[int, ...]) -> None:
        of, into = [slice(None)], [slice(None)]
        for p, n, origin in zip(self.prints, numbers, self.origin, strict=True):
            (lo, hi), start = p.supports[n], p.starts[n]
            of.append(slice(lo - start, hi - start))
            into.append(slice(lo - origin, hi - origin))
        patch = patch[tuple(of)].to(self.dtype)
        target = total[tuple(into)]
        greatest = self.plan.rule.reduce == "max"
        for axis, (p, n) in enumerate(zip(self.prints, numbers, strict=True), 1):
            weight = self._weight(p, n)
            if weight is not None:
                weight = weight.view([-1 if k == axis else 1 for k in range(patch.ndim)])
                patch = (
                    torch.where(weight, patch, _least(self.dtype)) if greatest else patch * weight
                )
        if greatest:
            torch.maximum(target, patch, out=target)
        else:
            target += patch

    def _weight(self, p: Footprint, n: int) -> torch.Tensor | None:
        """Weights of a patch within its support, for a maximum those that count; None if all do."""
        if (p, n) not in self.weights:
            (lo, hi), start = p.supports[n], p.starts[n]
            values = p.weights[n][lo - start : hi - start]
            greatest = self.plan.rule.reduce == "max"
            # A copy, because the weights themselves are shared and read-only.
            made = torch.tensor(
                values > 0 if greatest else values,
                dtype=torch.bool if greatest else self.dtype,
                device=self.total.device,
            )
            self.weights[p, n] = None if bool((made == 1).all()) else made
        return self.weights[p, n]

    def result(self) -> npt.NDArray[Any]:
        """Return the sums on the host, dims as in the plan's `raw_dims`."""
        array = self.total.cpu().numpy().reshape(self.shape)
        dims = [*(loop.dim for loop in self.plan.loops), None, *(a.dim for a in self.plan.axes)]
        return array.transpose([dims.index(dim) for dim in self.plan.raw_dims])


def _least(dtype: torch.dtype) -> float:
    return -float("inf") if dtype.is_floating_point else torch.iinfo(dtype).min
