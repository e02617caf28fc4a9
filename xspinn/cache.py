"""Built models, once per process and device however many threads ask."""

from __future__ import annotations

import threading
from collections import OrderedDict

import torch

from xspinn.models.base import Built, Model

__all__ = ["builds", "built_model", "clear"]

KEPT = 4
"""Built models that a process keeps; the least recently used leave first."""

_built: OrderedDict[tuple[str, str], Built] = OrderedDict()
_locks: dict[tuple[str, str], threading.Lock] = {}
_lock = threading.Lock()
_builds = 0


def built_model(model: Model, device: torch.device) -> Built:
    """Return a model on a device, built by the first thread that asks; the others wait for it."""
    global _builds
    if not model.kept:
        return model.build(device)
    key = (model.key, str(device))
    with _lock:
        lock = _locks.setdefault(key, threading.Lock())
    with lock:
        with _lock:
            if key in _built:
                _built.move_to_end(key)
                return _built[key]
        ready = model.build(device)
        with _lock:
            _builds += 1
            _built[key] = ready
            while len(_built) > KEPT:
                old, _ = _built.popitem(last=False)
                _locks.pop(old, None)
        return ready


def builds() -> int:
    """Return how many models this process has built since it started."""
    return _builds


def clear() -> None:
    """Forget all built models of this process."""
    with _lock:
        _built.clear()
        _locks.clear()
