"""Which worker of distributed this is, if it is one, and what it says of itself.

Nothing here imports distributed: where nothing else has, there is no worker.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable
from typing import Any

from xspinn.errors import SpinnWarning, warn
from xspinn.hooks import distributed as hooks

__all__ = [
    "check_of_task",
    "memory_limit",
    "name_process",
    "place_among",
    "this_worker",
    "threads",
    "warn_user",
]


def this_worker() -> Any | None:
    """Return the worker whose task asks, or None where no task of distributed does."""
    module = sys.modules.get("distributed.worker")
    if module is None:
        return None
    try:
        return module.get_worker()
    except ValueError:
        return None


def name_process() -> str:
    """Name this process for messages: the worker it is, or its number and host."""
    worker = this_worker()
    if worker is not None:
        return f"worker {worker.address}"
    return f"process {os.getpid()} on {socket.gethostname()}"


def memory_limit() -> int | None:
    """Return the bytes that the worker, or the machine in distributed's view, may use."""
    worker = this_worker()
    limit = None if worker is None else hooks.memory_limit_of_worker(worker)
    return limit or hooks.memory_limit_of_machine()


def threads() -> int | None:
    """Return how many tasks the worker runs at the same time; None where this is no worker."""
    worker = this_worker()
    return None if worker is None else hooks.threads_of_worker(worker)


def check_of_task() -> Callable[[], None]:
    """Return a check that ends the task that asks now, once its scheduler has let go of it.

    distributed cannot stop a thread, so a task that was cancelled keeps its place on the worker.
    The check raises distributed's `Reschedule`: if somebody wants the task again by the time that
    the worker gets to see it, the scheduler lets it run anew.
    """
    worker = this_worker()
    is_cancelled = None if worker is None else hooks.cancelled_task(worker)

    def check() -> None:
        if is_cancelled is not None and is_cancelled():
            raise sys.modules["distributed"].Reschedule

    return check


def place_among(neighbours: int) -> int:
    """Return which of so many neighbours this process is, as far as anything says so."""
    worker = this_worker()
    place = os.environ.get("LOCAL_RANK", "") if worker is None else str(worker.name)
    return int(place) % neighbours if place.isdigit() else 0


def warn_user(message: str) -> None:
    """Warn here, and on a distributed worker also at the client."""
    if this_worker() is not None:
        sys.modules["distributed"].warn(message, SpinnWarning)
    else:
        warn(message)
