"""`predict` on a GPU: how much of its time is the model's own, and how long a serial loop takes.

As a script, ``python asv_bench/benchmarks/gpu.py --size 1024 --base 32 --patch 128 --overlap 32
--precision bf16`` prints figures for a volume of any size; ``--trace`` also writes a timeline for
chrome://tracing, in which copies and kernels can be seen side by side. Where there is no GPU, asv
leaves these benchmarks out; tests run them on the CPU.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask
import numpy as np
import torch
import xarray as xr

import xspinn

if __package__:
    from .peer_jobs import Job
    from .peer_methods import mlexchange
    from .peer_specs import Spec
else:  # as a script
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from benchmarks.peer_jobs import Job
    from benchmarks.peer_methods import mlexchange
    from benchmarks.peer_specs import Spec


class Gpu:
    """A float32 volume in the host's memory, in several blocks, through a 3-D U-Net."""

    timeout = 1200
    device = "cuda"
    spec = Spec(dims=3, size=512, patch=128, overlap=32, chunk=192, base=32, batch=4)
    precision = "bf16"

    def setup(self) -> None:
        if self.device == "cuda" and not torch.cuda.is_available():
            raise NotImplementedError("there is no GPU")
        self.job = Job(self.spec, self.device)
        self.options: dict[str, Any] = {
            "patch": dict.fromkeys(self.job.labelled.dims, self.spec.patch),
            "overlap": self.spec.overlap,
            "blocks": self.spec.chunk,
            "precision": self.precision,
            "device": self.device,
        }
        self.plan = xspinn.plan(self.job.labelled, self.job.model, **self.options)
        self.predict()  # what is done once, such as building the model, does not count

    def predict(self) -> xr.DataArray:
        # Two threads: one block goes up or comes down while the other computes.
        with dask.config.set(num_workers=2):
            found = xspinn.predict(self.job.labelled, self.job.model, **self.options)
        assert isinstance(found, xr.DataArray)
        return found

    def alone(self) -> None:
        """Call the model for as many patches, in the same way, on what is on the device already."""
        place = torch.device(self.device)
        ready = xspinn.as_model(self.job.model).load(place, self.plan.tuning)
        shape = (self.plan.batch, self.plan.channels, *self.job.tile)
        batch = torch.zeros(shape, device=place)
        for first in range(0, self.plan.n_patches, self.plan.batch):
            ready(batch[: self.plan.n_patches - first])
        if place.type == "cuda":
            torch.cuda.synchronize(place)

    def serial(self) -> np.ndarray:
        return mlexchange(self.job)

    def track_model_time_over_wall(self) -> float:
        self.alone()
        return seconds(self.alone) / seconds(self.predict)

    def track_serial_loop_over_predict(self) -> float:
        return seconds(self.serial) / seconds(self.predict)

    def track_runs_that_differ(self) -> int:
        """Voxels of which two runs do not agree bit for bit."""
        return int((self.predict() != self.predict()).sum())

    def track_bytes_over_input_and_output(self) -> float:
        """What goes up and comes down over what must: the plan's figures."""
        moved = self.plan.read_bytes + self.plan.leaving_bytes
        return moved / (self.plan.input_bytes + self.job.labelled[0].nbytes)


def seconds(function: Callable[[], Any]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("size", "base", "patch", "overlap", "chunk", "batch"):
        parser.add_argument(f"--{name}", type=int, default=getattr(Gpu.spec, name))
    parser.add_argument("--precision", default=Gpu.precision)
    parser.add_argument("--device", default=Gpu.device)
    parser.add_argument("--trace", type=Path, help="write a timeline of one run here")
    args = parser.parse_args()
    gpu = Gpu()
    names = ("size", "base", "patch", "overlap", "chunk", "batch")
    gpu.spec = Gpu.spec._replace(**{name: getattr(args, name) for name in names})
    gpu.precision, gpu.device = args.precision, args.device
    gpu.setup()
    name = torch.cuda.get_device_name() if args.device == "cuda" else args.device
    sys.stdout.write(f"{name}\n{gpu.plan!r}\n")
    for track in sorted(name for name in dir(gpu) if name.startswith("track_")):
        sys.stdout.write(f"{track.removeprefix('track_'):32}{getattr(gpu, track)():.4g}\n")
        sys.stdout.flush()
    profile = torch.profiler.profile() if args.trace else contextlib.nullcontext()
    with profile as timeline:
        sys.stdout.write(f"{'seconds':32}{seconds(gpu.predict):.4g}\n")
    if args.trace:
        timeline.export_chrome_trace(str(args.trace))


if __name__ == "__main__":
    main()
