"""Counts that no noise can touch: patches run, tasks, bytes of halo, spill and results."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dask
import torch
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
        return returned_bytes(self.predict(), "spinn-strips") / self.plan.n_blocks


def returned_bytes(result: xr.DataArray, kind: str) -> int:
    """Run a prediction, and return the bytes of what all its tasks of one kind return."""
    total = 0

    def posttask(key: Any, value: Any, dsk: Any, state: Any, worker: Any) -> None:
        nonlocal total
        if str(key[0] if isinstance(key, tuple) else key).startswith(kind):
            total += nbytes(value)

    with Callback(posttask=posttask):
        result.data.sum().compute(scheduler="threads", num_workers=2, optimize_graph=False)
    return total


class Leaving:
    """Bytes that leave a block of a volume: what its run task returns."""

    params = (("mean", "soft", "hard"), (2, 8, 32))
    param_names = ("combine", "classes")
    unit = "bytes"
    timeout = 300
    size = 192
    patch = 64
    overlap = 32
    blocks = 96

    def setup(self, combine: str, classes: int) -> None:
        with tempfile.TemporaryDirectory(prefix="xspinn-") as folder:
            self.volume = open_source("dask", Path(folder), (self.size,) * 3, self.blocks)
        self.model = Repeated(classes)
        self.options = {
            "patch": dict.fromkeys(self.volume.dims, self.patch),
            "overlap": self.overlap,
            "blocks": self.blocks,
            "combine": combine,
            "batch": 1,
        }
        self.plan = xspinn.plan(self.volume, self.model, **self.options)

    def track_leaving(self, combine: str, classes: int) -> float:
        """What the plan says."""
        return self.plan.leaving_bytes / self.plan.n_blocks

    def track_leaving_measured(self, combine: str, classes: int) -> float:
        """What the tasks return."""
        result = xspinn.predict(self.volume, self.model, **self.options)
        return returned_bytes(result, "spinn-run") / self.plan.n_blocks


class Repeated(torch.nn.Module):
    """Return the input as the score of every class."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        return patches.expand(-1, self.classes, *patches.shape[2:])
