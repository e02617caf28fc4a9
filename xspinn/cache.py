"""Built models, once per process and device however many threads ask."""

from __future__ import annotations

import contextlib
import threading
from typing import NamedTuple

import psutil
import torch
from zict import LRU

from xspinn.carriers import short
from xspinn.models.base import Built, Model
from xspinn.models.content import no_memory_of
from xspinn.options import get_options

__all__ = ["builds", "built_model", "release"]


class _Kept(NamedTuple):
    ready: Built
    n_bytes: int
    content: str


_built: dict[str, LRU[str, _Kept]] = {}
"""For every device its built models, by key."""

_locks: dict[tuple[str, str], threading.Lock] = {}
_lock = threading.RLock()
_builds = 0


def built_model(model: Model, device: torch.device) -> Built:
    """Return a model on a device, built by the first thread that asks; the others wait for it."""
    global _builds
    if not model.kept:
        return model.load(device)
    place = str(device)
    with _lock:
        lock = _locks.setdefault((model.key, place), threading.Lock())
    with lock:
        with _lock, contextlib.suppress(KeyError):
            return _built[place][model.key].ready
        ready = model.load(device)
        with _lock:
            _builds += 1
            _keep(place, model, ready, device)
        return ready


def _keep(place: str, model: Model, ready: Built, device: torch.device) -> None:
    """Keep a built model; the least recently used leave where all need more than the budget."""
    kept = _built.get(place)
    if kept is None:
        kept = _built[place] = LRU(0, {}, weight=lambda _, held: held.n_bytes)
    kept.n = _budget(device)
    kept.set_noevict(model.key, _Kept(ready, model.n_bytes, model.content.key))
    while kept.total_weight > kept.n and len(kept) > 1:  # the one in use stays, however large
        kept.evict(next(iter(kept.order)))


def _budget(device: torch.device) -> int:
    """Bytes of models that a device keeps."""
    asked: int | None = get_options()["model_bytes"]
    if asked is not None:
        return asked
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory // 2)
    return psutil.virtual_memory().total // 4


def builds() -> int:
    """Return how many models this process has built since it started."""
    return _builds


def release(*names: str) -> None:
    """Forget models on all devices, and their bytes if a carrier brought them.

    Parameters
    ----------
    *names : str
        What stands for them in the names of tasks; all models if there are none.
    """
    with _lock:
        for place, kept in _built.items():
            for key in [key for key in kept if not names or short(key) in names]:
                no_memory_of(kept.pop(key).content)
                _locks.pop((key, place), None)
