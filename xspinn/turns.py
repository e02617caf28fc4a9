"""Whose turn it is to call a model: a few threads of this process do it for all others.

torch divides one call among the cores. If every thread of dask called a model, dask's threads times
torch's would fight for the cores, and activations would multiply in memory.

Nor is it enough that dask's threads take turns. OpenMP keeps a team of threads for each thread that
it was ever called from. Between two operators a team stays awake for the next, but as soon as the
threads of all teams are more than the cores, GNU's library lets all of them sleep instead (see
GOMP_SPINCOUNT in its manual) and wake up for each operator. For a small U-Net on two cores this
takes 15 % of the time. So blocks bring their work to threads of xspinn, which end, and their teams
with them, when no block waits; and the threads that wait send home the teams that they have.
"""

from __future__ import annotations

import contextlib
import contextvars
import ctypes
import functools
import os
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

import torch

from xspinn.options import get_options

__all__ = ["calls_at_once", "cores", "dismiss_team", "in_turn"]

T = TypeVar("T")


def in_turn(device: torch.device, work: Callable[[], T], threads: int | None = None) -> T:
    """Run something that calls a model in one of the threads that do, and wait for it.

    Parameters
    ----------
    device : torch.device
        Each has threads of its own, as many as calls of a model may run at the same time.
    work : callable
        Runs at once if it is one of these threads that asks.
    threads : int, optional
        Threads of torch that one call uses; as many as the calling thread has without it.
    """
    own = torch.get_num_threads()
    crew = _Crew(str(device), threads or own, calls_at_once(device, threads))
    if getattr(_here, "crew", None) == crew:
        return work()
    dismiss_team()
    with _pool(crew, own) as pool:
        context = contextvars.copy_context()  # by which a worker of distributed knows itself
        return pool.submit(context.run, work).result()


def dismiss_team() -> None:
    """End the OpenMP team of the calling thread, if there is one; its next call starts another.

    Only GNU's library is told, where a process has no other: theirs do not count teams.
    """
    pause = _pause()
    if pause is not None:
        pause(1)  # omp_pause_soft: whatever was set stays


@functools.cache
def _pause() -> Any:
    """Return OpenMP's omp_pause_resource_all."""
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    if hasattr(library, "__kmpc_fork_call"):  # of Clang's and Intel's libraries
        return None
    return getattr(library, "omp_pause_resource_all", None)


class _Crew(NamedTuple):
    """Threads that are alike."""

    device: str
    threads: int
    """Of torch, in each."""
    size: int


_here = threading.local()
_lock = threading.Lock()
_pools: dict[_Crew, tuple[ThreadPoolExecutor, int]] = {}
"""Those that are at work, and how many threads wait for them."""


@contextlib.contextmanager
def _pool(crew: _Crew, own: int) -> Iterator[ThreadPoolExecutor]:
    with _lock:
        pool, waiting = _pools.get(crew) or (_started(crew, own), 0)
        _pools[crew] = pool, waiting + 1
    try:
        yield pool
    finally:
        with _lock:
            waiting = _pools[crew][1] - 1
            _pools[crew] = pool, waiting
            if not waiting:
                del _pools[crew]
                pool.shutdown(wait=False)


def _started(crew: _Crew, own: int) -> ThreadPoolExecutor:
    """Start threads that use so many of torch's; others, and those to come, stay as they are."""
    ready = threading.Barrier(crew.size + 1)

    def begin() -> None:
        _here.crew = crew
        if crew.threads != own:
            torch.get_num_threads()  # when it first asks, a thread takes what was set last
            torch.set_num_threads(crew.threads)

    pool = ThreadPoolExecutor(crew.size, "spinn-model", begin)
    if crew.threads != own:
        # torch keeps the number for each thread, but new threads begin with the one set last.
        for _ in range(crew.size):
            pool.submit(ready.wait)
        ready.wait()
        torch.set_num_threads(own)
    return pool


def calls_at_once(device: torch.device, threads: int | None = None) -> int:
    """How many calls may run at the same time: the option `model_calls`, if it is set."""
    return get_options()["model_calls"] or _calls(device, threads)


def _calls(device: torch.device, threads: int | None = None) -> int:
    """How many calls keep the cores busy: one where torch uses all of them, more where it may not.

    A distributed worker's nanny allows torch one thread, and the worker has threads of its own.
    """
    if device.type != "cpu":
        return 1
    calls = max(1, cores() // (threads or torch.get_num_threads()))
    distributed = sys.modules.get("distributed")
    if distributed is not None:
        with contextlib.suppress(ValueError):  # not on a worker
            calls = min(calls, int(distributed.get_worker().state.nthreads))
    return calls


def cores() -> int:
    """Cores that this process may use, which on a shared machine are fewer than it has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
