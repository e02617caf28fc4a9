"""xspinn against its peers, each in a process of its own, in jobs that all of them can do.

As a script, ``python asv_bench/benchmarks/peers.py --job volume --rounds 3`` prints a table in
markdown; ``--help`` lists the rest. The ways themselves are in `peer_methods`.

Until `run` is called, nothing but the standard library is imported: a process that is to handle
memory another way must say so before torch is there.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

if not __package__:  # a script's folder is where Python looks, and its package is one above
    sys.path[0] = str(Path(__file__).parents[1])
    __package__ = "benchmarks"

from .peer_specs import HOW_TO_INSTALL, JOBS, WAYS, Spec, missing

MIB = 2**20


# -- in the process that is measured ---------------------------------------------------------


def keep_memory() -> None:
    """Let glibc keep freed memory: map nothing, give nothing back, grow heaps 64 MiB at a time.

    It does for any library what xspinn may choose for itself. Where the C library is another one,
    nothing happens.
    """
    libc = ctypes.CDLL(None)
    if sys.platform.startswith("linux") and hasattr(libc, "gnu_get_libc_version"):
        top_pad, trim_threshold, mmap_max = -2, -1, -4  # from glibc's malloc.h
        for parameter, value in ((mmap_max, 0), (trim_threshold, 2**31 - 1), (top_pad, 64 * MIB)):
            libc.mallopt(parameter, value)


def run(task: dict[str, Any]) -> dict[str, Any]:
    """Do a job in one way in this process, several times, and return what it took.

    The first result is checked before anything else is timed.
    """
    if task["keep"]:
        keep_memory()
    import numpy as np
    import torch

    from . import memory, peer_jobs, peer_methods

    torch.set_num_threads(task["threads"])
    name, spec = task["way"], Spec(*task["spec"])
    way, job = peer_methods.WAYS[name], peer_jobs.Job(spec)
    if name == "untiled":
        np.save(task["reference"], way(job))
        return {}
    peer_methods.make_ready(name, job)
    memory._reset_peak()
    seconds, cpu = [], []
    for turn in range(task["runs"]):
        job.patches_run = 0
        start = time.perf_counter(), time.process_time()
        found = way(job)
        seconds.append(time.perf_counter() - start[0])
        cpu.append(time.process_time() - start[1])
        if turn == 0:
            peak = memory._peak()
            error = peer_jobs.error(job, found, np.load(task["reference"], mmap_mode="r"))
            known = WAYS[name]
            bound = (known.bound if spec.classes == 1 else known.votes_bound) * task["slack"]
            if not error <= bound:  # NaN is wrong too
                raise ValueError(
                    f"{name} differs by {error:.3g} from the network on the whole array, and "
                    f"{bound:.3g} is allowed. Patches or overlaps that are small for the network "
                    "need more slack, and so do sizes that are no whole number of strides."
                )
        del found
    best = seconds.index(min(seconds[1:] or seconds))
    return {
        "first": seconds[0],
        "seconds": seconds[best],
        "cpu": cpu[best],
        "patches": job.patches_run,
        "peak": peak,
        "error": error,
    }


# -- in the process that measures ------------------------------------------------------------


def apart(task: dict[str, Any], cache: Path) -> dict[str, Any]:
    """Do a job in one way in a fresh process, and return what it took."""
    threads = str(task["threads"])
    mine = {"XSPINN_CACHE": str(cache), "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.peers", "--task", json.dumps(task)]
    done = subprocess.run(
        command,
        cwd=Path(__file__).parents[1],
        env={**os.environ, **mine},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"the run of {task} failed:\n{done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure(
    spec: Spec,
    ways: Iterable[str],
    *,
    rounds: int = 1,
    runs: int = 2,
    threads: int = 2,
    allocator: bool = True,
    slack: float = 1.0,
) -> Iterator[dict[str, Any]]:
    """Do a job in several ways that take turns, and yield what each run took.

    Parameters
    ----------
    spec : Spec
        The job.
    ways : iterable of str
        Names in `WAYS`.
    rounds : int, default: 1
        Fresh processes for each way.
    runs : int, default: 2
        Runs in each process, the first of which is reported by itself.
    threads : int, default: 2
        Of torch.
    allocator : bool, default: True
        Do the job a second time with `keep_memory`, in all ways but those that see to it.
    slack : float, default: 1
        Factor of the bounds of errors.
    """
    chosen = [way for way in WAYS if way in set(ways)]
    with tempfile.TemporaryDirectory(prefix="xspinn-") as folder:
        shared = {"spec": spec, "threads": threads, "runs": runs, "slack": slack}
        shared["reference"] = str(Path(folder) / "untiled.npy")
        cache = Path(folder) / "cache"
        apart({**shared, "way": "untiled", "keep": False}, cache)
        for number in range(rounds):
            for way in chosen:
                for keep in (False, True) if allocator and WAYS[way].allocator else (False,):
                    found = apart({**shared, "way": way, "keep": keep}, cache)
                    yield {"round": number, "way": way, "keep": keep, **found}


class Best:
    """Of each way the least seconds, the first run, and the most memory, of all rounds."""

    def __init__(self, runs: Iterable[dict[str, Any]]) -> None:
        self.runs: dict[tuple[str, bool], list[dict[str, Any]]] = {}
        for one in runs:
            self.runs.setdefault((one["way"], one["keep"]), []).append(one)

    def __getitem__(self, place: tuple[str, bool]) -> dict[str, Any]:
        found = self.runs[place]
        best = min(found, key=lambda one: one["seconds"])
        peak = max(one["peak"] for one in found)
        return {**best, "first": found[0]["first"], "peak": peak}

    def ratio(self, one: tuple[str, bool], other: tuple[str, bool]) -> float:
        """Seconds of one way over those of another; NaN where one did not run."""
        if one not in self.runs or other not in self.runs:
            return float("nan")
        return self[one]["seconds"] / self[other]["seconds"]


class Peers:
    """Ratios of wall times, all of one run, in jobs smaller than those of the script."""

    params = tuple(JOBS)
    param_names = ("job",)
    timeout = 1800
    sizes = ((160, 64), (1024, 256), (96, 64))
    """Voxels a side of the array and of a patch, for each job."""
    ways = ("xspinn", "alone_fastest", "monai")
    rounds = 2
    runs = 2
    slack = 1.0

    def setup_cache(self) -> dict[str, Best]:
        if missing(self.ways):
            return {}
        options = {"rounds": self.rounds, "runs": self.runs, "slack": self.slack}
        return {
            job: Best(measure(JOBS[job].resized(*sizes), self.ways, **options))
            for job, sizes in zip(self.params, self.sizes, strict=True)
        }

    def setup(self, found: dict[str, Best], job: str) -> None:
        if job not in found:  # asv skips what is not implemented
            raise NotImplementedError(f"Not installed: {missing(self.ways)}.\n{HOW_TO_INSTALL}")

    def track_xspinn_over_monai(self, found: dict[str, Best], job: str) -> float:
        return found[job].ratio(("xspinn", False), ("monai", False))

    def track_xspinn_over_fastest_alone(self, found: dict[str, Best], job: str) -> float:
        return found[job].ratio(("xspinn", False), ("alone_fastest", False))

    def track_xspinn_over_monai_that_keeps_memory(self, found: dict[str, Best], job: str) -> float:
        return found[job].ratio(("xspinn", False), ("monai", True))


# -- as a script -----------------------------------------------------------------------------


def table(spec: Spec, best: Best) -> str:
    """Return a table in markdown, one row a way."""
    head = ["way", "first, s", "s", "CPU s", "/ MONAI", "/ alone", "patches", "peak, MiB"]
    head += ["RMSE, sd" if spec.classes == 1 else "other class", "kept: s", "/ MONAI", "/ alone"]
    rows = [head, ["---", *["--:"] * (len(head) - 1)]]
    for way in dict.fromkeys(way for way, _ in best.runs):
        one = best[way, False]
        row = [way, *(f"{one[name]:.2f}" for name in ("first", "seconds", "cpu"))]
        row += [_shown(best.ratio((way, False), (to, False))) for to in ("monai", "alone")]
        row += [f"{one['patches']}", f"{one['peak'] / MIB:.0f}", f"{one['error']:.2g}"]
        # A way that sees to memory itself is compared as it is with those that now keep it too.
        kept = (way, WAYS[way].allocator)
        row += [f"{best[kept]['seconds']:.2f}" if kept in best.runs and kept[1] else ""]
        row += [_shown(best.ratio(kept, (to, True))) for to in ("monai", "alone")]
        rows.append(row)
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _shown(ratio: float) -> str:
    return "" if math.isnan(ratio) else f"{ratio:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--job", choices=JOBS, default="volume")
    parser.add_argument(
        "--methods",
        nargs="+",
        choices=WAYS,
        default=list(WAYS),
        metavar="WAY",
        help=f"of {', '.join(WAYS)}; by default all",
    )
    parser.add_argument("--size", type=int, help="voxels a side of the array")
    parser.add_argument("--patch", type=int, help="voxels a side of a patch")
    parser.add_argument("--rounds", type=int, default=1, help="fresh processes of each way")
    parser.add_argument("--runs", type=int, default=2, help="runs in each process")
    parser.add_argument("--threads", type=int, default=2, help="torch's threads")
    parser.add_argument("--slack", type=float, default=1.0, help="factor of the bounds of errors")
    parser.add_argument(
        "--no-allocator",
        dest="allocator",
        action="store_false",
        help="leave out the runs with glibc keeping freed memory",
    )
    parser.add_argument("--json", type=Path, help="also write what each process found here")
    parser.add_argument("--task", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.task:
        sys.stdout.write(json.dumps(run(json.loads(args.task))) + "\n")
        return
    absent = missing(args.methods)
    if absent:
        parser.error(
            f"not installed: {', '.join(absent)}. Install what the benchmarks compare with:\n"
            f"{HOW_TO_INSTALL}\nor name other ways with --methods."
        )
    spec = JOBS[args.job].resized(args.size, args.patch)
    names = ("rounds", "runs", "threads", "allocator", "slack")
    runs = []
    for one in measure(spec, args.methods, **{name: getattr(args, name) for name in names}):
        runs.append(one)
        if args.json:
            args.json.write_text(json.dumps({"spec": spec._asdict(), "runs": runs}, indent=1))
    sys.stdout.write(table(spec, Best(runs)) + "\n")


if __name__ == "__main__":
    main()
