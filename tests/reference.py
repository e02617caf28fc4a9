"""The same answer by brute force: one numpy loop over all patches, one buffer, no blocks."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np

from xspinn.axis import Axis
from xspinn.lattice import extended_indices
from xspinn.windows import partition_of_unity


def brute_force(
    array: np.ndarray, axes: tuple[Axis, ...], model: Callable, combine: str
) -> np.ndarray:
    """Predict an array of the core dims only; returns (channel, *core), or (*core) for classes."""
    weights = [partition_of_unity(a.window, a.starts, a.patch, a.size) for a in axes]
    total = None
    for numbers in itertools.product(*(range(len(axis.starts)) for axis in axes)):
        patch = array
        for k, (axis, n) in enumerate(zip(axes, numbers, strict=True)):
            first = axis.starts[n]
            at = extended_indices(first, first + axis.patch, axis.size, axis.boundary)
            patch = np.take(patch, at.clip(0), axis=k)
            if (at < 0).any():
                shape = [-1 if k == j else 1 for j in range(patch.ndim)]
                patch = np.where((at < 0).reshape(shape), axis.boundary, patch)
        answer = np.asarray(model(patch[None, None]))[0]
        if combine == "hard":
            answer = np.eye(len(answer))[answer.argmax(0)]
            answer = np.moveaxis(answer, -1, 0)
        if total is None:
            empty = -np.inf if combine == "max" else 0.0
            total = np.full((len(answer), *array.shape), empty)
        for voxel in np.ndindex(*answer.shape[1:]):
            place = tuple(
                axis.starts[n] + v for axis, n, v in zip(axes, numbers, voxel, strict=True)
            )
            if not all(0 <= p < a.size for p, a in zip(place, axes, strict=True)):
                continue
            weight = np.prod([weights[k][numbers[k]][v] for k, v in enumerate(voxel)])
            at = (slice(None), *place)
            if combine == "max":
                if weight > 0:
                    total[at] = np.maximum(total[at], answer[(slice(None), *voxel)])
            else:
                total[at] += weight * answer[(slice(None), *voxel)]
    assert total is not None
    if combine == "soft":
        return total.argmax(0)
    if combine == "hard":
        return np.rint(total * 2**20).argmax(0)
    return total
