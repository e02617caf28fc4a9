"""Weigh the patches of one block and sum them up, on the device where they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from xspinn.block.classes import settle, vote
from xspinn.block.finishing import finish, finish_labels
from xspinn.block.piece import Piece
from xspinn.block.written import Written
from xspinn.errors import ModelError
from xspinn.geometry.boxes import slices
from xspinn.plans.exchange import Layout
from xspinn.plans.parts import Output
from xspinn.plans.plan import Plan

__all__ = ["Item", "Sums"]

Item: TypeAlias = tuple[int, tuple[int, ...], tuple[slice, ...]]
"""Position of the looped dims, number of the patch along every core dim, where it is cut."""

MANY = 32
"""Channels from which a patch is added by planes, where its channels lie side by side."""


class Sums:
    """The sums of one output over one block's write box.

    Add every batch, then take the `tensors` to the host and `pack` them there.

    Parameters
    ----------
    plan : Plan
    output : Output
        One of the plan's.
    block : sequence of int
        Its place in the plan's `block_grid`.
    loops : int
        Positions of the looped dims in the block.
    device : torch.device
    """

    def __init__(
        self, plan: Plan, output: Output, block: Sequence[int], loops: int, device: torch.device
    ) -> None:
        self.plan, self.output, self.block = plan, output, block
        self.layout = Layout.of(plan, output, block)
        places = block[len(plan.loops) :]
        self.prints = plan.footprints(output)
        self.origin = [p.writes[k][0] for p, k in zip(self.prints, places, strict=True)]
        self.dtype = getattr(torch, output.accumulate)
        self.patch = (output.channels or 1, *(p.patch for p in self.prints))
        # The only buffer of this size, with its dims as they leave the block.
        empty = _least(self.dtype) if plan.rule.reduce == "max" else 0
        shape = [hi for _, hi in self.layout.box]
        self.array = torch.full(shape, empty, dtype=self.dtype, device=device)
        dims = [*(loop.dim for loop in plan.loops), None, *(axis.dim for axis in plan.axes)]
        self.total = self.array.permute([plan.raw_dims.index(dim) for dim in dims])
        self.loops = tuple(self.total.shape[: len(plan.loops)])
        if int(np.prod(self.loops)) != loops:
            raise AssertionError(f"{loops} positions of looped dims, but blocks have {self.loops}")
        self.weights: dict[tuple[int, int], torch.Tensor | None] = {}
        self.products: dict[tuple[int, ...], torch.Tensor | None] = {}

    # -- adding --------------------------------------------------------------------------------

    def add(self, tensor: torch.Tensor, batch: list[Item]) -> None:
        """Add a batch of what the model returned."""
        tensor = tensor.to(self.array.device)
        if self.output.channels is None:
            tensor = tensor.unsqueeze(1)
        if tuple(tensor.shape) != (len(batch), *self.patch):
            raise ModelError(
                f"the model returned shape {tuple(tensor.shape)} for a batch of {len(batch)}; "
                f"expected {(len(batch), *self.patch)}, as it answered before the run."
            )
        for one, (loop, numbers, _) in zip(tensor, batch, strict=True):
            self._add(self.total[tuple(np.unravel_index(loop, self.loops))], one, numbers)

    def _add(self, total: torch.Tensor, patch: torch.Tensor, numbers: tuple[int, ...]) -> None:
        of, into = [slice(None)], [slice(None)]
        for p, n, origin in zip(self.prints, numbers, self.origin, strict=True):
            (lo, hi), start = p.supports[n], p.starts[n]
            of.append(slice(lo - start, hi - start))
            into.append(slice(lo - origin, hi - origin))
        patch, target = patch[tuple(of)], total[tuple(into)]
        if not target.numel():
            return
        weight = self._product(numbers)
        if self.plan.rule.before == "one_hot":
            vote(target, patch, target.new_ones(()) if weight is None else weight)
        elif self.plan.rule.reduce == "max":
            patch = patch.to(self.dtype)
            if weight is not None:
                patch = torch.where(weight, patch, _least(self.dtype))
            torch.maximum(target, patch, out=target)
        else:
            _add_weighted(target, patch, weight)

    def _product(self, numbers: tuple[int, ...]) -> torch.Tensor | None:
        """Weights of a patch within its support; None if all are one.

        For one channel this is as much work as a pass over the patch, so all dims but the first
        are multiplied once for all patches that share them.
        """
        first, rest = self._weight(0, numbers[0]), numbers[1:]
        if rest not in self.products:
            product = None
            for axis, n in reversed(list(enumerate(rest, 1))):
                product = _times(self._weight(axis, n), product)
            self.products[rest] = product
        return _times(first, self.products[rest])

    def _weight(self, axis: int, n: int) -> torch.Tensor | None:
        """Weights along one dim, for a maximum those that count; None if all are one."""
        if (axis, n) not in self.weights:
            p = self.prints[axis]
            (lo, hi), start = p.supports[n], p.starts[n]
            values = p.weights[n][lo - start : hi - start]
            greatest = self.plan.rule.reduce == "max"
            # A copy, because the weights themselves are shared and read-only.
            made = torch.tensor(
                values > 0 if greatest else values, dtype=torch.bool if greatest else self.dtype
            )
            flat = bool((made == 1).all())
            made = made.view(-1, *[1] * (len(self.prints) - 1 - axis))
            # Looked at on the host, and sent without waiting for what the device is at.
            sent = None if flat else made.to(self.array.device, non_blocking=True)
            self.weights[axis, n] = sent
        return self.weights[axis, n]

    # -- leaving -------------------------------------------------------------------------------

    def tensors(self) -> list[torch.Tensor]:
        """Return what must leave the device, after the last `add`.

        Returns
        -------
        list of torch.Tensor
            All contiguous. First a bool without dims, whether any of the sums is NaN; then what
            is settled, if anything is, and the sums of each open box of the layout. Nothing here
            waits for the device.
        """
        found = [self._any_nan()]
        if self.layout.settled is not None:
            settled = self.array[slices(self.layout.settled, self.layout.box)]
            found.append(settle(self.plan, self.output, settled))
        for box in self.layout.open:
            piece = self.array[slices(box, self.layout.box)]
            # A part is copied, or it would keep the whole.
            part = box != self.layout.box
            found.append(piece.clone(memory_format=torch.contiguous_format) if part else piece)
        return found

    def pack(self, arrays: Sequence[npt.NDArray[Any]]) -> Written:
        """Return what the run task returns.

        Parameters
        ----------
        arrays : sequence of numpy.ndarray
            The `tensors`, all of them, on the host.
        """
        _, *rest = arrays
        if self.layout.settled is None:
            return Written(None, tuple(rest))
        settled, *rest = rest
        piece = Piece(self.plan, self.output, self.block, self.layout.settled)
        # Of classes, the device has found the greatest already.
        last = finish_labels if self.plan.rule.classes else finish
        return Written(last(piece, settled), tuple(rest))

    def first_nan(self) -> tuple[int, ...] | None:
        """Place of the first NaN among the sums, along the plan's `raw_dims` in the write box."""
        found = torch.isnan(self.array).flatten()
        if not bool(found.any()):
            return None
        at = int(found.to(torch.uint8).argmax())
        return tuple(int(k) for k in np.unravel_index(at, self.array.shape))

    def _any_nan(self) -> torch.Tensor:
        """Whether any of the sums is NaN: the greatest is, if any is, and that needs no copy."""
        array = torch.view_as_real(self.array) if self.array.is_complex() else self.array
        if not array.is_floating_point():
            return torch.zeros((), dtype=torch.bool, device=array.device)
        return array.amax().isnan()


def _times(one: torch.Tensor | None, other: torch.Tensor | None) -> torch.Tensor | None:
    """Multiply weights, where None stands for ones."""
    if one is None or other is None:
        return other if one is None else one
    return one * other


def _add_weighted(target: torch.Tensor, patch: torch.Tensor, weight: torch.Tensor | None) -> None:
    """Add a patch to the sums in one pass; what is half as wide is widened on the way."""
    if patch.dtype not in (torch.float16, torch.bfloat16):
        patch = patch.to(target.dtype)
    if weight is None:
        target += patch
    elif len(patch) < MANY or patch.stride(0) != 1 or patch.ndim < 3 or patch.device.type != "cpu":
        target.addcmul_(patch, weight)
    else:
        # Every channel is a walk over all of the patch. Planes stay in the cache meanwhile.
        planes = weight.expand(patch.shape[1:])
        for k, plane in enumerate(planes):
            target[:, k].addcmul_(patch[:, k], plane)


def _least(dtype: torch.dtype) -> float:
    return -float("inf") if dtype.is_floating_point else torch.iinfo(dtype).min
