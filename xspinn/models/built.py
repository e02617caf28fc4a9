"""Built models, once per process and device however many threads ask."""

from __future__ import annotations

import contextlib
import threading
from typing import Any, NamedTuple, TypeAlias

import torch

from xspinn.carriers.content import no_memory_of
from xspinn.carriers.names import short, when_released
from xspinn.machine.locks import KeyedLocks
from xspinn.machine.memory import Latest, host_memory
from xspinn.models.base import Built, Model
from xspinn.options import get_options
from xspinn.plans.tuning import Tuning

__all__ = ["builds", "built_model", "release"]


class _Kept(NamedTuple):
    ready: Built
    n_bytes: int


_Name: TypeAlias = tuple[Any, ...]
"""A model's key, and in what way it was built."""

_built: dict[str, Latest[_Name, _Kept]] = {}
"""For every device its built models."""

_contents: dict[str, str] = {}
"""Where the bytes of models are, by what stands for a model in the names of tasks."""

_locks: KeyedLocks[tuple[_Name, str]] = KeyedLocks()
_lock = threading.RLock()
_builds = 0


def built_model(model: Model, device: torch.device, tuning: Tuning | None = None) -> Built:
    """Return a model on a device, built by the first thread that asks; the others wait for it."""
    global _builds
    _contents[short(model.key)] = model.content.key
    if not model.kept:
        return model.load(device)
    place = str(device)
    tuning = tuning or Tuning()
    name = (model.key, *(tuning.built if model.tunes else ()))
    with _locks.of((name, place)):
        with _lock, contextlib.suppress(KeyError):
            return _built[place][name].ready
        ready = model.load(device, tuning)
        with _lock:
            _builds += 1
            if place not in _built:
                _built[place] = Latest(lambda: _budget(device), lambda kept: kept.n_bytes)
            _built[place][name] = _Kept(ready, model.n_bytes)
        return ready


def _budget(device: torch.device) -> int:
    """Bytes of models that a device keeps."""
    asked: int | None = get_options()["model_bytes"]
    if asked is not None:
        return asked
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory // 2)
    return host_memory() // 4


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
        for kept in _built.values():
            for way in [way for way in kept if not names or short(way[0]) in names]:
                del kept[way]
        for name in names or list(_contents):
            no_memory_of(_contents.pop(name, ""))


when_released.append(release)
