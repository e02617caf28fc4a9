"""The same answer by brute force: one numpy loop over all patches, one buffer, no blocks.

Nothing here is taken from xspinn: lattice, windows and boundaries are written once more, voxel by
voxel, from their definitions.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np

from helpers.strategies import Case


def lattice(size: int, patch: int, overlap: int, boundary: str | float) -> list[int]:
    """Starts of all patches along one dim."""
    if boundary == "none":
        starts = [0]
        while starts[-1] + patch < size:
            starts.append(min(starts[-1] + patch - overlap, size - patch))
        return starts
    starts = [-(overlap // 2)]
    while starts[-1] + patch < size + overlap // 2:
        starts.append(starts[-1] + patch - overlap)
    return starts


def weight(window: str, starts: list[int], k: int, patch: int, x: float) -> float:
    """Weight of patch `k` at position `x` of the array, before it is normalised."""
    inside = (x - starts[k]) / patch
    if window == "uniform":
        return 1.0
    if window == "hann":
        return math.sin(math.pi * inside) ** 2
    if window == "gaussian":
        return math.exp(-0.5 * ((inside - 0.5) * 8) ** 2)
    result = 1.0
    for neighbour in (k - 1, k + 1):
        if not 0 <= neighbour < len(starts):
            continue
        first, second = sorted((starts[k], starts[neighbour]))
        shared = first + patch - second
        middle = (first + patch + second) / 2
        width = {"ramp": min(4, shared), "trim": 0, "linear": shared}[window]
        if width:
            rise = min(max((x - middle) / width + 0.5, 0), 1)
        else:
            rise = float(x >= middle)
        if window == "ramp":
            rise = 0.5 - 0.5 * math.cos(math.pi * rise)
        result *= rise if neighbour < k else 1 - rise
    return result


def origin(at: int, size: int, boundary: str | float) -> int | None:
    """Where a voxel of the extended array comes from; None where it is a constant."""
    if 0 <= at < size:
        return at
    if boundary == "nearest":
        return min(max(at, 0), size - 1)
    if boundary == "periodic":
        return at % size
    if boundary == "reflect":
        at %= 2 * size
        return at if at < size else 2 * size - 1 - at
    return None


def brute_force(array: np.ndarray, case: Case, model: Callable, combine: str) -> np.ndarray:
    """Predict an array of the core dims, in the order of the patch, after those of channels.

    Returns (channel, *core), or (*core) for classes.
    """
    dims = list(case.patch)
    channels = array if array.ndim > len(dims) else array[None]
    array = channels[0]
    starts = [lattice(array.shape[k], case.patch[d], case.overlap[d], case.boundary[d])
              for k, d in enumerate(dims)]  # fmt: skip
    weights = []
    for k, dim in enumerate(dims):
        raw = np.zeros((len(starts[k]), array.shape[k]))
        for n, first in enumerate(starts[k]):
            for x in range(max(first, 0), min(first + case.patch[dim], array.shape[k])):
                raw[n, x] = weight(case.window, starts[k], n, case.patch[dim], x + 0.5)
        weights.append(raw / raw.sum(0))
    total = None
    for numbers in itertools.product(*(range(len(s)) for s in starts)):
        firsts = [starts[k][n] for k, n in enumerate(numbers)]
        patch = np.empty([len(channels), *(case.patch[dim] for dim in dims)], array.dtype)
        for voxel in np.ndindex(*patch.shape[1:]):
            place = np.add(firsts, voxel).tolist()
            of = [origin(x, array.shape[k], case.boundary[dims[k]]) for k, x in enumerate(place)]
            outside = [case.boundary[dims[k]] for k, x in enumerate(of) if x is None]
            # Dims are extended one after the other, so the last one's constant wins.
            at = (slice(None), *voxel)
            patch[at] = outside[-1] if outside else channels[(slice(None), *of)]
        answer = np.asarray(model(patch[None]))[0]
        if combine == "hard":
            answer = np.moveaxis(np.eye(len(answer))[answer.argmax(0)], -1, 0)
        if total is None:
            total = np.full((len(answer), *array.shape), -np.inf if combine == "max" else 0.0)
        for voxel in np.ndindex(*patch.shape[1:]):
            place = tuple(np.add(firsts, voxel).tolist())
            if not all(0 <= x < n for x, n in zip(place, array.shape, strict=True)):
                continue
            counts = math.prod(weights[k][n, place[k]] for k, n in enumerate(numbers))
            at, value = (slice(None), *place), answer[(slice(None), *voxel)]
            if combine != "max":
                total[at] += counts * value
            elif counts > 0:
                total[at] = np.maximum(total[at], value)
    assert total is not None
    if combine == "soft":
        return total.argmax(0)
    if combine == "hard":
        return np.rint(total * 2**20).argmax(0)
    return total
