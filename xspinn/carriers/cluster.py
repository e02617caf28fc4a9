"""The client's side of distributed: bytes go to one worker, and from worker to worker.

A worker that needs bytes asks for them by an event. The client that has them scatters them, in
shards small enough that the scheduler always has time for something else, to that worker, and
others take them from there; see `xspinn.carriers.shards`. Whoever joins later, or starts again,
asks again.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from distributed import Client, Future

from xspinn.carriers.leases import Leases, couriers
from xspinn.carriers.shards import Scattered, names_held, place_of, refuse, shard_names, topic
from xspinn.errors import ModelError
from xspinn.hooks.distributed import all_clients
from xspinn.machine.memory import Latest

if TYPE_CHECKING:
    from xspinn.carriers.content import Buffer, Content

__all__ = ["carrier", "clients", "watch"]

OFFER_SECONDS = 60.0
"""For which shards stay on workers after the last was asked for."""


def clients() -> list[Client]:
    """Return a client of this process for each cluster it is connected to."""
    found: dict[str, Client] = {}
    with contextlib.suppress(ValueError):
        found[Client.current().id] = Client.current()  # first: workers in threads have clients too
    found |= {client.id: client for client in all_clients() if client not in couriers}
    running = [client for client in found.values() if client.status == "running"]
    by_cluster = {_address(client): client for client in reversed(running)}
    return list(by_cluster.values())


def _address(client: Client) -> str:
    scheduler: Any = client.scheduler
    return str(scheduler.address)


def carrier(clients: Sequence[Client]) -> Callable[[Content], Scattered]:
    """Return what offers a model's bytes to the clusters of some clients."""

    def carry(content: Content) -> Scattered:
        _latest[content.key] = content
        for client in clients:
            offers = _offers.setdefault(client, {})
            offer = offers.get(content.key)
            if offer is None:
                offers[content.key] = _Offer(client, content)
            else:
                offer.content = weakref.ref(content)
        return Scattered(content.key, content.n_bytes)

    return carry


class _Offer:
    """Bytes that a client has, and hands to workers that ask for them."""

    def __init__(self, client: Client, content: Content) -> None:
        self.client = weakref.ref(client)
        self.content = weakref.ref(content)
        self.key = content.key
        self.lock = asyncio.Lock()
        self.held: list[Future[Any]] = []
        self.asked = 0.0
        self.tasks: set[asyncio.Task[None]] = set()
        client.subscribe_topic(topic(content.key), self.answer)

    def answer(self, event: tuple[float, Any]) -> None:
        """Start to answer a worker; the client's loop waits for nobody here."""
        task = asyncio.ensure_future(self.supply(event[1]["worker"]))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def supply(self, worker: str) -> None:
        """Scatter to a worker what no worker has."""
        client, content = self.client(), self.content()
        if client is None:
            return
        try:
            if content is None:
                raise ModelError("the client that offered them has let go of them since")
            self.asked = time.monotonic()
            async with self.lock:
                await self.scatter(client, content, worker)
        except (TimeoutError, KeyError, OSError):
            pass  # the worker is gone
        except Exception as error:  # noqa: BLE001 - the worker waits, and must be told
            await client.run(refuse, self.key, str(error), workers=[worker], on_error="ignore")
        finally:
            asyncio.get_running_loop().call_later(OFFER_SECONDS, self.retire)

    async def scatter(self, client: Client, content: Content, worker: str) -> None:
        """Scatter shard after shard, so that others may take the first before the last is here."""
        raw: Buffer | None = None
        names = shard_names(content.key, content.n_bytes)
        there: list[str] = await client.run_on_scheduler(names_held, names)
        for at, name in enumerate(names):
            if name in there:
                continue
            if raw is None:
                raw = await asyncio.to_thread(content.open)
            shard = raw[place_of(at)]
            placed = await client.scatter({name: shard}, workers=[worker], hash=False)
            self.held += placed.values()

    def retire(self) -> None:
        """Free the workers' memory of shards that nobody asked for lately; each has its whole."""
        if time.monotonic() - self.asked >= OFFER_SECONDS:
            self.held.clear()


_offers: weakref.WeakKeyDictionary[Client, dict[str, _Offer]] = weakref.WeakKeyDictionary()

MAX_HELD_BYTES = 2**30
"""Of offered models that are held though no graph here holds them; the newest always is."""

_latest: Latest[str, Content] = Latest(lambda: MAX_HELD_BYTES, lambda content: content.n_held)
"""Holds what was offered last, for graphs that run while nobody here holds them any more."""

_watched: weakref.WeakSet[Client] = weakref.WeakSet()


def watch() -> None:
    """Let the schedulers of this process's clients note from now on who uses which model."""
    for client in [client for client in _offers if client.status != "running"]:
        del _offers[client]
    if not _offers:  # whoever was to run these graphs is gone
        _latest.clear()
    for client in clients():
        if client not in _watched:
            _watched.add(client)
            if client.asynchronous:  # nobody here can wait for it
                loop: Any = client.loop
                loop.add_callback(client.register_plugin, Leases())
            else:
                client.register_plugin(Leases())
