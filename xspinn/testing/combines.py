"""The contract that every combine rule keeps."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from xspinn.geometry.combine import get_combine

__all__ = ["check_combine"]

Array = npt.NDArray[Any]

PATCH, OVERLAP, PATCHES = 8, 5, 9
STRIDE = PATCH - OVERLAP
SIZE = PATCH + (PATCHES - 1) * STRIDE

RIM = 2
"""Voxels at both ends of a patch to which a window of the checks gives no weight."""


def check_combine(combine: str, *, channels: int = 3, dtype: str = "float64") -> None:
    """Check that a combine rule does what `predict` counts on.

    The answer does not depend on the order in which patches are added, nor on how they are shared
    out among blocks; where patches agree, it is what they say, and so it is where there is but one;
    it goes beyond none of what they say; a patch without weight has no say; and of equal classes
    the lowest wins.

    Parameters
    ----------
    combine : str
        Name of the rule, as in `predict`.
    channels : int, default: 3
        Channels of the predictions; 2 at least.
    dtype : str, default: "float64"
        Of the predictions, which are floats.

    Raises
    ------
    AssertionError
        Says what does not hold.
    PlanError
        If there is no rule of this name.

    Examples
    --------
    >>> from xspinn.testing import check_combine
    >>> check_combine("mean")
    >>> check_combine("hard", channels=5)
    """
    check = _Checks(combine, channels, dtype)
    check.patches_that_agree()
    check.one_patch()
    check.range()
    check.weights()
    check.order()
    check.blocks()
    if check.classes:
        check.ties()


class _Checks:
    """What is checked, of a rule and what patches say."""

    def __init__(self, combine: str, channels: int, dtype: str) -> None:
        self.combine, self.classes = combine, get_combine(combine).classes
        self.tolerance = 32 * float(np.finfo(dtype).eps)
        rng = np.random.default_rng(0)
        self.said: Array = rng.uniform(-1, 1, (PATCHES, channels, PATCH)).astype(dtype)

    def patches_that_agree(self) -> None:
        one = self.said[:1].repeat(-(-SIZE // PATCH), 0)
        line = np.concatenate(list(one), axis=1)[:, :SIZE]
        said = np.stack([line[:, k * STRIDE : k * STRIDE + PATCH] for k in range(PATCHES)])
        for window in ("ramp", "gaussian", "uniform", "trim"):
            found = self.predict(said, window=window)
            self.same(
                found, self.alone(line), f"patches agree, with window={window!r}, and it differs"
            )

    def one_patch(self) -> None:
        found = self.predict(self.said[:1], size=PATCH)
        self.same(found, self.alone(self.said[0]), "it changes what one patch says")

    def range(self) -> None:
        found = self.predict(self.said)
        for voxel in range(SIZE):
            covering = [
                self.said[k, :, voxel - k * STRIDE]
                for k in range(PATCHES)
                if 0 <= voxel - k * STRIDE < PATCH
            ]
            if self.classes:
                chosen = int(found[voxel])
                behind = np.all([scores > scores[chosen] for scores in covering], axis=0)
                self.require(
                    not behind.any(), "it chooses a class that every patch puts behind another"
                )
            else:
                low, high = np.min(covering, axis=0), np.max(covering, axis=0)
                inside = (low - self.tolerance <= found[:, voxel]) & (
                    found[:, voxel] <= high + self.tolerance
                )
                self.require(bool(inside.all()), "it goes beyond what all patches say")

    def weights(self) -> None:
        window = np.ones(PATCH)
        window[:RIM] = window[-RIM:] = 0
        loud = self.said.copy()
        loud[:, -1, :RIM] = loud[:, -1, -RIM:] = 1000
        inner = slice(
            RIM, SIZE - RIM
        )  # at the array's ends, a lone patch counts whatever it weighs
        found, wanted = (
            self.predict(said, window=window)[..., inner] for said in (loud, self.said)
        )
        self.same(found, wanted, "patches without weight have a say")

    def order(self) -> None:
        forth = self.predict(self.said)
        back = self.predict(self.said[::-1, :, ::-1])
        self.same(back[..., ::-1], forth, "it depends on the order of patches")

    def blocks(self) -> None:
        whole = self.predict(self.said)
        for blocks in (STRIDE, PATCH, (1, SIZE - 3, 2)):
            for lazy in (False, True):
                parts = self.predict(self.said, blocks=blocks, lazy=lazy)
                self.same(
                    parts, whole, f"with blocks={blocks} it gives another answer than with one"
                )

    def ties(self) -> None:
        level = np.zeros_like(self.said)
        self.require(
            not self.predict(level).any(), "of classes that are equal, the lowest does not win"
        )
        # Every voxel is covered by one patch for each of two classes, of the same weight.
        said = np.zeros((4, *self.said.shape[1:]), self.said.dtype)
        said[0::2, -1], said[1::2, -2] = 1, 1
        found = self.predict(said, size=PATCH // 2 * 5, overlap=PATCH // 2, window="uniform")
        middle = found[PATCH // 2 : -PATCH // 2]
        lower = self.said.shape[1] - 2
        self.require(
            bool((middle == lower).all()), "of votes that are equal, the lowest does not win"
        )

    def predict(
        self,
        said: Array,
        *,
        size: int = SIZE,
        overlap: int = OVERLAP,
        lazy: bool = False,
        blocks: Any = -1,
        **options: Any,
    ) -> Array:
        """Predict with a model that says this of the patches, one after the other."""
        stride = PATCH - overlap

        def model(batch: Array) -> Array:
            return np.stack([said[int(patch[0, 0]) // stride] for patch in batch])

        places = xr.DataArray(np.arange(size, dtype=said.dtype), dims=("x",))
        result = (places.chunk() if lazy else places).spinn.predict(
            model,
            patch={"x": PATCH},
            overlap=overlap,
            combine=self.combine,
            blocks=blocks if isinstance(blocks, int) else {"x": blocks},
            batch=2,
            **options,
        )
        result = result.compute(scheduler="synchronous").transpose(..., "x")
        values: Array = result.values
        return values

    def alone(self, scores: Array) -> Array:
        """What one patch says: classes, or all channels."""
        return scores.argmax(0) if self.classes else scores

    def same(self, found: Array, wanted: Array, what: str) -> None:
        if self.classes:
            differs = float((found != wanted).mean())
            self.require(differs == 0, f"{what} ({differs:.0%} of voxels)")
        else:
            error = float(np.abs(found - wanted).max())
            self.require(error <= self.tolerance, f"{what} (difference {error:.1e})")

    def require(self, holds: bool, what: str) -> None:
        if not holds:
            raise AssertionError(f"combine={self.combine!r}: {what}.")
