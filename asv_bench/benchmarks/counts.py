"""Counts that no noise can touch: patches run, tasks, bytes of halo and spill."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dask
import xarray as xr
from dask.callbacks import Callback

import xspinn

from .common import counted, open_source, take_count
from .memory import SOURCES, WINDOWS, nbytes

SIZES: Mapping[int, dict[str, int]] = {
    2: {"size": 3072, "chunk": 512, "patch": 256, "overlap": 64, "blocks": 384},
    3: {"size": 384, "chunk": 128, "patch": 64, "overlap": 16, "blocks": 96},
}
"""By the number of dims. Blocks are two strides wide, and chunks of another size than blocks."""


class _Job:
    """One prediction, ready to be built: by number of dims, source and window."""

    params: tuple[tuple[Any, ...], ...] = ((2, 3), SOURCES, WINDOWS)
    param_names = ("dims", "source", "window")
    timeout = 300
    sizes = SIZES

    def setup(self, dims: int, source: str, window: str) -> None:
        sizes = self.sizes[dims]
        self.folder = tempfile.TemporaryDirectory(prefix="xspinn-")
        shape = (sizes["size"],) * dims
        self.volume = open_source(source, Path(self.folder.name), shape, sizes["chunk"])
        self.options = {
            "patch": dict.fromkeys(self.volume.dims, sizes["patch"]),
            "overlap": sizes["overlap"],
            "blocks": sizes["blocks"],
            "window": window,
        }
        self.plan = xspinn.plan(self.volume, counted, **self.options)

    def teardown(self, dims: int, source: str, window: str) -> None:
        self.folder.cleanup()

    def predict(self) -> xr.DataArray:
        return xspinn.predict(self.volume, counted, **self.options)


class Patches(_Job):
    """How often the model runs."""

    def track_patches_run_over_lattice(self, dims: int, source: str, window: str) -> float:
        result = self.predict()
        take_count()  # before the run, the model was asked once what it returns
        result.data.sum().compute(scheduler="threads", num_workers=2)
        return take_count() / self.plan.n_patches


class Tasks(_Job):
    """Tasks a block, without the task that loads each chunk of the source."""

    def _tasks(self, graph: Any, own: int) -> float:
        return (len(dict(graph)) - own) / self.plan.n_blocks

    def track_tasks_raw(self, dims: int, source: str, window: str) -> float:
        own = len(dict(self.volume.__dask_graph__())) if source == "dask" else 0
        return self._tasks(self.predict().__dask_graph__(), own)

    def track_tasks_optimised(self, dims: int, source: str, window: str) -> float:
        own = len(dict(self.volume.__dask_graph__())) if source == "dask" else 0
        (best,) = dask.optimize(self.predict())
        return self._tasks(best.__dask_graph__(), own)


class Bytes(_Job):
    """Bytes that move beside the input and the result, a block."""

    unit = "bytes"

    def track_halo(self, dims: int, source: str, window: str) -> float:
        return self.plan.halo_bytes / self.plan.n_blocks

    def track_spill(self, dims: int, source: str, window: str) -> float:
        return self.plan.spill_bytes / self.plan.n_blocks

    def track_spill_measured(self, dims: int, source: str, window: str) -> float:
        """Count the bytes of what the tasks that cut strips return."""
        total = 0

        def posttask(key: Any, result: Any, dsk: Any, state: Any, worker: Any) -> None:
            nonlocal total
            if str(key[0] if isinstance(key, tuple) else key).startswith("spinn-strips"):
                total += nbytes(result)

        result = self.predict()
        with Callback(posttask=posttask):
            result.data.sum().compute(scheduler="threads", num_workers=2)
        return total / self.plan.n_blocks
