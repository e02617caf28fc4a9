"""The workers' side of distributed: bytes come in shards, from the client or from other workers.

A worker looks which shards are on the cluster, and asks for the others by an event that the client
answers; see `xspinn.carriers.cluster`. It offers what it took to other workers, and keeps the whole
in memory of its own, so nothing arrives twice.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from distributed import CancelledError, Client, Future, Worker, get_client, get_worker

from xspinn.errors import ModelError
from xspinn.hooks.distributed import future_of

if TYPE_CHECKING:
    from xspinn.carriers.content import Buffer

__all__ = ["Scattered", "names_held", "place_of", "refuse", "shard_names", "topic"]

SHARD_BYTES = 16 * 2**20
"""Sent in one go: some milliseconds of a scheduler's time."""

PATIENCE_SECONDS = 120.0
"""Without a new shard, after which a worker gives up."""

FIRST_PAUSE_SECONDS, LAST_PAUSE_SECONDS = 0.02, 0.5
"""Between two looks for shards, at first and at last."""

ASK_AGAIN_SECONDS = 5.0
"""Between two requests."""


# -- what both sides know --------------------------------------------------------------------


def topic(key: str) -> str:
    """Name the events by which workers ask for a model."""
    return f"xspinn-wanted-{key}"


def shard_names(key: str, n_bytes: int) -> list[str]:
    """Name the shards of a model, in order."""
    return [f"spinn-weights-{key[:32]}-{k}" for k in range(-(-n_bytes // SHARD_BYTES))]


def place_of(at: int) -> slice:
    """Return where in the whole a shard lies."""
    return slice(at * SHARD_BYTES, (at + 1) * SHARD_BYTES)


def names_held(names: Collection[str], dask_scheduler: Any) -> list[str]:
    """Return which shards some worker holds; runs on the scheduler, which puts itself in."""
    tasks = dask_scheduler.tasks
    return [name for name in names if name in tasks and tasks[name].who_has]


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
        return _gather(get_client(), worker, self)


def _gather(client: Client, worker: Worker, wanted: Scattered) -> Buffer:
    """Put shards together as they become available, and ask for them while there are none."""
    _refused.pop(wanted.key, None)
    whole = np.empty(wanted.n_bytes, np.uint8)
    missing = {name: at for at, name in enumerate(shard_names(wanted.key, wanted.n_bytes))}
    offered: list[Future[Any]] = []  # shards stay on the cluster until the whole is here
    came, asked, pause = time.monotonic(), -np.inf, FIRST_PAUSE_SECONDS
    while missing:
        if _copy_own(worker, missing, whole):
            came, pause = time.monotonic(), FIRST_PAUSE_SECONDS
            continue
        there: list[str] = client.run_on_scheduler(names_held, list(missing))
        if there:
            name = random.choice(there)  # so that workers soon have different ones
            future = _taken(client, name, whole[place_of(missing[name])])
            if future is not None:
                offered.append(future)
                del missing[name]
                came, pause = time.monotonic(), FIRST_PAUSE_SECONDS
                continue
        now = time.monotonic()
        if wanted.key in _refused and now - came > ASK_AGAIN_SECONDS:
            raise ModelError(_refused.pop(wanted.key))  # no other client answered either
        if now - came > PATIENCE_SECONDS:
            raise ModelError(
                f"no worker has them, and no client answered for {PATIENCE_SECONDS:.0f} s: keep "
                "the client open that called predict"
            )
        if not there and now - asked > ASK_AGAIN_SECONDS:
            client.log_event(topic(wanted.key), {"worker": worker.address})
            asked = now
        time.sleep(pause)
        pause = min(2 * pause, LAST_PAUSE_SECONDS)
    return whole


def _copy_own(worker: Worker, missing: dict[str, int], whole: Buffer) -> bool:
    """Put shards into place that a client scattered to this very worker; tell if there were any.

    They come first and all at once: as soon as another worker has a shard too, distributed may let
    this one forget it, and then it would have to come back.
    """
    own = [name for name in missing if name in worker.data]
    for name in own:
        with contextlib.suppress(KeyError):  # forgotten in this moment
            whole[place_of(missing[name])] = cast("Buffer", worker.data[name])
            del missing[name]
    return bool(own)


_refused: dict[str, str] = {}
"""Why a client did not hand out what this worker asked for."""


def refuse(key: str, why: str) -> None:
    """Note that a client does not hand out a model, and why."""
    _refused[key] = why


def _taken(client: Client, name: str, place: Buffer) -> Future[Any] | None:
    """Copy a shard into its place, and offer it to other workers from there; None if it is gone."""
    try:
        place[:] = client.gather(future_of(name, client))
    except CancelledError:
        return None
    offered: dict[str, Future[Any]] = client.scatter({name: place}, hash=False)
    return offered[name]  # in a task, to the task's own worker
