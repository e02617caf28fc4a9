"""Seconds from the call of `predict` to a graph that can be sent."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import dask

import xspinn

from .common import counted, open_source
from .memory import SOURCES, WINDOWS


class Graph:
    """A volume of 16 x 16 x 16 blocks of 96 voxels a side; nothing is read or run."""

    params: tuple[tuple[Any, ...], ...] = (SOURCES, WINDOWS)
    param_names = ("source", "window")
    timeout = 600
    number = 1
    repeat = 3
    warmup_time = 0
    blocks = 16

    def setup(self, source: str, window: str) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="xspinn-")
        shape = (96 * self.blocks,) * 3
        self.volume = open_source(source, Path(self.folder.name), shape, 128)
        self.options = {
            "patch": dict.fromkeys(self.volume.dims, 64),
            "overlap": 16,
            "blocks": 96,
            "window": window,
        }
        # What is imported late is not the graph's.
        small = self.volume.isel(dict.fromkeys(self.volume.dims, slice(64)))
        dask.optimize(xspinn.predict(small, counted, **self.options))
        self.built = self.time_plan_and_graph(source, window)

    def teardown(self, source: str, window: str) -> None:
        self.folder.cleanup()

    def time_plan(self, source: str, window: str) -> xspinn.Plan:
        return xspinn.plan(self.volume, counted, **self.options)

    def time_plan_and_graph(self, source: str, window: str) -> Any:
        """With the graph as one dict, which is what a scheduler needs."""
        result = xspinn.predict(self.volume, counted, **self.options)
        self.n_tasks = len(dict(result.__dask_graph__()))
        return result

    def time_optimise(self, source: str, window: str) -> Any:
        (best,) = dask.optimize(self.built)
        self.n_tasks = len(dict(best.__dask_graph__()))
        return best
