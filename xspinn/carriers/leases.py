"""Distributed: workers let go of the models that a client used, as soon as it leaves."""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from collections.abc import Iterable, Sequence
from typing import Any

from distributed import Client, SchedulerPlugin, Status

from xspinn.carriers.names import LENGTH, TASK, when_released

__all__ = ["Leases", "couriers"]

couriers: weakref.WeakSet[Client] = weakref.WeakSet()
"""Clients that schedulers in this process open to tell their workers something."""


class Leases(SchedulerPlugin):
    """Notes who uses which model, and tells workers to forget those that nobody uses any more."""

    name = "xspinn-leases"
    idempotent = True

    def __init__(self) -> None:
        self.leases: dict[str, set[str]] = {}
        self.telling: set[asyncio.Task[None]] = set()

    def update_graph(self, scheduler: Any, *, client: str, tasks: Any, **_: Any) -> None:
        """Note which models a client uses: they are tasks of its graphs."""
        used = _models(tasks)
        if used:
            self.leases.setdefault(client, set()).update(used)

    def remove_client(self, scheduler: Any, client: str) -> None:
        """Let workers forget the models that nobody uses any more."""
        mine = self.leases.pop(client, set())
        # What was fired and forgotten runs on; it is looked at again when another client leaves.
        mine |= self.leases.pop("", set())
        alone = mine & _models(scheduler.tasks)
        gone = mine.difference(alone, *self.leases.values())
        if alone:
            self.leases[""] = alone
        if gone and scheduler.status == Status.running:
            task = asyncio.ensure_future(_tell_workers(scheduler, sorted(gone)))
            self.telling.add(task)
            task.add_done_callback(self.telling.discard)

    async def before_close(self) -> None:
        """Tell nobody anything any more: the workers go as well."""
        for task in self.telling:
            task.cancel()


def _models(tasks: Iterable[Any]) -> set[str]:
    """Return the models that are built by some of these tasks, on whatever device."""
    names = (task for task in tasks if isinstance(task, str) and task.startswith(TASK))
    return {name[: len(TASK) + LENGTH] for name in names}


async def _tell_workers(scheduler: Any, tasks: Sequence[str]) -> None:
    """Let all workers forget models, through a client that stays for no longer than that."""
    courier: Any = Client(
        scheduler.address, security=scheduler.security, asynchronous=True, set_as_default=False
    )
    couriers.add(courier)
    with contextlib.suppress(OSError, TimeoutError):  # whoever does not answer is going
        async with courier:
            await courier.run(_let_go, tasks, on_error="ignore")


def _let_go(tasks: Sequence[str]) -> None:
    """Forget models, on a worker."""
    for release in when_released:
        release(*(task.removeprefix(TASK) for task in tasks))
