"""Where ways of calling a model are measured, and by whom.

A choice is made once a job: here, or on one worker of the cluster that will run it. It is kept on
disk by the model's hash, the patch and the kind of machine, so that the next run, in this process
or another, chooses the same. Schedulers unpickle what is sent to workers without running it, so
torch is imported where something is measured and not before.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from xspinn.carriers.prepare import prepare_carriers
from xspinn.carriers.shared import Shared
from xspinn.machine.locks import KeyedLocks
from xspinn.machine.nesting import inside_turn
from xspinn.machine.worker import this_worker
from xspinn.plans.tuning import Asked, Choice, Tuning
from xspinn.tuning import record

if TYPE_CHECKING:
    from xspinn.models.base import Model

__all__ = ["choose"]

logger = logging.getLogger(__name__)

VERSION = 1
"""Grows when choices that were made before should be made anew."""

MIN_OPERATIONS = 5e11
"""Of a job from which on a model may be worth measuring, counted as if each weight were used for
each voxel: some seconds of a CPU. Most models use fewer, so this comes first, costs nothing, and is
the same for everyone; the clock decides after it."""

ANSWER_SECONDS = 30.0
"""To wait for a worker to say what kind of machine it is."""

MEASURE_SECONDS = 600.0
"""To wait for a worker to measure."""

_chosen: dict[str, Choice] = {}
_locks: KeyedLocks[str] = KeyedLocks()


def choose(model: Model, asked: Asked, lazy: bool) -> Choice:
    """Return the batch and the tuning for a job: as it was chosen before, or measured now.

    Threads that ask for one job wait for the first of them; those that ask for others do not.

    Parameters
    ----------
    model : Model
    asked : Asked
    lazy : bool
        Whether the job may run on a cluster; an array in memory is computed here.

    Returns
    -------
    Choice
    """
    weights = model.n_bytes / 4
    work = 2 * weights * math.prod(asked.shape[1:]) * asked.patches
    if work < MIN_OPERATIONS and asked.precision == "float32":
        return Choice(asked.usual, Tuning())
    try:
        if inside_turn():
            raise _NobodyThereError("a model's own call asks, and has its turn")
        client = _client() if lazy else None
        kind = _kind(client, asked.device)
        key = _key(model, asked, kind)
        with _locks.of(key):
            if key not in _chosen:
                _chosen[key] = record.recall(key) or _measured(client, model, asked, key)
            return _chosen[key]
    except _NobodyThereError as reason:
        logger.info("%s is called with torch's defaults: %s", model.name, reason)
        precision = "float32" if asked.precision == "auto" else asked.precision
        return Choice(asked.usual, Tuning(precision=precision))


class _NobodyThereError(Exception):
    """Whoever will run the job cannot be asked now; nothing is measured in the wrong place."""


def _key(model: Model, asked: Asked, kind: str) -> str:
    facts = {k: v for k, v in asdict(asked).items() if k not in ("patches", "workers")}
    # What is worth a try depends on how long the job is.
    facts["scale"] = round(math.log2(asked.patches))
    parts = [VERSION, model.key, type(model).__name__, facts, kind]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


# -- here or there ---------------------------------------------------------------------------


def _client() -> Any:
    """Return the client whose cluster will run the job, if there is one; None if it runs here."""
    from dask import config

    distributed = sys.modules.get("distributed")
    if distributed is None:
        return None
    chosen = config.get("scheduler", None)
    if isinstance(chosen, distributed.Client):
        client = chosen
    elif chosen in (None, "distributed", "dask.distributed"):
        if this_worker() is not None:
            return None
        try:
            client = distributed.default_client()
        except ValueError:
            return None
    else:
        return None
    if client.asynchronous:
        raise _NobodyThereError("its client is asynchronous")
    if not client.scheduler_info(n_workers=1)["workers"]:
        raise _NobodyThereError("the cluster has no workers yet")
    return client


_kinds: dict[tuple[str, str | None], str] = {}


def _kind(client: Any, device: str | None) -> str:
    if client is None:
        try:
            return _kind_here(device)
        except (RuntimeError, AssertionError) as error:  # no such device here; maybe where it runs
            raise _NobodyThereError(str(error)) from error
    place = (client.id, device)
    if place not in _kinds:
        _kinds[place] = _there(client, ANSWER_SECONDS, _kind_here, device)
    return _kinds[place]


def _there(client: Any, patience: float, function: Callable[..., Any], *args: Any) -> Any:
    """Ask a worker, before all that waits for it."""
    future = client.submit(function, *args, pure=False, priority=1000)
    try:
        return future.result(timeout=patience)
    except TimeoutError as error:
        future.cancel()
        raise _NobodyThereError("all workers are busy") from error


def _kind_here(device: str | None) -> str:
    from xspinn.machine.devices import machine_kind

    return machine_kind(device)


def _measured(client: Any, model: Model, asked: Asked, key: str) -> Choice:
    """Measure, keep what was found, and return what is kept: whoever else was first."""
    logger.info("measuring how %s is called fastest, once for this kind of job", model.name)
    if client is None:
        return record.keep(key, _measure_here(Shared(model), asked))
    prepare_carriers()
    asked = replace(asked, workers=len(client.scheduler_info(n_workers=-1)["workers"]))
    return record.keep(key, _there(client, MEASURE_SECONDS, _measure_here, Shared(model), asked))


def _measure_here(shared: Shared, asked: Asked) -> Choice:
    from xspinn.tuning.measuring import measure

    return measure(shared.model, asked)
