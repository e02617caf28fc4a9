"""The few threads of this process that call models, for all others, in turns.

torch divides one call among the cores. If every thread of dask called a model, dask's threads times
torch's would fight for the cores, and activations would multiply in memory.

Nor is it enough that dask's threads take turns. OpenMP keeps a team of threads for each thread that
it was ever called from. Between two operators a team stays awake for the next, but as soon as the
threads of all teams are more than the cores, GNU's library lets all of them sleep instead (see
GOMP_SPINCOUNT in its manual) and wake up for each operator. For a small U-Net on two cores this
takes 15 % of the time. So blocks hand their work to threads of xspinn. These end, and their teams
with them, when no block waits, and a thread that waits for its block ends its own team before.
"""

from __future__ import annotations

import contextvars
import ctypes
import functools
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

import torch

from xspinn.machine.nesting import holding, inside_turn, turns_held
from xspinn.machine.worker import threads as threads_of_worker
from xspinn.options import get_options

__all__ = ["calls_at_once", "cores", "dismiss_team", "in_turn"]

T = TypeVar("T")


def in_turn(
    device: torch.device, work: Callable[[], T], threads: int | None = None, *, stay: bool = False
) -> T:
    """Run something that calls a model in one of the threads that do, and wait for it.

    Parameters
    ----------
    device : torch.device
        Each has threads of its own, as many as calls of a model may run at the same time.
    work : callable
        Runs at once, and here, inside a turn; but if `threads` is given, only inside one of such
        threads.
    threads : int, optional
        Threads of torch that one call uses; as many as the calling thread has without it.
    stay : bool, default: False
        Whether the main thread, when it is its turn, does the work itself: debuggers look there.
    """
    own = torch.get_num_threads()
    kind = _Kind(str(device), threads or own, calls_at_once(device, threads))
    if kind in turns_held() or (threads is None and inside_turn()):
        return work()
    with _lock:
        pool = _pools.setdefault(kind, _Pool(kind))
    if stay and threads is None and threading.current_thread() is threading.main_thread():
        return pool.take_turn(contextvars.copy_context(), work)
    dismiss_team()
    future = pool.submit(work)
    try:
        return future.result()
    except BaseException:
        future.cancel()  # the waiting was interrupted, and it may not have begun
        raise
    finally:
        del future  # an error would hold this frame, and with it the block, in a circle


def dismiss_team() -> None:
    """End the OpenMP team of the calling thread, if there is one; its next call starts another.

    Only for GNU's library, where a process has no other: others do not count teams.
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


class _Kind(NamedTuple):
    """What the threads of a pool have in common."""

    device: str
    threads: int
    """Of torch, in each of them."""
    size: int


class _Pool:
    """Threads of one kind; they end when nothing waits for them.

    Those with another number of torch's threads than new threads begin with stay. torch keeps the
    number for each thread, but also what new threads begin with, so that setting it spreads to any
    thread that first calls torch in that moment, and such a moment should not come twice.
    """

    def __init__(self, kind: _Kind) -> None:
        self.kind = kind
        self.slots = threading.BoundedSemaphore(kind.size)
        self.executor: ThreadPoolExecutor | None = None
        self.waiting, self.stays = 0, False

    def take_turn(self, context: contextvars.Context, work: Callable[[], T]) -> T:
        """Do some work, in a context by which a worker of distributed knows itself."""
        with self.slots:
            return context.run(self._inside, work)

    def _inside(self, work: Callable[[], T]) -> T:
        with holding(self.kind):
            return work()

    def submit(self, work: Callable[[], T]) -> Future[T]:
        with _lock:
            self.executor = self.executor or self._started()
            future = self.executor.submit(self.take_turn, contextvars.copy_context(), work)
            self.waiting += 1
        future.add_done_callback(self._done)
        return future

    def _done(self, _: Future[Any]) -> None:
        with _lock:
            self.waiting -= 1
            if self.executor is not None and not self.waiting and not self.stays:
                self.executor.shutdown(wait=False)
                self.executor = None

    def _started(self) -> ThreadPoolExecutor:
        threads, size = self.kind.threads, self.kind.size
        default = _in_new_thread(torch.get_num_threads)
        self.stays = threads != default
        if not self.stays:
            return ThreadPoolExecutor(size, "spinn-model")

        def begin() -> None:
            torch.get_num_threads()  # when it first asks, a thread takes what was set last
            torch.set_num_threads(threads)

        executor, barrier = ThreadPoolExecutor(size, "spinn-model", begin), threading.Barrier(size)
        try:
            for begun in [executor.submit(barrier.wait) for _ in range(size)]:
                begun.result()
        except BaseException:
            barrier.abort()
            executor.shutdown(wait=False, cancel_futures=True)
            raise
        finally:
            _in_new_thread(lambda: torch.set_num_threads(default))
        return executor


def _in_new_thread(ask: Callable[[], T]) -> T:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(ask).result()


_lock = threading.Lock()
_pools: dict[_Kind, _Pool] = {}


def _forget() -> None:
    """Begin anew in a forked process, which has none of these threads."""
    global _lock
    _lock = threading.Lock()
    _pools.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


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
    return min(calls, threads_of_worker() or calls)


def cores() -> int:
    """Cores that this process may use, which on a shared machine are fewer than it has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
