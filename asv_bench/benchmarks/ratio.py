"""`predict` against the model alone, and against the usual recipe, within one run."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import Any

import dask
import numpy as np
import torch
import xarray as xr

import xspinn

from .common import DIMS, UNet3d, counted, map_overlap_recipe, starts, take_count


def seconds(function: Callable[[], Any]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


class _Ways:
    """Ways to run a small 3-D U-Net over a volume in memory, all with all of torch's threads."""

    timeout = 600
    size = 128
    patch = 64
    overlap = 16
    chunk = 64
    batch = 4
    base = 8
    rounds = 3

    def setup(self) -> None:
        torch.manual_seed(0)
        self.model = UNet3d(self.base).eval()
        values = np.random.default_rng(0).standard_normal((self.size,) * 3, "float32")
        self.volume = xr.DataArray(values, dims=DIMS)
        self.places = list(itertools.product(starts(self.size, self.patch, self.overlap), repeat=3))
        boxes = [tuple(slice(s, s + self.patch) for s in place) for place in self.places]
        self.patches = torch.from_numpy(np.stack([values[box] for box in boxes])[:, None])
        self.call(self.patches[:1].numpy())

    def call(self, patches: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return self.model(torch.from_numpy(patches)).numpy()

    def alone(self) -> None:
        """The same patches in the same batches, cut before the clock starts."""
        with torch.inference_mode():
            for first in range(0, len(self.patches), self.batch):
                self.model(self.patches[first : first + self.batch])

    def predict(self, model: Any = None) -> xr.DataArray:
        result = xspinn.predict(
            self.volume,
            self.model if model is None else model,
            patch=dict.fromkeys(DIMS, self.patch),
            overlap=self.overlap,
            batch=self.batch,
            tune=False,  # torch's defaults, like the others
        )
        assert isinstance(result, xr.DataArray)
        return result

    def recipe(self, model: Any = None) -> np.ndarray:
        lazy = map_overlap_recipe(
            self.volume.to_numpy(),
            self.call if model is None else model,
            chunk=self.chunk,
            patch=self.patch,
            overlap=self.overlap,
            batch=self.batch,
        )
        with dask.config.set(scheduler="sync"):  # torch has the cores
            return lazy.compute()


class Wall(_Ways):
    """Ratios of wall times, each of two ways that take turns."""

    def _ratio(self, one: Callable[[], Any], other: Callable[[], Any]) -> float:
        """Least seconds of one over least seconds of the other."""
        turns = [(seconds(one), seconds(other)) for _ in range(self.rounds)]
        return min(a for a, _ in turns) / min(b for _, b in turns)

    def track_predict_over_model_alone(self) -> float:
        return self._ratio(self.predict, self.alone)

    def track_recipe_over_predict(self) -> float:
        return self._ratio(self.recipe, self.predict)


class Patches(_Ways):
    """Patches run over patches of the lattice: 125 of them, in 8 chunks."""

    size = 256
    chunk = 128

    def track_predict(self) -> float:
        take_count()
        self.predict(counted)
        return (take_count() - 1) / len(self.places)  # the model was asked once before the run

    def track_recipe(self) -> float:
        take_count()
        self.recipe(counted)
        return take_count() / len(self.places)
