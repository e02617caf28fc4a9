"""Distributed: bytes go from the client to one worker, and from worker to worker.

A worker that needs bytes asks for them by an event. The client that has them scatters them, in
shards small enough that the scheduler always has time for something else, to that worker. Workers
take shards from each other, offer what they took, and keep the whole in memory of their own, so
nothing arrives twice. Whoever joins later, or starts again, asks again.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from distributed import Client, Future, SchedulerPlugin, Worker, get_worker
from distributed.protocol.pickle import dumps
from distributed.utils import sync
from distributed.utils_comm import gather_from_workers

from xspinn.carriers.names import LENGTH, TASK, when_released
from xspinn.errors import ModelError
from xspinn.machine.memory import Latest

if TYPE_CHECKING:
    from xspinn.carriers.content import Buffer, Content

__all__ = ["Scattered", "carrier", "clients", "watch"]

SHARD = 16 * 2**20
"""Bytes that are sent in one go: some milliseconds of a scheduler's time."""

OFFERED = 60.0
"""Seconds for which shards stay on workers after the last was asked for."""

PATIENCE = 120.0
"""Seconds without a new shard after which a worker gives up."""

FIRST_PAUSE, LAST_PAUSE, ASK_AGAIN = 0.02, 0.5, 5.0
"""Seconds between two looks for shards, at first and at last, and between two requests."""


def clients() -> list[Client]:
    """Return a client of this process for each cluster it is connected to."""
    found: dict[str, Client] = {}
    with contextlib.suppress(ValueError):
        found[Client.current().id] = Client.current()  # first: workers in threads have clients too
    found |= {client.id: client for client in list(Client._instances)}
    running = [client for client in found.values() if client.status == "running"]
    by_cluster = {_scheduler(client).address: client for client in reversed(running)}
    return list(by_cluster.values())


def _scheduler(client: Client) -> Any:
    return client.scheduler


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


# -- the client ------------------------------------------------------------------------------


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
        client.subscribe_topic(_topic(content.key), self.answer)

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
            await client.run(_refuse, self.key, str(error), workers=[worker], on_error="ignore")
        finally:
            asyncio.get_running_loop().call_later(OFFERED, self.retire)

    async def scatter(self, client: Client, content: Content, worker: str) -> None:
        """Scatter shard after shard, so that others may take the first before the last is here."""
        raw: Buffer | None = None
        names = _names(content.key, content.n_bytes)
        who: Any = await _scheduler(client).who_has(keys=names)
        for at, name in enumerate(names):
            if who.get(name):
                continue
            if raw is None:
                raw = await asyncio.to_thread(content.open)
            shard = raw[at * SHARD : (at + 1) * SHARD]
            placed = await client.scatter({name: shard}, workers=[worker], hash=False)
            self.held += placed.values()

    def retire(self) -> None:
        """Free the workers' memory of shards that nobody asked for lately; each has its whole."""
        if time.monotonic() - self.asked >= OFFERED:
            self.held.clear()


_offers: weakref.WeakKeyDictionary[Client, dict[str, _Offer]] = weakref.WeakKeyDictionary()

HELD = 2**30
"""Bytes of offered models that are held though no graph here holds them; the newest always is."""

_latest: Latest[str, Content] = Latest(lambda: HELD, lambda content: content.n_held)
"""Holds what was offered last, for graphs that run while nobody here holds them any more."""


def _topic(key: str) -> str:
    return f"xspinn-wanted-{key}"


def _names(key: str, n_bytes: int) -> list[str]:
    return [f"spinn-weights-{key[:32]}-{k}" for k in range(-(-n_bytes // SHARD))]


# -- the workers -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Scattered:
    """Bytes that the workers of a cluster hold in shards, or a client does."""

    key: str
    n_bytes: int

    def fetch(self) -> Buffer:
        """Gather the bytes, in a task of a worker."""
        try:
            worker = get_worker()
        except ValueError:
            raise ModelError(
                "they were offered to the workers of a distributed client, and this process is "
                "none of them; to use dask's own processes while a client is open, close it first"
            ) from None
        whole: Buffer = sync(worker.loop, _gather, worker, self)
        return whole


async def _gather(worker: Worker, wanted: Scattered) -> Buffer:
    """Put shards together as they become available, and ask for them while there are none."""
    _refused.pop(wanted.key, None)
    whole = np.empty(wanted.n_bytes, np.uint8)
    missing = dict(enumerate(_names(wanted.key, wanted.n_bytes)))
    came, asked, pause = time.monotonic(), -np.inf, FIRST_PAUSE
    while missing:
        held: dict[str, Any] = await worker.scheduler.who_has(keys=list(missing.values()))
        there = [at for at, name in missing.items() if held.get(name)]
        if there:
            at = random.choice(there)  # so that workers soon have different ones
            name, place = missing[at], whole[at * SHARD : (at + 1) * SHARD]
            if await _take(worker, name, held[name], place):
                del missing[at]
                came, pause = time.monotonic(), FIRST_PAUSE
                continue
        now = time.monotonic()
        if wanted.key in _refused and now - came > ASK_AGAIN:  # another client may yet answer
            raise ModelError(_refused.pop(wanted.key))
        if now - came > PATIENCE:
            raise ModelError(
                f"no worker has them, and no client answered for {PATIENCE:.0f} s: keep the client "
                "open that called predict"
            )
        if not there and now - asked > ASK_AGAIN:
            worker.log_event(_topic(wanted.key), {"worker": worker.address})
            asked = now
        await asyncio.sleep(pause)
        pause = min(2 * pause, LAST_PAUSE)
    return whole


_refused: dict[str, str] = {}
"""Why a client did not hand out what this worker asked for."""


def _refuse(key: str, why: str) -> None:
    _refused[key] = why


async def _take(worker: Worker, name: str, holders: Sequence[str], place: Buffer) -> bool:
    """Copy one shard into its place, and offer it to other workers from there."""
    if name in worker.data:
        place[:] = cast("Buffer", worker.data[name])
        return True
    found, *_ = await gather_from_workers({name: holders}, rpc=worker.rpc, who=worker.address)
    if name not in found:  # whoever had it is gone
        return False
    place[:] = cast("Buffer", found[name])
    worker.update_data({name: place})
    await worker.scheduler.update_data(
        who_has={name: [worker.address]}, nbytes={name: place.nbytes}
    )
    return True


# -- letting go --------------------------------------------------------------------------------


class Leases(SchedulerPlugin):
    """Tells workers to let go of the models that a client used, as soon as it leaves."""

    name = "xspinn-leases"
    idempotent = True

    def __init__(self) -> None:
        self.leases: dict[str, set[str]] = {}

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
        if gone and scheduler.status.name == "running":
            call = {"function": dumps(_let_go), "args": dumps((sorted(gone),)), "op": "run"}
            scheduler._ongoing_background_tasks.call_soon(scheduler.broadcast, msg=call)


def _models(tasks: Iterable[Any]) -> set[str]:
    """Return the models that are built by some of these tasks, on whatever device."""
    names = (task for task in tasks if isinstance(task, str) and task.startswith(TASK))
    return {name[: len(TASK) + LENGTH] for name in names}


def _let_go(tasks: list[str]) -> None:
    """Forget models, on a worker."""
    for release in when_released:
        release(*(task.removeprefix(TASK) for task in tasks))


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
