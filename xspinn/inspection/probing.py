"""Tell a spatial scale from a crop, by how a model's values move with its input.

A network of scale 1/2 and one whose convolutions crop half of the patch both turn 16 voxels into
8. But when the input moves by 2 voxels, what the first returns moves by 1, and what the second
returns by 2.
"""

from __future__ import annotations

import torch

from xspinn.inspection.one_patch import Call, OnePatch
from xspinn.plans.outputs import Answer

__all__ = ["is_scale"]

N_DRAWS = 4
"""Patches of noise: what a model returns at a place for any input is their mean there."""

MAX_SHARE = 0.6
"""Of the difference at any other move, at most this much may be left at the move of the scale."""


def is_scale(asked: OnePatch, answer: Answer, at: int) -> bool:
    """Return whether an output moves with its input as its scale says.

    Parameters
    ----------
    asked : OnePatch
        The model and its patch.
    answer : Answer
        What is known of the output.
    at : int
        The core dim: its place in the patch.

    Returns
    -------
    bool
        False also where the values do not tell.
    """
    dim, scale = at - len(asked.patch), answer.scale[at]
    draws = [asked.noise(seed=seed) for seed in range(N_DRAWS)]

    def run(call: Call) -> list[torch.Tensor]:
        return [
            _varying([dict(call(draw.roll(move, dim)))[answer.name] for draw in draws], dim)
            for move in (0, 1, scale.denominator)
        ]

    still, by_one, moved = asked.in_turn(run)
    moves = range(min(still.shape[-1], scale.denominator + 1))
    left = {move: _difference(still, moved, move) for move in moves}
    own = left.pop(scale.numerator, 1.0)
    # Whatever crops without strides inside moves by one with its input.
    others = [*left.values(), _difference(still, by_one, 1)]
    return own < MAX_SHARE * min(others)


def _varying(values: list[torch.Tensor], dim: int) -> torch.Tensor:
    """What differs from draw to draw, the dim last."""
    stacked = torch.stack([value.cpu().double() for value in values])
    return (stacked - stacked.mean(0)).movedim(dim, -1)


def _difference(still: torch.Tensor, moved: torch.Tensor, move: int) -> float:
    """Say how different they are after a move: 0 where they are the same, 1 where unrelated."""
    one, other = still[..., : still.shape[-1] - move], moved[..., move:]
    power = one.square().sum() + other.square().sum()
    return float((one - other).square().sum() / power) if power > 0 else 1.0
