"""Where ways of calling a model are measured, and the memory of what was chosen.

A choice is made once a job: here, or on one worker of the cluster that will run it. It is kept on
disk by the model's hash, the patch and the kind of machine, so that the next run, in this process
or another, chooses the same. Schedulers unpickle what is sent to workers without running it, so
torch is imported where something is measured and not before.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pooch

from xspinn.carriers import Shared, prepare
from xspinn.tuning import Asked, Choice, Tuning

if TYPE_CHECKING:
    from xspinn.models.base import Model

__all__ = ["choose", "folder"]

VERSION = 1
"""Grows when choices that were made before should be made anew."""

WORTH = 5e11
"""Operations of a job from which on a model may be worth measuring, counted as if each weight were
used for each voxel: some seconds of a CPU. Most models use fewer, so this comes first, costs
nothing, and is the same for everyone; the clock decides after it."""

_chosen: dict[str, Choice] = {}


def folder() -> Path:
    """Return the folder that choices are kept in.

    It is ``tuning`` in the folder that the environment variable ``XSPINN_CACHE`` names, or else in
    the user's cache; it may be removed at any time.
    """
    base = os.environ.get("XSPINN_CACHE") or pooch.os_cache("xspinn")
    return Path(base) / "tuning"


def choose(model: Model, asked: Asked, lazy: bool) -> Choice:
    """Return the batch and the tuning for a job: as it was chosen before, or measured now.

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
    if work < WORTH and asked.precision == "float32":
        return Choice(asked.usual, Tuning())
    client = _client() if lazy else None
    key = _key(model, asked, _kind(client, asked.device))
    if key not in _chosen:
        _chosen[key] = _read(key) or _measured(client, model, asked)
        _write(key, _chosen[key])
    return _chosen[key]


def _key(model: Model, asked: Asked, kind: str) -> str:
    facts = {k: v for k, v in asdict(asked).items() if k not in ("patches", "workers")}
    # Whether it is worth compiling depends on the job: one choice for each order of its size.
    facts["scale"] = round(math.log10(asked.patches))
    parts = [VERSION, model.key, type(model).__name__, facts, kind]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


# -- here or there ---------------------------------------------------------------------------


def _client() -> Any:
    """Return the client whose cluster will run the job, if there is one that can be asked now."""
    from dask import config

    distributed = sys.modules.get("distributed")
    if distributed is None or config.get("scheduler", None) not in (None, "dask.distributed"):
        return None
    with contextlib.suppress(ValueError):
        distributed.get_worker()
        return None  # on a worker already
    with contextlib.suppress(ValueError):
        client = distributed.default_client()
        if not client.asynchronous and client.scheduler_info(n_workers=1)["workers"]:
            return client
    return None


def _kind(client: Any, device: str | None) -> str:
    if client is None:
        return _kind_here(device)
    kind: str = client.submit(_kind_here, device, pure=False).result()
    return kind


def _kind_here(device: str | None) -> str:
    from xspinn.devices import machine_kind

    return machine_kind(device)


def _measured(client: Any, model: Model, asked: Asked) -> Choice:
    if client is None:
        return _measure_here(Shared(model), asked)
    prepare()
    asked = replace(asked, workers=len(client.scheduler_info(n_workers=-1)["workers"]))
    choice: Choice = client.submit(_measure_here, Shared(model), asked, pure=False).result()
    return choice


def _measure_here(shared: Shared, asked: Asked) -> Choice:
    from xspinn.tuner import measure

    return measure(shared.model, asked)


# -- on disk ---------------------------------------------------------------------------------


def _read(key: str) -> Choice | None:
    """Return what was chosen before; None where nothing was, or it cannot be read."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        held = json.loads((folder() / f"{key}.json").read_text())
        return Choice(int(held["batch"]), Tuning(**held["tuning"]))
    return None


def _write(key: str, choice: Choice) -> None:
    """Keep a choice; where the folder cannot be written to, this process remembers it."""
    with contextlib.suppress(OSError):
        folder().mkdir(parents=True, exist_ok=True)
        part = folder() / f"{key}.{uuid4().hex}.part"
        part.write_text(json.dumps(asdict(choice)))
        part.replace(folder() / f"{key}.json")  # at once, whoever reads or writes it too
