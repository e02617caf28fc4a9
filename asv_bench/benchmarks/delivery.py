"""How models reach workers: builds, and bytes in the graph and between workers."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
import xarray as xr
from distributed import Client, LocalCluster
from distributed.protocol import pickle


class Heavy(torch.nn.Module):
    """Returns its input, and carries weights that it does not use."""

    def __init__(self, n_weights: int) -> None:
        super().__init__()
        self.weights = torch.nn.Parameter(torch.zeros(n_weights), False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


class Delivery:
    """64 blocks on two worker processes of two threads each."""

    timeout = 600
    n_weights = 25_000_000

    def setup(self) -> None:
        values = np.zeros((128, 128), "float32")
        self.image = xr.DataArray(values, dims=("y", "x")).chunk(16)

    def predict(self, n_weights: int) -> Any:
        options: dict[str, Any] = {"patch": {"y": 16, "x": 16}, "overlap": 0, "blocks": 16}
        return self.image.spinn.predict(Heavy(n_weights), **options)

    def graph_bytes(self, n_weights: int) -> int:
        return len(pickle.dumps(self.predict(n_weights).__dask_graph__()))

    def run(self) -> tuple[int, int]:
        """Return the builds, and the bytes that workers sent each other."""
        with (
            LocalCluster(
                n_workers=2, threads_per_worker=2, processes=True, dashboard_address=":0"
            ) as cluster,
            Client(cluster) as client,
        ):
            self.predict(self.n_weights).compute()
            counts = client.run(_counts)
        return sum(n for n, _ in counts.values()), sum(sent for _, sent in counts.values())

    def track_graph_bytes_for_weights(self) -> int:
        """Bytes that weights of 100 MB add to a graph."""
        return self.graph_bytes(self.n_weights) - self.graph_bytes(0)

    def track_builds(self) -> int:
        return self.run()[0]

    def track_bytes_between_workers(self) -> float:
        """Over the bytes of the weights: one worker passes them to the other, and no more."""
        return self.run()[1] / (4 * self.n_weights)


class Scheduler:
    """How long a scheduler has no time for others while weights pass through it."""

    timeout = 600
    n_weights = 125_000_000

    def setup(self) -> None:
        job = Delivery()
        job.setup()
        with apart(str(Path(__file__).parents[1])) as client:
            job.predict(0).compute()  # like any graph of xarray's, the first imports it there
            client.run_on_scheduler(_watch)
            wires, begin = psutil.net_io_counters().bytes_sent, time.perf_counter()
            job.predict(self.n_weights).compute()
            self.seconds = time.perf_counter() - begin
            self.wires = psutil.net_io_counters().bytes_sent - wires
            self.pauses = client.run_on_scheduler(_pauses)

    def track_longest_pause(self) -> float:
        return max(self.pauses)

    track_longest_pause.unit = "s"  # type: ignore[attr-defined]

    def track_longest_pause_over_wall(self) -> float:
        """Should stay below a tenth."""
        return max(self.pauses) / self.seconds

    def track_bytes_on_wires(self) -> float:
        """Over the bytes of the weights: from the client through the scheduler to a worker, and
        from there to the other; what else this machine sends meanwhile is counted too."""
        return self.wires / (4 * self.n_weights)


@contextlib.contextmanager
def apart(*path: str) -> Iterator[Client]:
    """A scheduler and two workers of two threads, each a process of its own, which find ``path``.

    In a `LocalCluster` the scheduler shares a process with the client.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = str(Path(folder) / "scheduler.json")
        common = ["--scheduler-file", file, "--no-dashboard"]
        worker = ["dask_worker", "--nthreads", "2"]
        processes = [
            subprocess.Popen(
                [sys.executable, "-m", f"distributed.cli.{name}", *more, *common],
                env={**os.environ, "PYTHONPATH": os.pathsep.join([*path, *sys.path])},
                stderr=subprocess.DEVNULL,
            )
            for name, *more in [["dask_scheduler", "--port", "0"], worker, worker]
        ]
        try:
            with Client(scheduler_file=file) as client:
                client.wait_for_workers(2, timeout=60)
                yield client
        finally:
            for process in processes:
                process.terminate()
                process.wait()


def _watch(dask_scheduler: Any) -> None:
    """Notice from now on for how long the scheduler's loop does not come round."""
    from tornado.ioloop import PeriodicCallback

    dask_scheduler.pauses, last = [], [time.perf_counter()]

    def tick() -> None:
        now = time.perf_counter()
        dask_scheduler.pauses.append(now - last[0])
        last[0] = now

    PeriodicCallback(tick, 5).start()


def _pauses(dask_scheduler: Any) -> list[float]:
    pauses: list[float] = dask_scheduler.pauses
    return pauses


def _counts(dask_worker: Any) -> tuple[int, int]:
    from xspinn.models.built import builds

    return builds(), dask_worker.transfer_outgoing_bytes_total
