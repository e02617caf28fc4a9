"""Pass on what blocks wrote into each other's chunks: cut strips off, add the neighbours', finish.

All of it is numpy on what one block holds; which block needs whose strips, `xspinn.plans.exchange`
says, and an engine brings them.

Schedulers unpickle this without running it, so this module does not import torch.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

from xspinn.block.finishing import finish
from xspinn.block.piece import Piece
from xspinn.block.written import Array, Written
from xspinn.geometry.boxes import Box, is_filled, meet, slices
from xspinn.plans.exchange import Index, Layout, exchange_of
from xspinn.plans.plan import Plan

__all__ = ["Strips", "add_strips", "cut_strips"]

Strips: TypeAlias = tuple[Index, dict[Index, Array]]
"""A block, and for every neighbour what the block wrote into its chunk."""


def cut_strips(
    plan: Plan, number: int, index: Index, far: int, written: tuple[Written, ...]
) -> Strips:
    """Copy what a block wrote into its neighbours' chunks; copies let go of the block."""
    exchange = exchange_of(plan, number)
    others = [other for other in exchange.targets(index) if exchange.far(index, other) == far]
    cuts = {other: exchange.meeting(index, other)[0] for other in others}
    layout, sums = exchange.layout(index), written[number].sums
    return index, {other: _gather(layout, sums, box) for other, box in cuts.items()}


def _gather(layout: Layout, sums: Sequence[Array], box: Box) -> Array:
    """Copy a box out of the sums that left a block, which may cut it into several."""
    found = np.empty([hi - lo for lo, hi in box], sums[0].dtype)
    for place, piece in zip(layout.open, sums, strict=True):
        both = meet(place, box)
        if is_filled(both):
            found[slices(both, box)] = piece[slices(both, place)]
    return found


def add_strips(
    plan: Plan, number: int, index: Index, written: tuple[Written, ...], needs: Sequence[Strips]
) -> Array:
    """Sum the neighbours' strips into a block's chunk and finish it."""
    exchange = exchange_of(plan, number)
    layout, own = exchange.layout(index), written[number]
    add = np.maximum if plan.rule.reduce == "max" else np.add
    strips = [
        (exchange.meeting(writer, index)[1], cut[index]) for writer, cut in needs if index in cut
    ]
    done = [] if own.settled is None or layout.settled is None else [(layout.settled, own.settled)]
    for place, sums in zip(layout.open, own.sums, strict=True):
        box = meet(place, layout.chunk)
        if not is_filled(box):
            continue
        total = sums[slices(box, place)]
        if strips:
            total = total.copy()  # what another task returned is never changed
        for where, strip in strips:
            both = meet(where, box)
            if is_filled(both):
                at = slices(both, box)
                add(total[at], strip[slices(both, where)], out=total[at])
        piece = Piece(plan, exchange.output, plan.block_at(index), box)
        done.append((box, finish(piece, total)))
    if len(done) == 1:
        return done[0][1]
    kept = [exchange.output.dim is not None or dim is not None for dim in plan.raw_dims]
    shape = itertools.compress((hi - lo for lo, hi in layout.chunk), kept)
    result = np.empty(tuple(shape), exchange.output.dtype)
    for box, values in done:
        result[tuple(itertools.compress(slices(box, layout.chunk), kept))] = values
    return result
