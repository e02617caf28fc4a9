"""Parts of distributed that it does not document.

Tried with distributed 2025.9.0 and 2026.8.0. Nothing here imports distributed before it is asked.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distributed import Client, Future

__all__ = [
    "all_clients",
    "cancelled_task",
    "future_of",
    "memory_limit_of_machine",
    "memory_limit_of_worker",
    "threads_of_worker",
]


def all_clients() -> list[Client]:
    """Return the clients of this process, closed ones among them.

    ``client.compute(...)`` pickles a graph without saying which client asks, and it need not be the
    default client, which is all that public functions know.
    """
    from distributed import Client

    return list(Client._instances)


def future_of(name: str, client: Client) -> Future[Any]:
    """Return what a client gathers by its name: data that another client put into memory.

    Futures are public, but not made by hand: distributed hands them on inside tasks, which would
    wait here for a thread that the tasks which need the data have, or inside variables, queues and
    data sets, which hold the data though the client that made them is gone.
    """
    from distributed import Future

    return Future(name, client, state="memory")  # type: ignore[arg-type] # as distributed itself


def cancelled_task(worker: Any) -> Callable[[], bool]:
    """Return what tells whether the task of this thread was cancelled since it began.

    distributed says it to tasks by no public means.
    """
    state = worker.state.tasks.get(worker.active_threads.get(threading.get_ident()))
    return lambda: state is not None and state.state == "cancelled"


def memory_limit_of_worker(worker: Any) -> int | None:
    """Return the bytes that a worker may use; None where it has no limit."""
    limit: int | None = worker.memory_manager.memory_limit
    return limit


def memory_limit_of_machine() -> int | None:
    """Return the bytes of this machine or container, if distributed is there to know them."""
    distributed = sys.modules.get("distributed")
    return None if distributed is None else int(distributed.system.MEMORY_LIMIT)


def threads_of_worker(worker: Any) -> int:
    """Return how many tasks a worker runs at the same time."""
    return int(worker.state.nthreads)
