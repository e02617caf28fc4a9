"""Peak memory of runs from zarr to zarr, each in a process of its own.

As a script, ``python asv_bench/benchmarks/memory.py --sizes 512 1024`` prints a table of runs of
any size, with the ratio of the largest volume's peak to the smallest's; ``--help`` lists the rest.
With ``--model unet`` it also says what the run needs over the same model alone, called on batches
of the same size in the same way.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

CHUNK = 128
"""Voxels a side of the source's chunks."""

WINDOWS = ("trim", "ramp")
SOURCES = ("store", "dask")
"""Blocks read their own box from the store, or `dask.array.map_overlap` brings it."""

MIB = 2**20


# -- in the process that is measured ---------------------------------------------------------


def _status(field: str) -> int:
    """Bytes of a field of Linux's account of this process; 0 where there is none."""
    path = Path("/proc/self/status")
    found = re.search(rf"{field}:\s+(\d+) kB", path.read_text()) if path.exists() else None
    return int(found[1]) * 1024 if found else 0


def _reset_peak() -> None:
    """Let the peak begin anew, so that imports do not count as a peak of the run."""
    path = Path("/proc/self/clear_refs")
    if path.exists():
        path.write_text("5")


def _peak() -> int:
    """Peak of resident memory. Linux's `ru_maxrss` would be inherited from the parent process."""
    import resource

    in_kib = sys.platform != "darwin"
    return _status("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1024 if in_kib else 1
    )


class Live:
    """Most bytes that dask held at any time in the results of tasks, by the kind of task."""

    def __init__(self) -> None:
        self.held: dict[Any, tuple[str, int]] = {}
        self.now: Counter[str] = Counter()
        self.counts: Counter[str] = Counter()
        self.most: Counter[str] = Counter()
        self.most_counts: Counter[str] = Counter()

    def posttask(self, key: Any, result: Any, dsk: Any, state: Any, worker: Any) -> None:
        name = key[0] if isinstance(key, tuple) else str(key)
        kind = re.sub(r"-[0-9a-f]{32}.*", "", name)
        self.held[key] = kind, nbytes(result)
        self.now[kind] += self.held[key][1]
        self.counts[kind] += 1
        for gone in state["dependencies"][key]:
            if gone not in self.held or gone not in state["released"]:
                continue
            old, size = self.held.pop(gone)
            self.now[old] -= size
            self.counts[old] -= 1
        self.most |= self.now
        self.most_counts |= self.counts


def nbytes(value: Any) -> int:
    """Bytes of all arrays in nested dicts, lists and tuples."""
    if isinstance(value, dict):
        return sum(map(nbytes, value.values()))
    if isinstance(value, list | tuple):
        return sum(map(nbytes, value))
    return int(getattr(value, "nbytes", 0))


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Run one job in this process, and return what it needed."""
    import contextlib

    import dask
    import numpy as np
    import xarray as xr
    from dask.callbacks import Callback

    import xspinn  # noqa: F401 - registers .spinn

    dims = ("z", "y", "x")
    options = {
        "patch": dict.fromkeys(dims, job["patch"]),
        "overlap": job["overlap"],
        "window": job["window"],
        "blocks": job["blocks"],
        "boundary": job["boundary"],
    }
    options["tune"], options["batch"] = job["tune"], job["batch"]
    model = _model(job["model"])
    # One patch brings in what is imported late and starts torch's threads: neither grows later.
    one = xr.DataArray(np.ones((job["patch"],) * 3, "float32"), dims=dims)
    one.spinn.predict(model, **{**options, "blocks": None})
    if job["via"] == "alone":
        return _alone(model, job)
    volume = xr.open_zarr(job["source"])["volume"]
    if job["via"] == "dask":
        volume = volume * 1  # the same voxels, but known to dask only
    _reset_peak()
    before = _status("VmRSS") or _peak()
    start = time.perf_counter()
    result = volume.spinn.predict(model, **options)
    live = Live()
    watch = Callback(posttask=live.posttask) if job["live"] else contextlib.nullcontext()
    with dask.config.set(scheduler="threads", num_workers=job["workers"]), watch:
        encoding = {"prediction": {"compressors": None}}
        result.to_dataset().to_zarr(job["target"], mode="w", encoding=encoding, zarr_format=3)
    seconds = time.perf_counter() - start
    peak = _peak()
    return {
        "before": before,
        "peak": peak,
        "growth": peak - before,
        "seconds": seconds,
        "blocks": int(np.prod([len(c) for c in result.chunks])),
        "live": dict(live.most),
        "live_counts": dict(live.most_counts),
    }


def _model(name: str) -> Any:
    import torch

    if name == "identity":
        return torch.nn.Identity()
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from benchmarks.common import UNet3d

    torch.manual_seed(0)
    return UNet3d().eval()


def _alone(model: Any, job: dict[str, Any]) -> dict[str, Any]:
    """Call the model on batches of patches as a block would, and do nothing else."""
    import threading

    import torch

    from xspinn import as_model
    from xspinn.machine.allocator import give_back, kept
    from xspinn.plans.tuning import as_tuning

    tuning = as_tuning(job["tune"], "float32")
    assert tuning is not None
    ready = as_model(model).load(torch.device("cpu"), tuning)
    batch = torch.zeros((job["batch"], 1, *(job["patch"],) * 3))

    def call() -> None:
        for _ in range(3):
            with kept(tuning.allocator):
                for _ in range(4):
                    ready(batch)
            give_back()

    _reset_peak()
    before = _status("VmRSS") or _peak()
    start = time.perf_counter()
    thread = threading.Thread(target=call)  # as blocks run
    thread.start()
    thread.join()
    seconds, peak = time.perf_counter() - start, _peak()
    own = {"before": before, "peak": peak, "growth": peak - before, "seconds": seconds}
    return {**own, "blocks": 0, "live": {}, "live_counts": {}}


# -- in the process that measures ------------------------------------------------------------


def write_volume(path: Path, size: int, chunk: int = CHUNK) -> Path:
    """Write a float32 cube of noise to a zarr store, uncompressed, a plane of chunks at a time."""
    import dask.array as da
    import xarray as xr

    rng = da.random.default_rng(0)
    cube = rng.random((size,) * 3, dtype="float32", chunks=min(chunk, size))
    volume = xr.DataArray(cube, dims=("z", "y", "x"), name="volume").to_dataset()
    encoding = {"volume": {"compressors": None}}
    volume.to_zarr(path, mode="w", encoding=encoding, zarr_format=3)
    return path


def measure(
    source: Path,
    window: str,
    via: str,
    *,
    blocks: int | None = None,
    patch: int = 64,
    overlap: int = 16,
    boundary: str = "none",
    workers: int = 2,
    live: bool = False,
    model: str = "identity",
    batch: int | None = None,
    tune: bool | dict[str, Any] = False,
) -> dict[str, Any]:
    """Run one job in a fresh process, and return what it needed."""
    with tempfile.TemporaryDirectory(dir=source.parent) as folder:
        job = {
            "source": str(source),
            "target": str(Path(folder) / "result.zarr"),
            "window": window,
            "via": via,
            "blocks": blocks,
            "patch": patch,
            "overlap": overlap,
            "boundary": boundary,
            "workers": workers,
            "live": live,
            "model": model,
            "batch": batch,
            "tune": tune,
        }
        command = [sys.executable, "-W", "ignore", __file__, "--job", json.dumps(job)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the run of {job} failed:\n{done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


class PeakMemory:
    """Peak of a run over volumes of two sizes, 8 times apart, in blocks of the same size."""

    params = ((256, 512), WINDOWS, SOURCES)
    param_names = ("size", "window", "source")
    unit = "MiB"
    timeout = 600
    blocks = 96
    patch = 64
    overlap = 16

    def setup_cache(self) -> Path:
        # asv runs this in a folder of its own, which it deletes after the last benchmark.
        folder = Path(tempfile.mkdtemp(dir=Path.cwd()))
        for size in self.params[0]:
            write_volume(folder / f"{size}.zarr", size)
        return folder

    def _measure(self, folder: Path, size: int, window: str, source: str) -> dict[str, Any]:
        volume = folder / f"{size}.zarr"
        geometry = {"blocks": self.blocks, "patch": self.patch, "overlap": self.overlap}
        return measure(volume, window, source, **geometry)

    def track_growth(self, folder: Path, size: int, window: str, source: str) -> float:
        """Peak over what the process held after imports and one patch."""
        return self._measure(folder, size, window, source)["growth"] / MIB

    def track_total(self, folder: Path, size: int, window: str, source: str) -> float:
        """Peak of the whole process."""
        return self._measure(folder, size, window, source)["peak"] / MIB


# -- as a script -----------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 512], help="voxels a side")
    parser.add_argument("--windows", nargs="+", default=WINDOWS)
    parser.add_argument("--sources", nargs="+", default=SOURCES, choices=SOURCES)
    parser.add_argument("--blocks", type=int, help="voxels a side; by default xspinn's choice")
    parser.add_argument("--patch", type=int, default=64)
    parser.add_argument("--overlap", type=int, default=16)
    parser.add_argument("--boundary", default="none")
    parser.add_argument("--workers", type=int, default=2, help="dask's threads")
    parser.add_argument("--repeat", type=int, default=1, help="runs of each; all are printed")
    parser.add_argument("--live", action="store_true", help="also say what dask held at its peak")
    parser.add_argument("--folder", type=Path, help="for the volumes, kept; by default temporary")
    parser.add_argument("--model", default="identity", choices=("identity", "unet"))
    parser.add_argument("--batch", type=int, default=2, help="patches in one call of the model")
    parser.add_argument("--allocator", action="store_true", help="let glibc keep freed memory")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.job:
        sys.stdout.write(json.dumps(run(json.loads(args.job))) + "\n")
        return
    with tempfile.TemporaryDirectory(prefix="xspinn-") as temporary:
        folder = args.folder or Path(temporary)
        volumes = {}
        for size in args.sizes:
            volumes[size] = folder / f"{size}.zarr"
            if not volumes[size].exists():
                write_volume(volumes[size], size)
        _table(args, volumes)


def _table(args: argparse.Namespace, volumes: dict[int, Path]) -> None:
    geometry = {
        name: getattr(args, name)
        for name in ("blocks", "patch", "overlap", "boundary", "workers", "live", "model", "batch")
    }
    geometry["tune"] = {"allocator": args.allocator} if args.allocator else False
    if args.model == "unet":
        geometry["tune"] = {"memory_format": "channels_last", "allocator": args.allocator}

    def say(*cells: Any) -> None:
        sys.stdout.write("".join(f"{cell:>9}" for cell in cells) + "\n")
        sys.stdout.flush()

    say("source", "window", "size", "blocks", "seconds", "before", "peak", "growth")
    alone = 0
    if args.model != "identity":
        one = measure(next(iter(volumes.values())), "trim", "alone", **geometry)
        alone = one["peak"]
        sizes = [round(one[name] / MIB) for name in ("before", "peak", "growth")]
        say("alone", "", "", "", round(one["seconds"], 1), *sizes)
    for via in args.sources:
        for window in args.windows:
            found: dict[int, list[dict[str, Any]]] = {}
            for size, volume in volumes.items():
                for _ in range(args.repeat):
                    one = measure(volume, window, via, **geometry)
                    found.setdefault(size, []).append(one)
                    sizes = [round(one[name] / MIB) for name in ("before", "peak", "growth")]
                    say(via, window, size, one["blocks"], round(one["seconds"], 1), *sizes)
                    for kind in one["live"]:
                        held = f"{one['live'][kind] / MIB:.0f} MiB in {one['live_counts'][kind]}"
                        sys.stdout.write(f"      {kind}: {held}\n")
            least, most = (
                {n: max(one[n] for one in found[size]) for n in ("peak", "growth")}
                for size in (min(found), max(found))
            )
            ratios = [f"{most[name] / least[name]:.2f}x" for name in ("peak", "growth")]
            say("", "", "", "", "", "ratio", *ratios)
            if alone:
                over = [round((peaks["peak"] - alone) / MIB) for peaks in (least, most)]
                say("", "", "", "", "", "over", *over)


if __name__ == "__main__":
    main()
